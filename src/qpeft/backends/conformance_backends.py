"""The conformance checks of a `Backend`: the reference where it is exact, else laws that hold in noise too."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from qpeft.backends.base import Backend
from qpeft.backends.conformance_checks import (
    NotApplicableError,
    ViolationError,
    require,
    require_raises,
)
from qpeft.backends.conformance_circuits import certain_circuits, gate_circuit, noise_bound
from qpeft.backends.reference_sim import ReferenceBackend
from qpeft.circuits import ANSATZE, Circuit, Gate, Weight, ZProduct, build_ansatz, z_on_each
from qpeft.circuits.gates import GATES
from qpeft.errors import ConfigError

Expected = Callable[[Circuit, Sequence[ZProduct], Tensor, Tensor], Tensor]
"""The right expectations of a noisy backend: of (circuit, observables, inputs, weights)."""

TOLERANCE = 1e-6  # in float64


def backend_claims(
    target: Backend, seed: int, expected: Expected | None
) -> dict[str, Callable[[], str]]:
    """Return the claims about a backend, each with the check of it.

    Args:
        target: The backend.
        seed: Seed of the angles.
        expected: What its expectations should be, where it is not exact and somebody knows.
    """
    checks = _BackendChecks(target, seed, expected)
    return {
        "capabilities make sense": checks.capabilities,
        "every gate": checks.every_gate,
        "every ansatz, 1 to 4 qubits": checks.every_ansatz,
        "products of Z": checks.products,
        "qubit 0 is the leftmost bit": checks.bit_order,
        "rotations turn the right way": checks.rotation_signs,
        "values are in [-1, 1]": checks.range,
        "blocks and bind_each": checks.shapes,
        "no rows": checks.no_rows,
        "precision of the result": checks.precision,
        "repeats itself": checks.repeats,
        "one upload is one trigonometric polynomial": checks.polynomial,
        "gradients for inputs": checks.input_gradients,
        "gradients for weights": checks.weight_gradients,
        "agrees with what is expected": checks.agrees_with_expected,
        "refuses too many qubits": checks.refuses_qubits,
        "refuses wrong shapes": checks.refuses_shapes,
    }


@dataclass
class _BackendChecks:
    target: Backend
    seed: int
    expected: Expected | None

    def __post_init__(self) -> None:
        self.is_exact = self.target.capabilities.is_exact
        self.is_deterministic = self.is_exact or self.target.capabilities.is_differentiable
        self.n_most = min(4, self.target.capabilities.max_qubits)
        self.reference = ReferenceBackend()

    def capabilities(self) -> str:
        what = self.target.capabilities
        require(what.max_qubits >= 2, f"max_qubits is {what.max_qubits}; a ring needs 2.")
        require(bool(self.target.name), "The backend has no name.")
        return f"{what.max_qubits} qubits, exact {what.is_exact}, autograd {what.is_differentiable}"

    def every_gate(self) -> str:
        return self._compare(gate_circuit(name, self._gate_size()) for name in GATES)

    def every_ansatz(self) -> str:
        sizes = range(1, self.n_most + 1)
        layers = (1, 2) if self.is_exact else (1,)
        return self._compare(
            build_ansatz(name, n_qubits, n_layers)
            for name, n_qubits, n_layers in itertools.product(ANSATZE, sizes, layers)
        )

    def products(self) -> str:
        n = self.n_most
        observables = [ZProduct((n - 1, 0)), ZProduct((n - 1,)), ZProduct(tuple(range(n)))]
        return self._compare([build_ansatz("reupload", n, 1)], observables)

    def bit_order(self) -> str:
        n_qubits = min(3, self.n_most)
        flips = Circuit(n_qubits, (Gate("RY", (0,), Weight(0)),), "qubit 0 flipped")
        values = self._values(flips, z_on_each(n_qubits), *_no_inputs([torch.pi]))[0]
        is_right = bool(values[0] < -0.3) and bool((values[1:] > 0.3).all())
        require(
            is_right, f"With qubit 0 in state 1, <Z> of each qubit is {_text(values)}; not 0 first?"
        )
        return f"<Z> {_text(values)}"

    def rotation_signs(self) -> str:
        worst = 1.0
        for circuit, angles, state in certain_circuits():
            values = self._values(circuit, z_on_each(2), *_no_inputs(angles))[0]
            wanted = torch.tensor([1.0 - 2 * (state >> 1), 1.0 - 2 * (state & 1)])
            worst = min(worst, float((values * wanted).min()))
            require(
                worst > 0.3,
                f"'{circuit.name}': <Z> is {_text(values)}, expected the signs of {_text(wanted)}.",
            )
        return f"at least {worst:.3f} of each certain value"

    def range(self) -> str:
        most = 0.0
        for name in GATES:
            circuit = gate_circuit(name, self._gate_size())
            values = self._values(circuit, z_on_each(circuit.n_qubits), *self._angles(circuit, 16))
            require(
                bool(torch.isfinite(values).all()), f"'{circuit.name}' gives a value not finite."
            )
            most = max(most, float(values.abs().max()))
        require(most <= 1 + TOLERANCE, f"A value is {most:.6f} in size.")
        return f"largest {most:.4f}"

    def shapes(self) -> str:
        circuit = build_ansatz("reupload", min(3, self.n_most), 1)
        observables = z_on_each(circuit.n_qubits)
        inputs, weights = self._angles(circuit, 4, blocks=(2, 3))
        entries = torch.stack([weights, weights + 0.5])
        together = self.target.bind_each(circuit, observables, entries)
        require(len(together) == 2, f"bind_each of 2 entries gave {len(together)} circuits.")
        tolerance = self._tolerance(circuit)
        for bound, entry in zip(together, entries, strict=True):
            values = bound(inputs)
            wanted = (2, 3, 4, circuit.n_qubits)
            require(
                values.shape == wanted,
                f"Values of shape {tuple(values.shape)}, expected {wanted} for blocks (2, 3) and 4 rows.",
            )
            for block in itertools.product((0, 1), (0, 1, 2)):
                alone = self.target.bind(circuit, observables, entry[block])(inputs[block])
                _require_close(values[block], alone, tolerance, f"block {block} and the same alone")
        return "(2, 3) blocks of 4 rows, 2 entries"

    def no_rows(self) -> str:
        circuit = build_ansatz("reupload", 2, 1)
        inputs, weights = self._angles(circuit, 0)
        shape = tuple(self._values(circuit, z_on_each(2), inputs, weights).shape)
        require(shape == (0, 2), f"Values of no rows have shape {shape}, expected (0, 2).")
        return "shape (0, 2)"

    def precision(self) -> str:
        circuit = build_ansatz("reupload", 2, 1)
        inputs, weights = self._angles(circuit, 2)
        pairs = {
            (torch.float32, torch.float32): torch.float32,
            (torch.float64, torch.float64): torch.float64,
            (torch.float32, torch.float64): torch.float64,
        }
        for (of_inputs, of_weights), wanted in pairs.items():
            found = self._values(
                circuit, z_on_each(2), inputs.to(of_inputs), weights.to(of_weights)
            )
            require(
                found.dtype == wanted,
                f"Inputs {of_inputs} and weights {of_weights} give {found.dtype}, expected {wanted}.",
            )
        return "float32 stays, float64 wins"

    def repeats(self) -> str:
        if not self.is_deterministic:
            raise NotApplicableError("its results carry shot noise")
        circuit = build_ansatz("reupload", 2, 1)
        angles = self._angles(circuit, 4)
        first = self._values(circuit, z_on_each(2), *angles)
        again = self._values(circuit, z_on_each(2), *angles)
        _require_close(again, first, 1e-9, "two calls with the same angles")
        return "same values twice"

    def polynomial(self) -> str:
        if not self.is_deterministic:
            raise NotApplicableError("its results carry shot noise")
        circuit = build_ansatz("encode_once", 2, 1)
        unseen, weights = self._angles(circuit, 8)
        places = torch.tensor([0.0, 2 * torch.pi / 3, -2 * torch.pi / 3], dtype=torch.float64)
        grid = torch.cartesian_prod(places, places)
        measured = self._values(circuit, z_on_each(2), grid, weights).double()
        coefficients = torch.linalg.solve(_features(grid), measured)
        predicted = _features(unseen) @ coefficients
        values = self._values(circuit, z_on_each(2), unseen, weights).double()
        worst = _require_close(values, predicted, 1e-5, "unseen inputs and 9 measured coefficients")
        return f"9 coefficients predict within {worst:.1e}"

    def input_gradients(self) -> str:
        return self._compare_gradients(0)

    def weight_gradients(self) -> str:
        return self._compare_gradients(1)

    def agrees_with_expected(self) -> str:
        if self.expected is None:
            raise NotApplicableError("no `expected` was given")
        worst = 0.0
        for name in ANSATZE:
            circuit = build_ansatz(name, min(3, self.n_most), 1)
            observables = z_on_each(circuit.n_qubits)
            angles = self._angles(circuit, 4)
            values = self._values(circuit, observables, *angles)
            wanted = self.expected(circuit, observables, *angles)
            worst = max(worst, _require_close(values, wanted, TOLERANCE, f"'{name}' and expected"))
        return f"within {worst:.1e}"

    def refuses_qubits(self) -> str:
        n_qubits = self.target.capabilities.max_qubits + 1
        gates = tuple(Gate("RY", (qubit,), Weight(0)) for qubit in range(n_qubits))
        circuit = Circuit(n_qubits, gates, "too large")
        require_raises(
            ConfigError,
            f"A circuit of {n_qubits} qubits",
            lambda: self.target.bind(circuit, z_on_each(n_qubits), torch.zeros(1)),
        )
        return f"{n_qubits} qubits refused"

    def refuses_shapes(self) -> str:
        circuit = build_ansatz("reupload", 2, 1)
        inputs, weights = self._angles(circuit, 2)
        observables = z_on_each(2)
        require_raises(
            ConfigError,
            "A weight too many",
            lambda: self.target.bind(circuit, observables, torch.cat([weights, weights[:1]])),
        )
        bound = self.target.bind(circuit, observables, weights)
        wide = torch.cat([inputs, inputs[:, :1]], dim=1)
        require_raises(ConfigError, "An input too many", lambda: bound(wide))
        return "weights and inputs refused"

    def _gate_size(self) -> int:
        return min(3, self.n_most) if self.is_exact else 2

    def _tolerance(self, circuit: Circuit) -> float:
        """Return how far two values of one circuit may be apart."""
        return TOLERANCE if self.is_deterministic else 2 * noise_bound(circuit)

    def _angles(
        self, circuit: Circuit, n_rows: int, blocks: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed + len(circuit.gates))
        inputs = torch.randn(
            *blocks, n_rows, circuit.n_inputs, generator=generator, dtype=torch.float64
        )
        weights = torch.randn(*blocks, circuit.n_weights, generator=generator, dtype=torch.float64)
        return 2 * inputs, 2 * weights

    def _values(
        self, circuit: Circuit, observables: Sequence[ZProduct], inputs: Tensor, weights: Tensor
    ) -> Tensor:
        with torch.no_grad():
            return self.target.bind(circuit, observables, weights)(inputs)

    def _compare(
        self, circuits: Iterable[Circuit], observables: Sequence[ZProduct] | None = None
    ) -> str:
        """Compare with the reference: within 1e-6, or as near as noise of today's chips leaves it."""
        worst, n_circuits = 0.0, 0
        for circuit in circuits:
            read = z_on_each(circuit.n_qubits) if observables is None else observables
            angles = self._angles(circuit, 4)
            values = self._values(circuit, read, *angles)
            wanted = self.reference.bind(circuit, read, angles[1])(angles[0])
            # |sum_b (p - q)(b) s(b)| <= 2 TV(p, q) for signs s
            bound = TOLERANCE if self.is_exact else 2 * noise_bound(circuit)
            worst = max(
                worst, _require_close(values, wanted, bound, f"'{circuit.name}' and reference")
            )
            n_circuits += 1
        return f"{n_circuits} circuits within {worst:.1e}"

    def _compare_gradients(self, which: int) -> str:
        if not self.target.capabilities.is_differentiable:
            raise NotApplicableError("autograd does not reach through it")
        worst = 0.0
        bound = TOLERANCE if self.is_exact else 1e-5
        for name, found, wanted in self.gradients:
            what = f"gradient of '{name}'"
            worst = max(worst, _require_close(found[which], wanted[which], bound, what))
        source = "the reference's" if self.is_exact else "finite differences"
        return f"{len(self.gradients)} circuits within {worst:.1e} of {source}"

    @cached_property
    def gradients(self) -> list[tuple[str, tuple[Tensor, ...], tuple[Tensor, ...]]]:
        """Each circuit's name, the target's gradients for inputs and weights, and the right ones."""
        names = list(GATES) if self.is_exact else ["RY", "CRZ"]
        circuits = [gate_circuit(name, self._gate_size()) for name in names]
        circuits += [build_ansatz(name, min(3, self.n_most), 1) for name in ANSATZE]
        gradients = []
        for circuit in circuits:
            angles = self._angles(circuit, 3)
            found = self._gradients(self.target, circuit, *angles)
            if self.is_exact:
                wanted = self._gradients(self.reference, circuit, *angles)
            else:
                wanted = (self._slopes(circuit, angles, 0), self._slopes(circuit, angles, 1))
            gradients.append((circuit.name, found, wanted))
        return gradients

    def _gradients(
        self, backend: Backend, circuit: Circuit, inputs: Tensor, weights: Tensor
    ) -> tuple[Tensor, ...]:
        inputs, weights = inputs.clone().requires_grad_(), weights.clone().requires_grad_()
        total = _mixture(backend.bind(circuit, z_on_each(circuit.n_qubits), weights)(inputs))
        require(total.requires_grad, f"'{circuit.name}' gives values without a gradient.")
        return torch.autograd.grad(
            total, (inputs, weights), allow_unused=True, materialize_grads=True
        )

    def _slopes(self, circuit: Circuit, angles: tuple[Tensor, Tensor], which: int) -> Tensor:
        """Return the gradient by central differences, which float64 leaves good to about 1e-8."""
        step = 1e-4
        observables = z_on_each(circuit.n_qubits)
        slopes = torch.zeros_like(angles[which]).flatten()
        for place in range(len(slopes)):
            ends = []
            for sign in (1, -1):
                moved = [angle.clone() for angle in angles]
                moved[which].view(-1)[place] += sign * step
                ends.append(float(_mixture(self._values(circuit, observables, *moved))))
            slopes[place] = (ends[0] - ends[1]) / (2 * step)
        return slopes.view_as(angles[which])


def _no_inputs(weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, 0, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)


def _mixture(values: Tensor) -> Tensor:
    """Return a sum in which every value has a factor of its own."""
    factors = torch.linspace(-1.0, 2.0, values.numel(), dtype=values.dtype)
    return (values * factors.reshape(values.shape)).sum()


def _features(inputs: Tensor) -> Tensor:
    """Return (rows, 9): the products of 1, cos and sin of two angles."""
    each = torch.stack([torch.ones_like(inputs), inputs.cos(), inputs.sin()], dim=-1)
    return torch.einsum("ra,rb->rab", each[:, 0], each[:, 1]).flatten(1)


def _require_close(found: Tensor, wanted: Tensor, bound: float, what: str) -> float:
    require(
        found.shape == wanted.shape,
        f"{what}: shapes {tuple(found.shape)} and {tuple(wanted.shape)} differ.",
    )
    if not found.numel():
        return 0.0
    distance = float((found.detach().double() - wanted.detach().double()).abs().max())
    if not distance <= bound:  # a NaN is not within any bound
        raise ViolationError(f"{what} differ by {distance:.2e}, more than {bound:.0e}.")
    return distance


def _text(values: Tensor) -> str:
    return "(" + ", ".join(f"{value:+.2f}" for value in values.tolist()) + ")"
