"""What a circuit is: a list of gates on numbered qubits whose angles come from data or are trained.

Frozen data without any simulator: a `Circuit` is a template, and its angles are bound by a backend.
"""

from collections import Counter
from dataclasses import dataclass, field

from qpeft.circuits.gates import GATES
from qpeft.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Input:
    """An angle that comes from data: column `index` of the inputs."""

    index: int


@dataclass(frozen=True)
class Weight:
    """An angle that is trained: entry `index` of the weights."""

    index: int


Angle = Input | Weight


@dataclass(frozen=True)
class Gate:
    """One gate of a circuit.

    Args:
        name: A key of `qpeft.circuits.gates.GATES`, for example "RY" or "CRZ".
        qubits: The qubits it acts on, the control first.
        angle: Where its angle comes from; None for a gate without one.

    Raises:
        ConfigError: The gate is unknown, or its qubits or angle do not fit it.
    """

    name: str
    qubits: tuple[int, ...]
    angle: Angle | None = None

    def __post_init__(self) -> None:
        if self.name not in GATES:
            raise ConfigError(f"Unknown gate '{self.name}'.{did_you_mean(self.name, GATES)}")
        kind = GATES[self.name]
        if len(self.qubits) != kind.n_qubits or len(set(self.qubits)) != kind.n_qubits:
            raise ConfigError(
                f"Gate {self.name} acts on {kind.n_qubits} different qubits; got {self.qubits}."
            )
        if (self.angle is not None) != kind.has_angle:
            needs = "needs an angle" if kind.has_angle else "takes no angle"
            raise ConfigError(f"Gate {self.name} {needs}; got {self.angle}.")


@dataclass(frozen=True)
class Circuit:
    """A parameterised circuit that starts in |0...0>.

    Args:
        n_qubits: Number of qubits.
        gates: The gates in the order in which they act.
        name: What a drawing or an error calls it.

    Raises:
        ConfigError: A gate acts on a qubit that is not there.

    Example:
        >>> bell = Circuit(2, (Gate("H", (0,)), Gate("CNOT", (0, 1))), "bell")
        >>> bell.n_inputs, bell.n_weights, bell.depth
        (0, 0, 2)
    """

    n_qubits: int
    gates: tuple[Gate, ...]
    name: str = "circuit"
    n_inputs: int = field(init=False, repr=False, compare=False)
    """Number of data columns that the circuit reads."""
    n_weights: int = field(init=False, repr=False, compare=False)
    """Number of trained angles."""

    def __post_init__(self) -> None:
        if self.n_qubits < 1:
            raise ConfigError(f"A circuit has at least 1 qubit; got {self.n_qubits}.")
        for gate in self.gates:
            if any(not 0 <= qubit < self.n_qubits for qubit in gate.qubits):
                raise ConfigError(
                    f"Gate {gate.name} acts on qubits {gate.qubits}, but circuit '{self.name}' has "
                    f"qubits 0 to {self.n_qubits - 1}."
                )
        # Counted once: a layer compares them with its inputs in every forward pass.
        for name, kind in (("n_inputs", Input), ("n_weights", Weight)):
            indices = [g.angle.index for g in self.gates if isinstance(g.angle, kind)]
            object.__setattr__(self, name, 1 + max(indices, default=-1))

    @property
    def depth(self) -> int:
        """Number of time steps when every gate starts as soon as its qubits are free."""
        free_at = [0] * self.n_qubits
        for gate in self.gates:
            end = 1 + max(free_at[qubit] for qubit in gate.qubits)
            for qubit in gate.qubits:
                free_at[qubit] = end
        return max(free_at)

    @property
    def angle_columns(self) -> tuple[int, ...]:
        """For each gate with an angle, in order, its column among the inputs and then the weights."""
        n_inputs = self.n_inputs
        return tuple(
            g.angle.index if isinstance(g.angle, Input) else n_inputs + g.angle.index
            for g in self.gates
            if g.angle is not None
        )

    def untied(self) -> "Circuit":
        """Return the circuit in which every gate has an angle of its own, all of them inputs.

        Its row of inputs is `row[angle_columns]` of a row of our inputs and weights: the form in which
        single angles can be shifted and in which circuits of many weights are one batch.
        """
        count = iter(range(len(self.gates)))
        gates = (
            gate if gate.angle is None else Gate(gate.name, gate.qubits, Input(next(count)))
            for gate in self.gates
        )
        return Circuit(self.n_qubits, tuple(gates), self.name)

    def count_gates(self) -> dict[str, int]:
        """Return how often each gate occurs, by gate name."""
        return dict(sorted(Counter(gate.name for gate in self.gates).items()))

    def n_uploads(self) -> int:
        """Return how often the most used data column enters (1 where data enters once)."""
        uses = Counter(g.angle.index for g in self.gates if isinstance(g.angle, Input))
        return max(uses.values(), default=0)
