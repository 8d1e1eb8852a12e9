"""The noisy chip a second time: qiskit-aer's density matrices and its own noise, from T1, T2, times, fidelities.

The sequence of native gates is ours; how long a qubit waits, how much a gate depolarises and what the noise does
is worked out here again, with Aer's functions.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from qiskit import QuantumCircuit
from qiskit.quantum_info import Kraus, SuperOp, average_gate_fidelity
from qiskit_aer import AerSimulator
from qiskit_aer.noise import (
    ReadoutError,
    depolarizing_error,
    thermal_relaxation_error,
)
from scipy.optimize import brentq
from torch import Tensor

from qpeft.chips.calibration import Calibration, QubitQuality
from qpeft.chips.native import NativeCircuit, Turn
from qpeft.circuits import ZProduct


@cache
def relaxation(quality: QubitQuality, nanoseconds: float) -> Kraus:
    error = thermal_relaxation_error(1000 * quality.t1_us, 1000 * quality.t2_us, nanoseconds)
    return Kraus(error)


@cache
def depolarising(probability: float, n_qubits: int) -> Kraus:
    return Kraus(depolarizing_error(probability, n_qubits))


@cache
def gate_noise(
    qualities: tuple[QubitQuality, ...], wanted: float, longest: float
) -> tuple[float, float]:
    """Return for how long relaxation acts behind a gate and with which probability it depolarises.

    Both are found by a root finder on qiskit's average gate fidelity.
    """

    def excess(nanoseconds: float, probability: float) -> float:
        channel = SuperOp(relaxation(qualities[0], nanoseconds))
        for quality in qualities[1:]:
            channel = SuperOp(relaxation(quality, nanoseconds)).tensor(channel)
        channel = channel.compose(SuperOp(depolarising(probability, len(qualities))))
        return average_gate_fidelity(channel) - wanted

    if excess(longest, 0.0) < 0:
        return brentq(lambda t: excess(t, 0.0), 0.0, longest, xtol=1e-9), 0.0
    return longest, brentq(lambda p: excess(longest, p), 0.0, 0.5, xtol=1e-12)


def aer_expectations(
    native: NativeCircuit,
    angles: Tensor,
    place: Sequence[int],
    chip: Calibration,
    observables: Sequence[ZProduct],
    *,
    has_idle_noise: bool = True,
) -> np.ndarray:
    """Return (rows, n_observables) of angles (rows, n_angles), read-out errors included."""
    behind = {}
    for op in native.ops:
        if isinstance(op, Turn):
            quality = chip.qubits[place[op.qubit]]
            behind[op.qubit,] = gate_noise((quality,), quality.gate_fidelity, chip.gate_ns)
        else:
            pair = [place[qubit] for qubit in op.qubits]
            qualities = tuple(chip.qubits[qubit] for qubit in pair)
            behind[op.qubits] = gate_noise(qualities, chip.cz_fidelity(*pair), chip.cz_ns)
    circuits = [
        _circuit(native, row, place, chip, behind, has_idle_noise) for row in angles.tolist()
    ]
    result = AerSimulator(method="density_matrix").run(circuits).result()
    confusion = np.ones((1, 1))
    for qubit in place:
        quality = chip.qubits[qubit]
        rows = [
            [quality.readout_0, 1 - quality.readout_0],
            [1 - quality.readout_1, quality.readout_1],
        ]
        # Its entry [true, read]; the last qubit of Aer is the leftmost bit.
        confusion = np.kron(ReadoutError(rows).probabilities, confusion)
    values = []
    for index in range(len(circuits)):
        known = np.real(np.diag(np.asarray(result.data(index)["density_matrix"])))
        read = known @ confusion
        signs = [
            [(-1) ** sum(state >> q & 1 for q in o.qubits) for o in observables]
            for state in range(len(read))
        ]
        values.append(read @ np.array(signs))
    return np.array(values)


def _circuit(
    native: NativeCircuit,
    angles: list[float],
    place: Sequence[int],
    chip: Calibration,
    behind: dict[tuple[int, ...], tuple[float, float]],
    has_idle_noise: bool,
) -> QuantumCircuit:
    circuit = QuantumCircuit(native.n_qubits)
    ends: dict[int, float] = {}

    def wait(qubit: int, until: float) -> None:
        if has_idle_noise and until > ends[qubit]:
            circuit.append(relaxation(chip.qubits[place[qubit]], until - ends[qubit]), [qubit])

    for op in native.ops:
        qubits = (op.qubit,) if isinstance(op, Turn) else op.qubits
        start = max(ends.get(qubit, 0.0) for qubit in qubits)
        for qubit in qubits:
            if qubit in ends:
                wait(qubit, start)
        if isinstance(op, Turn):
            for factor in op.factors:
                if factor.column is None:
                    circuit.h(op.qubit)
                else:
                    rotate = getattr(circuit, f"r{factor.axis.lower()}")
                    rotate(factor.scale * angles[factor.column], op.qubit)
        else:
            circuit.cz(*qubits)
        time, probability = behind[qubits]
        for qubit in qubits:
            circuit.append(relaxation(chip.qubits[place[qubit]], time), [qubit])
        circuit.append(depolarising(probability, len(qubits)), qubits)
        duration = chip.gate_ns if isinstance(op, Turn) else chip.cz_ns
        ends.update(dict.fromkeys(qubits, start + duration))
    for qubit in ends:
        wait(qubit, max(ends.values()))
    circuit.save_density_matrix()
    return circuit
