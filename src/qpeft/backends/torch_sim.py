"""The built-in exact simulator: batched, differentiable, plain torch on any of its devices.

One rule chooses between four forms of the same function (`benchmarks/quantum_layer.py` measures them):

    polynomial   data enter once and n is 2 or 4: 3^n coefficients of trigonometric features
    unitary      up to 6 qubits: one 2^n x 2^n unitary between two data uploads
    blocks       larger: a layer of rotations is two half-register products, a ring is one of phases
    compiled     on a CPU with numba installed in place of the last two: `compiled.py`
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from qpeft.backends import compiled as compiled_engine
from qpeft.backends.base import BoundCircuit, Capabilities, check_fit, check_inputs
from qpeft.backends.evolution import Evolution
from qpeft.backends.fourier import (
    coefficients_of_unitary,
    evaluate_polynomial,
    pauli_transform,
)
from qpeft.backends.fusion import DataPhase, compile_layers
from qpeft.backends.operators import OperatorFactory, Step
from qpeft.circuits import Circuit, ZProduct
from qpeft.types import Expectations, Inputs, Weights

POLYNOMIAL_QUBITS = (2, 4)
UNITARY_QUBITS = 6


class ExactBackend:
    """Exact expectation values by state-vector simulation, differentiable by autograd.

    Angles and states are float32 (complex64), or float64 where inputs or weights are.
    """

    name = "exact"
    capabilities = Capabilities(is_exact=True, is_differentiable=True, max_qubits=12)

    def bind(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Weights
    ) -> BoundCircuit:
        """Bind a circuit to weights of shape (*blocks, n_weights).

        Returns:
            A function of inputs (*blocks, rows, n_inputs) that returns the expectation values
            (*blocks, rows, n_observables) in float32, or in float64 where an argument is.

        Raises:
            ConfigError: More than 12 qubits, or shapes that do not fit the circuit.
        """
        check_fit(self, circuit, weights)
        (bound,) = self.bind_each(circuit, observables, weights[None])
        return bound

    def bind_each(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> list[BoundCircuit]:
        """Bind to each entry of weights (n_entries, *blocks, n_weights), all in one go."""
        check_fit(self, circuit, weights)
        shared = _SharedOperators(circuit, tuple(observables), weights)
        return [_BoundExact(shared, i) for i in range(len(weights))]


class _SharedOperators:
    """Operators of many circuits of one shape, made together for each form on first use."""

    def __init__(self, circuit: Circuit, observables: tuple[ZProduct, ...], weights: Tensor):
        self.circuit, self.observables, self.weights = circuit, observables, weights
        self.n_blocks = math.prod(weights.shape[1:-1])
        self.made: dict[tuple[str, torch.dtype, bool], list[list[Step]]] = {}
        self.split: dict[tuple[torch.dtype, bool], tuple[Tensor, ...]] = {}
        self.plans: dict[tuple[torch.device, torch.dtype], _Plan] = {}
        # Made now and not in the first call, which may be a part of a graph that torch.compile reads.
        dtype = torch.promote_types(weights.dtype, torch.float32)
        if self.plan(weights.device, dtype).form == "compiled" and len(weights):
            self.entry(0, dtype)

    def plan(self, device: torch.device, dtype: torch.dtype) -> "_Plan":
        """Return how the circuit is evaluated there."""
        if (device, dtype) not in self.plans:
            self.plans[device, dtype] = _plan(self.circuit, self.observables, device, dtype)
        return self.plans[device, dtype]

    def entry(self, index: int, dtype: torch.dtype) -> Tensor:
        """Return the weights of one entry, (n_blocks, n_weights), for the form "compiled"."""
        key = (dtype, torch.is_grad_enabled())
        if key not in self.split:
            weights = self.weights.to(dtype)
            shape = (len(weights), self.n_blocks, self.circuit.n_weights)
            self.split[key] = weights.reshape(shape).unbind()
        return self.split[key][index]

    def steps(self, index: int, form: str, compiled: "_Compiled") -> list[Step]:
        """Return the steps of one entry; for "polynomial" a single one with the coefficients."""
        # Whether autograd records is a part of the key: one entry may be used where it does not (a
        # frozen tower, a checkpoint) before another is used where it must.
        key = (form, compiled.dtype, torch.is_grad_enabled())
        if key not in self.made:
            n_blocks = len(self.weights) * self.n_blocks
            weights = self.weights.to(compiled.dtype).reshape(n_blocks, self.circuit.n_weights)
            steps = compiled.factory.steps(weights, is_fused=form != "blocks")
            if form == "polynomial":
                steps = [Step("polynomial", compiled.coefficients(steps, n_blocks))]
            by_step = [self._unbind(step) for step in steps]
            self.made[key] = [[each[i] for each in by_step] for i in range(len(self.weights))]
        return self.made[key][index]

    def _unbind(self, step: Step) -> list[Step]:
        """Split a step's operator by entry; its gradient is then put together in one operation."""
        n_entries = len(self.weights)
        if step.operator is None or step.kind == "permute":
            return [step] * n_entries
        shape = step.operator.shape[1:]
        blocks = step.operator.expand(n_entries * self.n_blocks, *shape)
        entries = blocks.reshape(n_entries, self.n_blocks, *shape).unbind()
        return [Step(step.kind, each, step.phase) for each in entries]


class _BoundExact:
    """One circuit with its weights."""

    def __init__(self, shared: _SharedOperators, index: int):
        self.shared, self.index = shared, index

    def __call__(self, inputs: Inputs) -> Expectations:
        circuit, weights = self.shared.circuit, self.shared.weights
        check_inputs(circuit, inputs)
        dtype = torch.promote_types(torch.promote_types(inputs.dtype, weights.dtype), torch.float32)
        n_rows = inputs.shape[-2]
        rows = inputs.to(dtype).reshape(self.shared.n_blocks, n_rows, circuit.n_inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            result = self._evaluate(rows, dtype)
        return result.view(*inputs.shape[:-1], len(self.shared.observables))

    def _evaluate(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Return (n_blocks, rows, n_observables) of (n_blocks, rows, n_inputs)."""
        plan = self.shared.plan(rows.device, dtype)
        if plan.form == "compiled":
            weights = self.shared.entry(self.index, dtype)
            return compiled_engine.expectations(rows, weights, plan.program)
        compiled = plan.torch_parts
        steps = self.shared.steps(self.index, plan.form, compiled)
        if plan.form == "polynomial" and steps[0].operator is not None:
            angles = compiled.evolution.start_angles(rows)
            return evaluate_polynomial(angles, steps[0].operator)
        return compiled.evolution.expectations(rows, steps)


def choose_form(n_qubits: int, *, is_single_upload: bool, is_on_cpu: bool = False) -> str:
    """Return the form in which the engine evaluates circuits of this size.

    Args:
        n_qubits: Number of qubits.
        is_single_upload: Data enter once, by RY on fresh qubits.
        is_on_cpu: Where the rows are.
    """
    if is_single_upload and n_qubits in POLYNOMIAL_QUBITS:
        return "polynomial"
    if is_on_cpu and compiled_engine.is_available():
        return "compiled"
    return "unitary" if n_qubits <= UNITARY_QUBITS else "blocks"


class _Compiled:
    """What is known of a circuit without its weights, on one device and in one precision."""

    def __init__(
        self,
        circuit: Circuit,
        observables: tuple[ZProduct, ...],
        device: torch.device,
        dtype: torch.dtype,
    ):
        layered = compile_layers(circuit)
        n_states = 2**circuit.n_qubits
        signs = [[o.sign(b, circuit.n_qubits) for o in observables] for b in range(n_states)]
        self.dtype = dtype
        self.signs = torch.tensor(signs, dtype=dtype, device=device).reshape(n_states, -1)
        self.factory = OperatorFactory(layered, device, dtype)
        self.evolution = Evolution(layered.start, self.factory.data_phases, self.signs)
        if _is_single_upload(circuit) and circuit.n_qubits in POLYNOMIAL_QUBITS:
            self.transform = pauli_transform(circuit.n_qubits).to(device, dtype)

    def coefficients(self, steps: Sequence[Step], n_blocks: int) -> Tensor:
        """Return (B, 3^n, n_observables) of a circuit without a second data upload."""
        if steps and steps[0].operator is not None:
            unitary = steps[0].operator
            if steps[0].kind == "diagonal":
                unitary = torch.diag_embed(unitary)
        else:
            unitary = torch.eye(len(self.signs), dtype=self.dtype, device=self.signs.device)
            unitary = unitary.expand(n_blocks, -1, -1)
        return coefficients_of_unitary(unitary, self.signs, self.transform)


@dataclass(frozen=True)
class _Plan:
    """How a circuit is evaluated on one device in one precision.

    Args:
        form: What `choose_form` says.
        program: The number of the compiled program, for the form "compiled".
        parts: What the other forms know of the circuit without its weights.
    """

    form: str
    program: int = -1
    parts: "_Compiled | None" = None

    @property
    def torch_parts(self) -> "_Compiled":
        """The parts of a form that is not "compiled"."""
        if self.parts is None:
            raise AssertionError(f"form '{self.form}' has no parts")
        return self.parts


def _plan(
    circuit: Circuit, observables: tuple[ZProduct, ...], device: torch.device, dtype: torch.dtype
) -> _Plan:
    form = choose_form(
        circuit.n_qubits,
        is_single_upload=_is_single_upload(circuit),
        is_on_cpu=device.type == "cpu",
    )
    if form == "compiled":
        return _Plan(form, program=compiled_engine.program_number(circuit, observables))
    return _Plan(form, parts=_compiled(circuit, observables, device, dtype))


@lru_cache(maxsize=256)
def _is_single_upload(circuit: Circuit) -> bool:
    return not any(isinstance(layer, DataPhase) for layer in compile_layers(circuit).layers)


@lru_cache(maxsize=256)
def _compiled(
    circuit: Circuit, observables: tuple[ZProduct, ...], device: torch.device, dtype: torch.dtype
) -> _Compiled:
    """Compile a circuit once."""
    # Constants are made outside of any inference mode, so that training can use them later, and of
    # any `torch.device(...)` around the caller.
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        return _Compiled(circuit, observables, device, dtype)
