"""PennyLane, the reference and the exact engine give the same values and the same gradients."""

import pytest
import torch
from comparison import (
    PennyLaneBackend,
    every_gate_circuit,
    layered_circuit,
    random_angles,
    random_circuits,
    values_and_gradients,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from qpeft.backends import get_backend, torch_sim
from qpeft.backends.torch_sim import choose_form
from qpeft.circuits import (
    ANSATZE,
    Circuit,
    Gate,
    Input,
    Weight,
    ZProduct,
    build_ansatz,
    z_on_each,
)

OURS = ["reference", "exact"]


def assert_agree(
    names: tuple[object, object],
    circuit: Circuit,
    n_rows: int,
    *,
    seed: int = 0,
    tolerance: float = 1e-6,
    observables: tuple[ZProduct, ...] | None = None,
) -> None:
    """Compare two backends in float64 in values and in both gradients."""
    observables = z_on_each(circuit.n_qubits) if observables is None else observables
    inputs, weights = random_angles(circuit, n_rows, seed)
    results = [
        values_and_gradients(
            get_backend(name) if isinstance(name, str) else name,
            circuit,
            observables,
            inputs,
            weights,
        )
        for name in names
    ]
    for what, one, two in zip(("values", "for inputs", "for weights"), *results, strict=True):
        assert one.shape == two.shape, what
        torch.testing.assert_close(
            one, two, rtol=0, atol=tolerance, msg=lambda text, what=what: f"{what}: {text}"
        )


@pytest.mark.parametrize("name", OURS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(circuit=random_circuits(), seed=st.integers(0, 2**31))
def test_random_circuits_agree_with_pennylane(name: str, circuit: Circuit, seed: int) -> None:
    assert_agree((name, PennyLaneBackend()), circuit, 3, seed=seed)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("ansatz", ANSATZE)
@pytest.mark.parametrize("n_qubits", range(1, 7))
def test_every_ansatz_agrees_with_pennylane(name: str, ansatz: str, n_qubits: int) -> None:
    for n_layers in (1, 2, 3):
        circuit = build_ansatz(ansatz, n_qubits, n_layers)
        assert_agree((name, PennyLaneBackend()), circuit, 2, seed=n_layers)


@pytest.mark.parametrize("name", OURS)
def test_products_of_z_agree_with_pennylane(name: str) -> None:
    observables = (ZProduct((2, 0)), ZProduct((1,)), ZProduct((0, 1, 2, 3)))
    circuit = build_ansatz("reupload", 4, 2)
    assert_agree((name, PennyLaneBackend()), circuit, 3, observables=observables)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(circuit=random_circuits(max_qubits=7, max_gates=40), seed=st.integers(0, 2**31))
def test_random_circuits_agree_between_the_engines(circuit: Circuit, seed: int) -> None:
    assert_agree(("exact", "reference"), circuit, 3, seed=seed, tolerance=1e-10)


@pytest.mark.parametrize("n_qubits", range(1, 11))
@pytest.mark.parametrize("make", [every_gate_circuit, lambda n: layered_circuit(n, 2)])
def test_the_engines_agree_at_every_size(make: object, n_qubits: int) -> None:
    circuit = make(n_qubits)  # type: ignore[operator]
    assert_agree(("exact", "reference"), circuit, 2, tolerance=1e-10)


@pytest.mark.parametrize("ansatz", ANSATZE)
@pytest.mark.parametrize("n_qubits", [7, 8, 10])
def test_the_engines_agree_on_large_ansaetze(ansatz: str, n_qubits: int) -> None:
    assert_agree(("exact", "reference"), build_ansatz(ansatz, n_qubits, 2), 2, tolerance=1e-10)


def test_the_engines_agree_at_twelve_qubits() -> None:
    assert_agree(("exact", "reference"), build_ansatz("reupload", 12, 1), 2, tolerance=1e-10)
    assert_agree(("exact", "reference"), every_gate_circuit(12), 2, tolerance=1e-10)


@pytest.mark.parametrize("n_qubits", [2, 4])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_the_polynomial_form_agrees_with_the_reference(
    n_qubits: int, data: st.DataObject, seed: int
) -> None:
    start = [Gate("RY", (q,), Input(data.draw(st.integers(0, 3)))) for q in range(n_qubits)]
    rest = data.draw(random_circuits(n_qubits, n_qubits)).gates
    only_trained = tuple(
        Gate(gate.name, gate.qubits, Weight(gate.angle.index)) if gate.angle else gate
        for gate in rest
    )
    assert choose_form(n_qubits, is_single_upload=True) == "polynomial"
    circuit = Circuit(n_qubits, (*start, *only_trained), "single upload")
    assert_agree(("exact", "reference"), circuit, 3, seed=seed, tolerance=1e-10)


@pytest.mark.parametrize("form", ["unitary", "blocks"])
@pytest.mark.parametrize("n_qubits", [2, 5, 7])
@pytest.mark.parametrize(
    "make",
    [lambda n: layered_circuit(n, 1), every_gate_circuit]
    + [lambda n, name=name: build_ansatz(name, n, 2) for name in ANSATZE],
)
def test_each_form_has_the_values_and_gradients_of_the_reference(
    make: object, n_qubits: int, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_sim, "choose_form", lambda n, **_: form)
    circuit = make(n_qubits)  # type: ignore[operator]
    assert_agree(("exact", "reference"), circuit, 20, tolerance=1e-10)


def test_one_rule_chooses_the_form_by_size() -> None:
    sizes = {n: choose_form(n, is_single_upload=True) for n in (1, 2, 4, 6, 7, 12)}
    assert sizes == {
        1: "unitary",
        2: "polynomial",
        4: "polynomial",
        6: "unitary",
        7: "blocks",
        12: "blocks",
    }
    assert choose_form(4, is_single_upload=False) == "unitary"
