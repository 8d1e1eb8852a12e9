"""The noisy simulator: what a chip would give on average, differentiable by autograd.

A circuit is compiled to the chip's gates, each followed by the noise of its place there; see `noisy_circuit` for
how it is evaluated.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from qpeft.backends.base import BoundCircuit, Capabilities, check_fit, check_inputs
from qpeft.backends.noisy_circuit import NoisyCircuit, Site
from qpeft.chips.calibration import Calibration, load_calibration
from qpeft.chips.native import NativeCircuit, compile_native
from qpeft.chips.noise import NoiseModel
from qpeft.chips.routing import fit_to_chip
from qpeft.circuits import Circuit, ZProduct
from qpeft.errors import ConfigError
from qpeft.types import Expectations, Inputs, Weights


class NoisyBackend:
    """Expectation values on a noisy chip, read-out errors included, without shot noise.

    Args:
        calibration: The chip: a packaged name, a file or the calibration itself.
        place: The physical qubit of each circuit qubit; None takes the best place of each circuit. All blocks of
            a layer use the same place.
        scale: Factor on all error rates; 0 is `exact`.
        has_idle_noise: Whether waiting qubits relax.

    Numbers are float32, or float64 where inputs or weights are.

    Example:
        >>> from qpeft.circuits import build_ansatz, z_on_each
        >>> circuit = build_ansatz("reupload", 2, 1)
        >>> bound = NoisyBackend().bind(circuit, z_on_each(2), torch.zeros(8))
        >>> bool(0.6 < bound(torch.zeros(1, 2)).min() < 1.0)
        True
    """

    name = "noisy"
    capabilities = Capabilities(is_exact=False, is_differentiable=True, max_qubits=6)

    def __init__(
        self,
        calibration: str | Path | Calibration = "wukong",
        place: Sequence[int] | None = None,
        scale: float = 1.0,
        has_idle_noise: bool = True,
    ):
        chip = (
            calibration if isinstance(calibration, Calibration) else load_calibration(calibration)
        )
        self.calibration = chip
        self.noise = NoiseModel(chip, scale, has_idle_noise=has_idle_noise)
        self.place = None if place is None else tuple(place)
        self._sites: dict[Circuit, Site] = {}
        self._compiled: dict[tuple[object, ...], NoisyCircuit] = {}

    def bind(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Weights
    ) -> BoundCircuit:
        """Bind a circuit to weights of shape (*blocks, n_weights).

        Returns:
            A function of inputs (*blocks, rows, n_inputs) that returns the expectation values
            (*blocks, rows, n_observables) in float32, or in float64 where an argument is.

        Raises:
            ConfigError: More than 6 qubits, shapes that do not fit, or a circuit that has no place on the chip.
        """
        check_fit(self, circuit, weights)
        (bound,) = self.bind_each(circuit, observables, weights[None])
        return bound

    def bind_each(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> list[BoundCircuit]:
        """Bind to each entry of weights (n_entries, *blocks, n_weights), all in one go."""
        check_fit(self, circuit, weights)
        site = self.site_of(circuit)
        shared = _SharedOperators(self, circuit, tuple(observables), weights, site)
        return [_BoundNoisy(shared, i) for i in range(len(weights))]

    def site_of(self, circuit: Circuit) -> Site:
        """Return the form in which the chip runs a circuit, and where; SWAPs only where nothing else fits.

        Raises:
            ConfigError: The circuit does not fit the given place, or none on the chip.
            MissingExtraError: The circuit needs SWAPs and qiskit is not installed.
        """
        if circuit not in self._sites:
            self._sites[circuit] = self._find_site(circuit)
        return self._sites[circuit]

    def compiled(
        self,
        circuit: Circuit,
        observables: tuple[ZProduct, ...],
        site: Site,
        device: torch.device,
        dtype: torch.dtype,
    ) -> NoisyCircuit:
        """Return what is known of a circuit without its weights, made on first use."""
        key = (circuit, observables, site, device, dtype)
        if key not in self._compiled:
            # Constants are made outside of any inference mode, so that training can use them later,
            # and of any `torch.device(...)` around the caller.
            with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
                made = NoisyCircuit(site, circuit.n_inputs, observables, self.noise, device, dtype)
            self._compiled[key] = made
        return self._compiled[key]

    def _find_site(self, circuit: Circuit) -> Site:
        if self.place is None:
            fitted = fit_to_chip(circuit, self.calibration)
            return Site(fitted.native, fitted.readout, fitted.places[0].qubits)
        native = compile_native(circuit)
        _check_place(self.place, native, self.calibration, circuit.name)
        return Site(native, tuple(range(circuit.n_qubits)), self.place)


def _check_place(
    place: tuple[int, ...], native: NativeCircuit, chip: Calibration, name: str
) -> None:
    if len(place) != native.n_qubits or len(set(place)) != len(place):
        raise ConfigError(
            f"Circuit '{name}' needs a place of {native.n_qubits} different qubits; got {place}."
        )
    dead = [qubit for qubit in place if qubit not in chip.qubits]
    if dead:
        raise ConfigError(f"Place {place}: chip '{chip.chip}' has no living qubit {dead[0]}.")
    for first, second in sorted(native.couplings):
        if chip.cz_fidelity(place[first], place[second]) == 0:
            raise ConfigError(
                f"Place {place}: circuit '{name}' couples its qubits {first} and {second}, but chip "
                f"'{chip.chip}' has no working coupler between {place[first]} and {place[second]}."
            )


class _SharedOperators:
    """Operators of many circuits of one shape, made together on first use."""

    def __init__(
        self,
        backend: NoisyBackend,
        circuit: Circuit,
        observables: tuple[ZProduct, ...],
        weights: Tensor,
        site: Site,
    ):
        self.backend, self.circuit, self.observables = backend, circuit, observables
        self.weights, self.site = weights, site
        self.n_blocks = math.prod(weights.shape[1:-1])
        self.made: dict[tuple[torch.dtype, bool], list[list[Tensor]]] = {}

    def operators(self, index: int, compiled: NoisyCircuit) -> list[Tensor]:
        """Return the operators of one entry, (n_blocks, ...) each."""
        # One entry may be used where autograd does not record before another is used where it does.
        key = (compiled.dtype, torch.is_grad_enabled())
        if key not in self.made:
            flat = self.weights.to(compiled.dtype).flatten(0, -2)
            operators = compiled.operators(flat)
            split = [o.unflatten(0, (len(self.weights), self.n_blocks)).unbind() for o in operators]
            self.made[key] = [[each[i] for each in split] for i in range(len(self.weights))]
        return self.made[key][index]


class _BoundNoisy:
    """One circuit with its weights."""

    def __init__(self, shared: _SharedOperators, index: int):
        self.shared, self.index = shared, index

    def __call__(self, inputs: Inputs) -> Expectations:
        shared = self.shared
        check_inputs(shared.circuit, inputs)
        dtype = torch.promote_types(inputs.dtype, shared.weights.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        rows = inputs.to(dtype).reshape(shared.n_blocks, inputs.shape[-2], inputs.shape[-1])
        with torch.autocast(inputs.device.type, enabled=False):
            compiled = shared.backend.compiled(
                shared.circuit, shared.observables, shared.site, inputs.device, dtype
            )
            operators = shared.operators(self.index, compiled)
            result = compiled.evaluate(rows, operators)
        return result.reshape(*inputs.shape[:-1], len(shared.observables))
