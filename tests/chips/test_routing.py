"""What does not fit the grid gets SWAPs, keeps its angles, and is read out in the right order."""

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from toy_chips import chain, linked, make_chip, probabilities_of, ring, star

from qpeft.backends.registry import get_backend
from qpeft.chips.calibration import are_neighbours
from qpeft.chips.native import ControlledZ, compile_native
from qpeft.chips.programs import Program
from qpeft.chips.routing import fit_to_chip, route_circuit
from qpeft.circuits import Circuit, Gate, Input, Weight, ZProduct
from qpeft.errors import ConfigError

pytest.importorskip("qiskit")

LOPSIDED = Circuit(
    4,
    (
        Gate("RY", (0,), Input(1)),
        Gate("RY", (3,), Input(0)),
        Gate("CRZ", (0, 2), Weight(0)),
        Gate("H", (1,)),
        Gate("CNOT", (1, 3)),
        Gate("RZZ", (0, 1), Weight(1)),
        Gate("CRZ", (2, 1), Weight(2)),
        Gate("RX", (1,), Weight(3)),
        Gate("CNOT", (3, 0)),
        Gate("RY", (2,), Weight(0)),
        Gate("CNOT", (2, 3)),
    ),
    "lopsided",
)


def exact_probabilities(circuit: Circuit, angles: torch.Tensor) -> np.ndarray:
    """Outcome probabilities from the expectations of all products of Z, qubit 0 leftmost."""
    n = circuit.n_qubits
    subsets = [
        ZProduct(tuple(q for q in range(n) if mask >> (n - 1 - q) & 1)) for mask in range(2**n)
    ]
    inputs, weights = angles[None, : circuit.n_inputs], angles[circuit.n_inputs :]
    values = get_backend("reference").bind(circuit, subsets, weights)(inputs)[0]
    signs = torch.tensor(
        [[s.sign(b, n) for s in subsets] for b in range(2**n)], dtype=torch.float64
    )
    return (signs @ values / 2**n).numpy()


def routed_probabilities(
    circuit: Circuit, angles: torch.Tensor, height: int, width: int
) -> np.ndarray:
    """Outcome probabilities of the routed circuit, in the original's order of qubits."""
    from qpeft.chips.native import u3_angles
    from qpeft.chips.programs import CZ, U3

    routed = route_circuit(circuit, height, width)
    native = compile_native(routed.circuit)
    turns = iter(u3_angles(native, angles[None])[0].tolist())
    gates = [
        CZ(*op.qubits) if isinstance(op, ControlledZ) else U3(op.qubit, *next(turns))
        for op in native.ops
    ]
    program = Program(native.n_qubits, tuple(gates), routed.readout)
    return probabilities_of(program, program.measured)


@pytest.mark.parametrize(
    ("circuit", "size"),
    [
        (LOPSIDED, (2, 2)),
        (LOPSIDED, (1, 4)),
        (LOPSIDED, (2, 3)),
        (ring(3), (1, 3)),
        (ring(5), (2, 3)),
    ],
)
def test_a_routed_circuit_has_the_same_outcomes(circuit: Circuit, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(7)
    n_angles = circuit.n_inputs + circuit.n_weights
    angles = 3 * torch.rand(n_angles, generator=generator, dtype=torch.float64)
    expected = exact_probabilities(circuit, angles)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(routed_probabilities(circuit, angles, *size), expected, atol=1e-10)


@pytest.mark.parametrize("circuit", [LOPSIDED, ring(3), ring(5), ring(7), star(6), star(7)])
def test_a_routed_circuit_couples_neighbours_only(circuit: Circuit) -> None:
    chip = make_chip(dead_couplers=[(0, 1), (14, 26), (30, 31)], dead_qubits=[50])
    fitted = fit_to_chip(circuit, chip)
    assert sorted(set(fitted.readout)) == sorted(fitted.readout)
    assert len(fitted.readout) == circuit.n_qubits
    for place in fitted.places:
        for a, b in fitted.native.couplings:
            pair = tuple(sorted((place.qubits[a], place.qubits[b])))
            assert are_neighbours(chip.shape, *pair)
            assert chip.couplers[pair] > 0
    assert fitted.native.n_angles == compile_native(circuit).n_angles


def test_what_fits_the_grid_is_not_routed() -> None:
    for circuit in (ring(4), chain(5), star(5)):
        fitted = fit_to_chip(circuit, make_chip())
        assert fitted.native == compile_native(circuit)
        assert fitted.readout == tuple(range(circuit.n_qubits))


def test_routing_the_same_twice_gives_the_same() -> None:
    once = route_circuit(ring(7), 2, 4)
    route_circuit.cache_clear()
    assert route_circuit(ring(7), 2, 4) == once


def test_the_best_of_several_rectangles_is_taken() -> None:
    fitted = fit_to_chip(ring(5), make_chip())
    on_a_line = compile_native(route_circuit(ring(5), 1, 5).circuit)

    def n_czs(ops: Any) -> int:
        return sum(isinstance(op, ControlledZ) for op in ops)

    assert n_czs(fitted.native.ops) < n_czs(on_a_line.ops)


def test_a_circuit_larger_than_the_chip_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 qubits, but chip 'toy' has 4 live ones"):
        fit_to_chip(ring(5), make_chip(2, 2))


def test_a_chip_without_live_couplers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no place on chip 'toy'"):
        fit_to_chip(ring(3), make_chip(seed=1), min_cz_fidelity=0.999)


def test_without_qiskit_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_qiskit(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "qiskit":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_qiskit)
    route_circuit.cache_clear()
    assert fit_to_chip(ring(4), make_chip()).places
    with pytest.raises(ImportError, match=r"pip install 'qpeft\[qiskit\]'"):
        fit_to_chip(linked(3, [(0, 1), (1, 2), (0, 2)]), make_chip())
