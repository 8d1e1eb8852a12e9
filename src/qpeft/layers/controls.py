"""What stands in the circuit's place in controls: a constant, a small network, or free Fourier coefficients."""

import math

import torch
from torch import Tensor, nn

from qpeft.backends.fourier import low_terms, term_features, trigonometric_polynomial
from qpeft.errors import ConfigError

MAX_COEFFICIENTS = 100_000

ANGLE_MAPS = ("raw", "tanh", "rms")
"""How inputs z become angles: z itself, pi * tanh(z), or z divided by its root mean square over the width."""

RMS_EPS = 1e-12
"""Added to the mean square, so that inputs of zero give angles of zero."""


class ConstantCore(nn.Module):
    """q = b, one trained number for each output, whatever z is: all that a circuit can do that ignores its input.

    Args:
        width: r, outputs.
    """

    def __init__(self, width: int):
        super().__init__()
        self.values = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the values as expectation values may be, uniform in (-1, 1)."""
        nn.init.uniform_(self.values, -1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (..., width) for inputs (..., width)."""
        return self.values.expand(inputs.shape)


class MlpCore(nn.Module):
    """q = W2 silu(W1 z) in each group: exactly as many parameters as the circuit has angles.

    Args:
        width: r, inputs and outputs.
        n_hidden: Hidden units a group; 2 L gives the 4 r L parameters of an L-layer circuit.
        groups: Blocks that do not interact.
        angle_map: What is done to the inputs first, as in `QuantumLayer`.
    """

    def __init__(self, width: int, n_hidden: int, groups: int = 1, angle_map: str = "raw"):
        super().__init__()
        self.groups, self.angle_map = groups, angle_map
        self.W1 = nn.Parameter(torch.empty(groups, width // groups, n_hidden))
        self.W2 = nn.Parameter(torch.empty(groups, n_hidden, width // groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both matrices with the variance of their fan-in."""
        for matrix in (self.W1, self.W2):
            nn.init.normal_(matrix, std=matrix.shape[1] ** -0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (..., width) for inputs (..., width)."""
        rows = _by_group(map_angles(inputs.to(self.W1.dtype), self.angle_map), self.groups)
        hidden = nn.functional.silu(rows @ self.W1)
        return (hidden @ self.W2).transpose(0, 1).reshape(inputs.shape)


class FourierCore(nn.Module):
    """q_k = sum over P in {1, cos, sin, ...}^n of c[P, k] prod_i P_i(z_i), with free coefficients.

    It contains every circuit of n qubits into which the data enter L times: frequencies up to L on each
    input, (2 L + 1)^n coefficients an output (Schuld et al., arXiv 2008.08605). With a circuit's measured
    coefficients it is that circuit (`qpeft.adapters.export_surrogate`).

    Args:
        width: r, inputs and outputs.
        n_uploads: L, how often the circuit that it controls takes the data.
        groups: Blocks of width / groups inputs that do not interact.
        angle_map: How inputs become angles, as in `QuantumLayer`.
        max_weight: Only terms in which at most so many inputs of a group occur; None for all.

    Raises:
        ConfigError: More than 100,000 coefficients.
    """

    def __init__(
        self,
        width: int,
        n_uploads: int = 1,
        groups: int = 1,
        angle_map: str = "raw",
        max_weight: int | None = None,
    ):
        super().__init__()
        n = width // groups
        is_whole = max_weight is None or max_weight >= n
        terms = None if is_whole else low_terms(n, n_uploads, max_weight or 0)
        n_terms = (2 * n_uploads + 1) ** n if terms is None else len(terms)
        if groups * n_terms * n > MAX_COEFFICIENTS:
            raise ConfigError(
                f"core='fourier' would need {groups * n_terms * n} coefficients a layer (the limit "
                f"is {MAX_COEFFICIENTS}). Use more groups, n_layers=1 or ansatz='encode_once'."
            )
        self.groups, self.n_uploads, self.angle_map = groups, n_uploads, angle_map
        self.coefficients = nn.Parameter(torch.empty(groups, n_terms, n))
        self.terms: Tensor | None
        self.register_buffer("terms", terms, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw coefficients so that an output has variance 2^-n over uniform inputs."""
        n = self.coefficients.shape[-1]
        # Over uniform inputs the squared features sum to (1 + L)^n.
        nn.init.normal_(self.coefficients, std=(2 * (1 + self.n_uploads)) ** (-n / 2))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (..., width) for inputs (..., width)."""
        angles = map_angles(inputs.to(self.coefficients.dtype), self.angle_map)
        rows = _by_group(angles, self.groups)
        if self.terms is None:
            values = trigonometric_polynomial(rows, self.coefficients, self.n_uploads)
        else:
            values = term_features(rows, self.terms, self.n_uploads) @ self.coefficients
        return values.transpose(0, 1).reshape(inputs.shape)


def map_angles(inputs: Tensor, angle_map: str) -> Tensor:
    """Return the angles, in radians, of the inputs (..., width), as `ANGLE_MAPS` describes."""
    if angle_map == "tanh":
        return math.pi * torch.tanh(inputs)
    if angle_map == "rms":
        return nn.functional.rms_norm(inputs, inputs.shape[-1:], eps=RMS_EPS)
    return inputs


def _by_group(inputs: Tensor, groups: int) -> Tensor:
    """Return (groups, rows, width / groups) of inputs (..., width)."""
    n_rows = math.prod(inputs.shape[:-1])
    return inputs.reshape(n_rows, groups, inputs.shape[-1] // groups).transpose(0, 1)
