"""The surrogate of a circuit: its trigonometric polynomial, fitted to a fixed number of evaluations.

    <O_k>(z) = sum over P of  c[P, k] prod_i P_i(z_i),   P_i in {1, cos z, sin z, ..., cos Lz, sin Lz}

Everything behind the data, noise included, is linear in the state, so (2 L + 1)^n coefficients an observable say
all (L: how often the data enter; Schuld et al., arXiv 2008.08605). Evaluated on as many points as there are
coefficients the polynomial IS the circuit: outputs and gradients for inputs are exact functions of what was
measured. For many qubits only the terms with at most `max_weight` inputs are fitted, which is an approximation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from qpeft.backends import Backend
from qpeft.backends.base import check_inputs
from qpeft.backends.fourier import (
    low_terms,
    term_features,
    trigonometric_features,
    trigonometric_polynomial,
)
from qpeft.circuits import Circuit, Input, ZProduct
from qpeft.circuits.gates import GATES
from qpeft.errors import ConfigError
from qpeft.layers.gradients import Measurement

MAX_POINTS = 20_000
"""Most circuits that one surrogate may take: more is surely a mistake."""

OVERSAMPLING = 2
"""Points for each fitted term where the polynomial is truncated, so that the rest averages out."""


@dataclass(frozen=True)
class Design:
    """Where a circuit is evaluated, and how its coefficients follow.

    Args:
        points: (n_points, n_inputs), radians.
        solve: (n_terms, n_points), from values at the points to coefficients.
        terms: (n_terms, n_inputs), the fitted terms as in `low_terms`; None for all of them.
        n_uploads: L.
    """

    points: Tensor
    solve: Tensor
    terms: Tensor | None
    n_uploads: int

    @property
    def is_exact(self) -> bool:
        """Whether the polynomial is the circuit itself."""
        return self.terms is None


def surrogate_design(circuit: Circuit, max_weight: int | None = None) -> Design:
    """Return where to evaluate a circuit for its surrogate.

    Args:
        circuit: The circuit; data must enter by RX, RY or RZ.
        max_weight: Fit only terms in which at most so many inputs occur; None for all.

    Raises:
        ConfigError: Data enter through another gate, or more than 20,000 circuits would be needed.

    Example:
        >>> from qpeft.circuits import build_ansatz
        >>> len(surrogate_design(build_ansatz("reupload", 4, 1)).points)
        81
    """
    for gate in circuit.gates:
        if isinstance(gate.angle, Input) and GATES[gate.name].axis is None:
            raise ConfigError(
                f"gradient='surrogate' needs data to enter by RX, RY or RZ; circuit '{circuit.name}' takes them "
                f"by {gate.name}. Use gradient='parameter_shift'."
            )
    if max_weight is not None and max_weight < 1:
        raise ConfigError(f"surrogate_weight must be at least 1; got {max_weight}.")
    n, n_uploads = circuit.n_inputs, max(1, circuit.n_uploads())
    n_points = n_surrogate_circuits(n, n_uploads, max_weight)
    # With as many points as a whole surrogate needs, nothing is to be left out.
    weight = None if n_points == (2 * n_uploads + 1) ** n else max_weight
    if n_points > MAX_POINTS:
        raise ConfigError(
            f"The surrogate of circuit '{circuit.name}' would take {n_points} circuits (the limit is "
            f"{MAX_POINTS}). Use more groups, fewer layers, ansatz='encode_once' or surrogate_weight=2."
        )
    return _design(n, n_uploads, weight)


def n_surrogate_circuits(n_inputs: int, n_uploads: int = 1, max_weight: int | None = None) -> int:
    """Return how many circuits one surrogate takes: 81 for four inputs that enter once."""
    n_functions = 2 * n_uploads
    if max_weight is None or max_weight >= n_inputs:
        return (n_functions + 1) ** n_inputs
    terms = sum(math.comb(n_inputs, k) * n_functions**k for k in range(max_weight + 1))
    return min(OVERSAMPLING * terms, (n_functions + 1) ** n_inputs)


class Surrogate:
    """One circuit with its weights as a polynomial; a `BoundCircuit`.

    Args:
        circuit: The circuit that it stands for.
        coefficients: (*blocks, n_terms, n_observables), all terms or those of the design.
        design: How they were found.
    """

    def __init__(self, circuit: Circuit, coefficients: Tensor, design: Design):
        self.circuit, self.coefficients, self.design = circuit, coefficients, design

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (*blocks, rows, n_observables) for inputs (*blocks, rows, n_inputs), in radians."""
        check_inputs(self.circuit, inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            dtype = torch.promote_types(inputs.dtype, torch.float32)
            coefficients = self.coefficients.to(inputs.device, dtype)
            rows = inputs.to(dtype)
            if self.design.terms is None:
                blocks = rows.reshape(-1, *rows.shape[-2:])
                matrices = coefficients.reshape(-1, *coefficients.shape[-2:])
                values = trigonometric_polynomial(blocks, matrices, self.design.n_uploads)
                return values.reshape(*rows.shape[:-1], values.shape[-1])
            terms = self.design.terms.to(inputs.device)
            return term_features(rows, terms, self.design.n_uploads) @ coefficients


def measure_surrogates(
    backend: Backend,
    circuit: Circuit,
    observables: Sequence[ZProduct],
    weights: Tensor,
    rule: str,
    max_weight: int | None = None,
) -> list[Surrogate]:
    """Measure the surrogates of many circuits of one shape, all as one batch of the backend.

    Args:
        backend: Where the circuits run.
        circuit: Their shape.
        observables: What is read out.
        weights: (n_entries, *blocks, n_weights), radians.
        rule: How gradients reach the weights: a key of `gradients.RULES`.
        max_weight: As in `surrogate_design`.

    Returns:
        A `Surrogate` for each entry; differentiable in inputs and, by the rule, in weights.
    """
    design = surrogate_design(circuit, max_weight)
    is_input = [isinstance(g.angle, Input) for g in circuit.gates if g.angle is not None]
    trained = tuple(column for column, is_data in enumerate(is_input) if not is_data)
    run = Measurement(backend, circuit.untied(), tuple(observables), rule, trained)
    entries = weights.to(torch.float64).flatten(0, -2)  # (entries * blocks, n_weights)
    order, back = _canonical_order(entries)
    points = design.points.to(weights.device)
    shape = (len(entries), len(points))
    rows = torch.cat(
        [points.expand(*shape, -1), entries[order][:, None].expand(*shape, -1)], dim=-1
    )  # inputs, then weights
    values = run(rows.flatten(0, 1)[:, list(circuit.angle_columns)])
    solve = design.solve.to(weights.device)
    coefficients = (solve @ values.to(torch.float64).unflatten(0, shape))[back]
    coefficients = coefficients.unflatten(0, weights.shape[:-1])
    dtype = torch.promote_types(weights.dtype, torch.float32)
    return [Surrogate(circuit, entry, design) for entry in coefficients.to(dtype)]


def _canonical_order(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Return the order by content of rows (n, n_weights), and the order that undoes it.

    The same set of circuits is then the same jobs, whoever asks in whatever order: an export finds in the
    journal what the last evaluation measured.
    """
    columns = entries.detach().cpu().numpy().T[::-1]
    order = torch.from_numpy(np.lexsort(columns)) if len(columns) else torch.arange(len(entries))
    return order.to(entries.device), torch.argsort(order).to(entries.device)


def truncation_error(
    circuit: Circuit,
    observables: Sequence[ZProduct],
    surrogate: Surrogate,
    backend: Backend,
    weights: Tensor,
    n_points: int = 200,
) -> float:
    """Return the root mean square difference between a surrogate and its circuit at random inputs.

    Args:
        circuit: The circuit.
        observables: What is read out.
        surrogate: Its surrogate.
        backend: Where the circuit is evaluated again: `n_points` further circuits for each block.
        weights: (*blocks, n_weights), radians.
        n_points: Random inputs, uniform over a period; seeded, always the same.
    """
    generator = torch.Generator().manual_seed(0)
    points = 2 * math.pi * torch.rand(n_points, circuit.n_inputs, generator=generator)
    inputs = points.to(weights).expand(*weights.shape[:-1], -1, -1)
    with torch.no_grad():
        difference = surrogate(inputs) - backend.bind(circuit, observables, weights)(inputs)
    return float(difference.square().mean().sqrt())


@lru_cache(maxsize=32)
def _design(n_inputs: int, n_uploads: int, max_weight: int | None) -> Design:
    """Make a design once, outside of any inference mode and default device around the caller."""
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        return _make_design(n_inputs, n_uploads, max_weight)


def _make_design(n_inputs: int, n_uploads: int, max_weight: int | None) -> Design:
    n_functions = 2 * n_uploads + 1
    step = 2 * math.pi / n_functions
    axis = torch.arange(n_functions, dtype=torch.float64) * step
    if max_weight is None:
        grid = torch.cartesian_prod(*[axis] * n_inputs).reshape(-1, n_inputs)
        inverse = torch.linalg.inv(trigonometric_features(axis[:, None], n_uploads))
        solve = inverse
        for _ in range(n_inputs - 1):
            solve = torch.kron(solve, inverse)
        return Design(grid, solve, None, n_uploads)
    terms = low_terms(n_inputs, n_uploads, max_weight)
    n_points = n_surrogate_circuits(n_inputs, n_uploads, max_weight)
    # A random part of the grid, always the same one; on it low terms are nearly orthogonal.
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(n_functions**n_inputs, generator=generator)[:n_points]
    digits = [(chosen // n_functions ** (n_inputs - 1 - i)) % n_functions for i in range(n_inputs)]
    points = axis[torch.stack(digits, dim=-1)]
    features = term_features(points, terms, n_uploads)
    return Design(points, torch.linalg.pinv(features), terms, n_uploads)
