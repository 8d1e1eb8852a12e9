"""The quantum layer: rows of angles in, expectation values out, as a torch module.

    inputs (..., n_groups * n_qubits)  ->  expectations (..., n_groups * n_qubits), in [-1, 1]

The circuit of each group has its own weights; groups never interact.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qpeft.backends import BoundCircuit
from qpeft.circuits import build_ansatz, z_on_each
from qpeft.errors import ConfigError, did_you_mean
from qpeft.layers.controls import ANGLE_MAPS, map_angles
from qpeft.layers.evaluation import EXACT, Evaluation

ANGLE_INITS = {"uniform": math.pi, "small": 0.1}
"""Half-width of the interval, in radians, from which each kind of start draws the angles."""


class QuantumLayer(nn.Module):
    """A parameterised circuit with <Z> read out on every qubit.

    Args:
        width: Number of inputs and outputs, r.
        n_layers: Circuit layers L.
        ansatz: A key of `qpeft.circuits.ANSATZE`.
        groups: Number of blocks of width / groups qubits that never interact.
        angle_map: "raw"; "tanh" for angles pi * tanh(z); or "rms" for z divided by its root mean square
            over the width, so that every row has angles of about one radian whatever the scale of z.
        angle_init: "uniform" in (-pi, pi), or "small" in (-0.1, 0.1).
        is_entangled: False leaves the entangling rings out.
        is_trained: False keeps the angles as a buffer that no optimiser sees.
        evaluation: Where the circuits run, and how gradients come back.

    Raises:
        ConfigError: An option is unknown, or `groups` does not divide `width`.

    Example:
        >>> layer = QuantumLayer(4)
        >>> layer(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 4])
    """

    angles: Tensor

    def __init__(
        self,
        width: int,
        n_layers: int = 1,
        ansatz: str = "reupload",
        groups: int = 1,
        angle_map: str = "raw",
        angle_init: str = "uniform",
        *,
        is_entangled: bool = True,
        is_trained: bool = True,
        evaluation: Evaluation = EXACT,
    ):
        super().__init__()
        if groups < 1 or width % groups:
            raise ConfigError(f"groups must divide the rank; got groups={groups} for r={width}.")
        for value, valid, name in (
            (angle_map, ANGLE_MAPS, "angle_map"),
            (angle_init, tuple(ANGLE_INITS), "angle_init"),
        ):
            if value not in valid:
                raise ConfigError(f"Unknown {name} '{value}'.{did_you_mean(value, valid)}")
        self.circuit = build_ansatz(ansatz, width // groups, n_layers, is_entangled=is_entangled)
        self.observables = z_on_each(self.circuit.n_qubits)
        self.groups = groups
        self.angle_map = angle_map
        self.angle_init = angle_init
        self.evaluation = evaluation.checked(self.circuit)
        angles = torch.empty(groups, self.circuit.n_weights)
        if is_trained:
            self.angles = nn.Parameter(angles)
        else:
            self.register_buffer("angles", angles)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the angles, in radians."""
        bound = ANGLE_INITS[self.angle_init]
        nn.init.uniform_(self.angles, -bound, bound)

    def bind(self) -> BoundCircuit:
        """Return the circuits with the present angles, to be used for many calls of `evaluate`."""
        (bound,) = bind_each([self])
        return bound

    def run_on(self, evaluation: Evaluation) -> None:
        """Let the circuits run elsewhere from now on; the angles stay as they are.

        Raises:
            ConfigError: The circuit is too large for the backend, or its gradient does not suit.
        """
        self.evaluation = evaluation.checked(self.circuit)

    def evaluate(self, bound: BoundCircuit, inputs: Tensor) -> Tensor:
        """Return (..., width) expectation values of inputs (..., width), at least in float32."""
        angles = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        angles = map_angles(angles, self.angle_map)
        n_rows = math.prod(inputs.shape[:-1])
        rows = angles.reshape(n_rows, self.groups, self.circuit.n_qubits)
        expectations = bound(rows.transpose(0, 1))  # (groups, rows, n_qubits)
        return expectations.transpose(0, 1).reshape(inputs.shape)

    def forward(self, inputs: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Return (..., width) expectation values of inputs (..., width)."""
        return self.evaluate(self.bind(), inputs)

    def extra_repr(self) -> str:
        """Show the circuit when the module is printed."""
        return (
            f"{self.groups} x {self.circuit.n_qubits} qubits, ansatz={self.circuit.name}, "
            f"{self.angles.numel()} angles, {self.evaluation}"
        )


def bind_each(layers: Sequence[QuantumLayer]) -> list[BoundCircuit]:
    """Bind layers of the same shape and evaluation, all in the same operations or jobs."""
    first = layers[0]
    angles = torch.stack([layer.angles for layer in layers])
    return first.evaluation.bind_each(first.circuit, first.observables, angles)
