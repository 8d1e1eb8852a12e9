"""The circuits of the conformance kit, what is right for them, and how far a right answer may be away.

Every circuit is asymmetric under a change of qubit order. Several have one certain outcome, which noise may blur
but not turn into another.
"""

import math

import numpy as np
import torch

from qpeft.backends.reference_sim import ReferenceBackend
from qpeft.chips.native import compile_native
from qpeft.circuits import Circuit, Gate, Input, Weight, ZProduct
from qpeft.circuits.circuit import Angle
from qpeft.circuits.gates import GATES

# What an operation of today's chips does wrong at most, as a probability; worse machines are not worth a check.
ERROR_PER_TURN = 0.01
ERROR_PER_CZ = 0.06
ERROR_PER_READOUT = 0.10


def gate_circuit(name: str, n_qubits: int = 3) -> Circuit:
    """Return a circuit in which one gate meets complex amplitudes on unequal qubits and is seen by every read-out.

    Args:
        name: A key of `GATES`.
        n_qubits: 2 for one use of the gate, 3 for two uses, with angles from data and from weights.
    """
    kind = GATES[name]
    gates = [Gate("RY", (q,), Input(q)) for q in range(n_qubits)]
    n_weights = 0

    def turn_all(axes: tuple[str, ...]) -> None:
        nonlocal n_weights
        for qubit in range(n_qubits):
            gates.append(Gate(axes[qubit % len(axes)], (qubit,), Weight(n_weights)))
            n_weights += 1

    def use(qubits: tuple[int, ...], angle: Angle) -> None:
        gates.append(Gate(name, qubits[: kind.n_qubits], angle if kind.has_angle else None))

    turn_all(("RX", "RZ", "RX"))
    use((n_qubits - 1, 0), Weight(n_weights))
    n_weights += 1 if kind.has_angle else 0
    turn_all(("RY", "RX"))
    if n_qubits > 2:
        use((0, 1), Input(n_qubits))
        turn_all(("RX", "RY"))
    return Circuit(n_qubits, tuple(gates), f"gate {name}")


def basis_circuit(n_qubits: int) -> Circuit:
    """Return RY of data on each qubit: angles 0 and pi make any basis state."""
    gates = tuple(Gate("RY", (qubit,), Input(qubit)) for qubit in range(n_qubits))
    return Circuit(n_qubits, gates, "basis state")


def basis_angles(states: np.ndarray, n_qubits: int) -> np.ndarray:
    """Return (n_states, n_qubits) angles with which `basis_circuit` makes these basis states."""
    bits = states[:, None] >> np.arange(n_qubits - 1, -1, -1) & 1
    return math.pi * bits.astype(np.float64)


def certain_circuits() -> list[tuple[Circuit, tuple[float, ...], int]]:
    """Return circuits on two qubits with their angles and the one basis state in which each ends.

    A rotation of the wrong sign, or a control and a target exchanged, ends in another state with certainty.
    """
    half, full = math.pi / 2, math.pi
    a, b, c = Weight(0), Weight(1), Weight(2)
    rows: list[tuple[str, list[Gate], tuple[float, ...], int]] = [
        ("RY turns Z to X", [Gate("RY", (0,), a), Gate("H", (0,))], (half,), 0b00),
        # |0> to -y, which a turn of pi/2 about z takes to +x
        (
            "RX and RZ turn alike",
            [Gate("RX", (1,), a), Gate("RZ", (1,), b), Gate("H", (1,))],
            (half, half),
            0b00,
        ),
        # |1>|+>: the controlled half turn takes +x to +y, and RX takes +y to +z
        (
            "CRZ turns as RX does",
            [
                Gate("RY", (0,), a),
                Gate("H", (1,)),
                Gate("CRZ", (0, 1), b),
                Gate("RX", (1,), c),
            ],
            (full, full / 2, half),
            0b10,
        ),
        # With qubit 0 in |1>, ZZ turns qubit 1 backwards: +x to -y, and RX takes -y to -z
        (
            "RZZ turns as RX does",
            [
                Gate("RY", (0,), a),
                Gate("H", (1,)),
                Gate("RZZ", (0, 1), b),
                Gate("RX", (1,), c),
            ],
            (full, half, half),
            0b11,
        ),
        ("CNOT has its control first", [Gate("RY", (0,), a), Gate("CNOT", (0, 1))], (full,), 0b11),
        ("CNOT keeps its control", [Gate("RY", (1,), a), Gate("CNOT", (0, 1))], (full,), 0b01),
        (
            "CZ flips the phase of 11",
            [Gate("RY", (0,), a), Gate("H", (1,)), Gate("CZ", (0, 1)), Gate("H", (1,))],
            (full,),
            0b11,
        ),
    ]
    return [(Circuit(2, tuple(gates), name), angles, state) for name, gates, angles, state in rows]


def random_angles(circuit: Circuit, n_rows: int, seed: int) -> np.ndarray:
    """Return (n_rows, n_inputs + n_weights) angles in radians, spread over more than a full turn."""
    generator = np.random.default_rng([seed, len(circuit.gates), circuit.n_qubits])
    return generator.uniform(-4.0, 4.0, (n_rows, circuit.n_inputs + circuit.n_weights))


def split_angles(circuit: Circuit, angles: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs (rows, 1, n_inputs) and weights (rows, n_weights): each row is a block of one row."""
    tensor = torch.from_numpy(np.ascontiguousarray(angles, dtype=np.float64))
    return tensor[:, None, : circuit.n_inputs], tensor[:, circuit.n_inputs :]


def reference_distributions(circuit: Circuit, angles: np.ndarray) -> np.ndarray:
    """Return the exact distributions (n_circuits, 2^n) from the reference's products of Z.

    p(b) is the mean over all sets S of qubits of (-1)^(number of 1 bits of b in S) <Z on S>.
    """
    n = circuit.n_qubits
    sets = [tuple(q for q in range(n) if mask >> q & 1) for mask in range(2**n)]
    observables = [ZProduct(qubits) for qubits in sets]
    inputs, weights = split_angles(circuit, angles)
    values = ReferenceBackend().bind(circuit, observables, weights)(inputs)[:, 0].numpy()
    signs = np.array([[each.sign(state, n) for each in observables] for state in range(2**n)])
    return (values @ signs.T / 2**n).clip(0, 1)


def noise_bound(circuit: Circuit) -> float:
    """Return how far, in total variation, noise of today's chips may move a circuit's distribution.

    An operation that is right with probability 1 - e turns the ideal distribution P into a mixture with
    (1 - e) P in it. So after all of them prod(1 - e) P is left whatever the rest is, and the distance is at most
    1 - prod(1 - e).
    """
    native = compile_native(circuit)
    n_turns = len(native.turns)
    right = (1 - ERROR_PER_TURN) ** n_turns * (1 - ERROR_PER_CZ) ** (len(native.ops) - n_turns)
    return 1 - float(right * (1 - ERROR_PER_READOUT) ** circuit.n_qubits)


def count_bounds(probabilities: np.ndarray, shots: int) -> np.ndarray:
    """Return how far each count may be from shots x p; all hold at once but for a chance of 1e-9.

    Bernstein's inequality for a binomial count, P(|k - N p| >= t) <= 2 exp(-t^2 / (2 N p (1 - p) + 2 t / 3)),
    solved for t; unlike a normal approximation it holds for rare outcomes too.
    """
    log = math.log(2 * probabilities.size / 1e-9)
    variance = shots * probabilities * (1 - probabilities)
    return log / 3 + np.sqrt(log**2 / 9 + 2 * log * variance)


def sampling_bound(n_states: int, n_circuits: int, shots: int) -> float:
    """Return how far, in total variation, sampled frequencies may be from their distribution.

    The mean distance is at most sqrt(n_states / shots) / 2, and one shot moves it by at most 1 / shots, so
    McDiarmid's inequality bounds what is above the mean; all circuits hold at once but for a chance of 1e-9.
    """
    return math.sqrt(n_states / shots) / 2 + math.sqrt(math.log(n_circuits / 1e-9) / (2 * shots))
