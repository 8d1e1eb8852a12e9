"""How gradients reach the angles of circuits that autograd cannot look into.

A row here holds all angles of one circuit, one for each gate (`Circuit.untied`). Each rule takes rows of angles
and the gradient of the loss for the expectation values, and returns the gradient for the angles:

    parameter_shift     exact in expectation; 2 circuits for an angle of RX, RY, RZ, RZZ, 4 for one of CRZ
    spsa                2 circuits a row whatever the number of angles; right in expectation up to O(step^2)
    straight_through    no circuit: the gradient of the exact simulation at the same angles

References:
    Parameter shift: arXiv 1811.11184; its four-term form: arXiv 2104.05695. SPSA: Spall, IEEE Trans. Autom.
    Control 37, 332 (1992).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qpeft.backends import Backend, get_backend
from qpeft.backends.base import check_inputs
from qpeft.circuits import Circuit, ZProduct
from qpeft.circuits.gates import GATES

SPSA_STEP = 0.1
"""Size of the simultaneous perturbation, in radians: small against a period, large against shot noise."""

_FOUR_TERM_NEAR = (math.sqrt(2) + 1) / (4 * math.sqrt(2))
_FOUR_TERM_FAR = (math.sqrt(2) - 1) / (4 * math.sqrt(2))
SHIFTS: dict[int, tuple[tuple[float, float], ...]] = {
    2: ((math.pi / 2, 0.5), (-math.pi / 2, -0.5)),
    4: (
        (math.pi / 2, _FOUR_TERM_NEAR),
        (-math.pi / 2, -_FOUR_TERM_NEAR),
        (3 * math.pi / 2, -_FOUR_TERM_FAR),
        (-3 * math.pi / 2, _FOUR_TERM_FAR),
    ),
}
"""(shift in radians, factor) of each term, by a gate's number of terms."""


@dataclass(frozen=True)
class Measurement:
    """Evaluates rows of angles on a backend, with a rule for their gradients.

    Args:
        backend: Where the circuits run.
        circuit: The circuit, untied: every gate's angle is an input of its own.
        observables: What is read out.
        rule: A key of `RULES`.
        columns: The angles that are differentiated; the others get no gradient and cost no circuit.
    """

    backend: Backend
    circuit: Circuit
    observables: tuple[ZProduct, ...]
    rule: str
    columns: tuple[int, ...]

    def __call__(self, angles: Tensor) -> Tensor:
        """Return (rows, n_observables) expectation values of angles (rows, n_angles), in radians."""
        result: Tensor = _Measured.apply(angles, self)
        return result

    def evaluate(self, angles: Tensor) -> Tensor:
        """Return the expectation values without a gradient."""
        with torch.no_grad():
            weights = angles.new_empty(0)
            return self.backend.bind(self.circuit, self.observables, weights)(angles)


class RowByRow:
    """A circuit with its weights of which every row of inputs is run by itself; a `BoundCircuit`.

    Args:
        backend: Where the circuits run: one for each row, and by the rule more for the gradients.
        circuit: Their shape.
        observables: What is read out.
        weights: (*blocks, n_weights), radians.
        rule: A key of `RULES`.
    """

    def __init__(
        self,
        backend: Backend,
        circuit: Circuit,
        observables: Sequence[ZProduct],
        weights: Tensor,
        rule: str,
    ):
        self.circuit, self.weights = circuit, weights
        self.columns = list(circuit.angle_columns)
        every = tuple(range(len(self.columns)))
        self.run = Measurement(backend, circuit.untied(), tuple(observables), rule, every)

    @torch.compiler.disable(
        reason="qpeft runs a circuit for each row, on a backend that is no tensor code"
    )
    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (*blocks, rows, n_observables) for inputs (*blocks, rows, n_inputs), in radians."""
        check_inputs(self.circuit, inputs)
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        rows = inputs.to(torch.float64)
        weights = self.weights.to(torch.float64)[..., None, :]
        weights = weights.expand(*rows.shape[:-1], weights.shape[-1])
        angles = torch.cat([rows, weights], dim=-1)[..., self.columns]
        values = self.run(angles.flatten(0, -2))
        return values.to(dtype).unflatten(0, inputs.shape[:-1])


def n_gradient_circuits(circuit: Circuit, rule: str, columns: Sequence[int] | None = None) -> int:
    """Return how many further circuits the gradient of one row takes.

    Args:
        circuit: The circuit; tied or not, each gate counts once.
        rule: A key of `RULES`.
        columns: Of the gates with an angle, those that are differentiated; all by default.
    """
    if rule == "parameter_shift":
        terms = [GATES[g.name].n_shift_terms for g in circuit.gates if g.angle is not None]
        return sum(terms if columns is None else (terms[column] for column in columns))
    return {"spsa": 2, "straight_through": 0}[rule]


def _parameter_shift(run: Measurement, angles: Tensor, grad: Tensor) -> Tensor:
    terms = [GATES[g.name].n_shift_terms for g in run.circuit.gates if g.angle is not None]
    shifted, columns, factors = [], [], []
    for column in run.columns:
        for shift, factor in SHIFTS[terms[column]]:
            rows = angles.clone()
            rows[:, column] += shift
            shifted.append(rows)
            columns.append(column)
            factors.append(factor)
    values = run.evaluate(torch.cat(shifted)).unflatten(0, (len(shifted), len(angles)))
    parts = (values.to(grad.dtype) * grad).sum(dim=-1)  # (terms, rows)
    weighted = parts * parts.new_tensor(factors)[:, None]
    index = torch.tensor(columns, device=angles.device)
    return torch.zeros_like(angles.mT).index_add_(0, index, weighted.to(angles.dtype)).mT


def _spsa(run: Measurement, angles: Tensor, grad: Tensor) -> Tensor:
    # The signs come from torch's own generator: seeding and checkpoints cover it, and a run that is
    # resumed draws the same ones.
    signs = torch.randint(0, 2, (len(angles), len(run.columns))).to(angles) * 2 - 1
    delta = torch.zeros_like(angles)
    delta[:, list(run.columns)] = signs
    rows = torch.cat([angles + SPSA_STEP * delta, angles - SPSA_STEP * delta])
    plus, minus = (run.evaluate(rows).to(grad.dtype).unflatten(0, (2, -1)) * grad).sum(dim=-1)
    return ((plus - minus) / (2 * SPSA_STEP))[:, None].to(angles.dtype) * delta


def _straight_through(run: Measurement, angles: Tensor, grad: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = angles.detach().requires_grad_()
        bound = get_backend("exact").bind(run.circuit, run.observables, leaf.new_empty(0))
        (found,) = torch.autograd.grad(bound(leaf), leaf, grad.to(leaf.dtype))
    wanted = torch.zeros_like(found)
    wanted[:, list(run.columns)] = found[:, list(run.columns)]
    return wanted


RULES: dict[str, Callable[[Measurement, Tensor, Tensor], Tensor]] = {
    "parameter_shift": _parameter_shift,
    "spsa": _spsa,
    "straight_through": _straight_through,
}


class _Measured(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, angles: Tensor, run: Measurement) -> Tensor:
        ctx.save_for_backward(angles)
        ctx.run = run
        return run.evaluate(angles)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (angles,) = ctx.saved_tensors
        if not grad.any():
            # An adapter starts neutral, so in the first step its circuits have no influence yet.
            return torch.zeros_like(angles), None
        with torch.autocast(angles.device.type, enabled=False):
            return RULES[ctx.run.rule](ctx.run, angles, grad), None
