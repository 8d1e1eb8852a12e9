"""Where a layer's circuits run and how gradients come back: said once, resolved on first use."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from qpeft.backends import BACKENDS, Backend, BoundCircuit, check_backend_name, get_backend
from qpeft.backends.base import check_fit, check_size
from qpeft.circuits import Circuit, ZProduct
from qpeft.errors import ConfigError, did_you_mean
from qpeft.layers.gradients import RULES, RowByRow
from qpeft.layers.surrogate import measure_surrogates, surrogate_design

GRADIENTS = ("auto", "autograd", "surrogate", *RULES)


@dataclass(frozen=True)
class Evaluation:
    """Where circuits run, and how gradients come back.

    Args:
        backend: A key of `qpeft.backends.BACKENDS` or `REMOTES`, or a backend itself.
        options: Keyword arguments of a named backend's class, JSON data.
        shots: Of each circuit; None for exact values.
        gradient: "autograd" (simulators that are differentiable), "surrogate" (a fixed number of circuits whatever
            the number of rows), "parameter_shift", "spsa" or "straight_through" (circuits for each row); "auto" is
            autograd where there is one, else the surrogate.
        angle_gradient: With the surrogate, how the gradient reaches the trained angles: "parameter_shift", "spsa"
            or "straight_through".
        surrogate_weight: With the surrogate, leave terms out in which more than so many inputs occur: an
            approximation for circuits of many qubits. None keeps all.

    Raises:
        ConfigError: A name is unknown, or two options do not go together.
    """

    backend: str | Backend = "exact"
    options: Mapping[str, Any] = field(default_factory=dict)
    shots: int | None = None
    gradient: str = "auto"
    angle_gradient: str = "parameter_shift"
    surrogate_weight: int | None = None

    def __post_init__(self) -> None:
        for name, valid in (("gradient", GRADIENTS), ("angle_gradient", tuple(RULES))):
            value = getattr(self, name)
            if value not in valid:
                raise ConfigError(f"Unknown {name} {value!r}.{did_you_mean(str(value), valid)}")
        if self.shots is not None and (isinstance(self.shots, bool) or self.shots < 1):
            raise ConfigError(f"shots must be a whole number of at least 1; got {self.shots!r}.")
        if isinstance(self.backend, str):
            check_backend_name(self.backend)
            self._check_named(self.backend)
        if self.surrogate_weight is not None and self.resolved_gradient != "surrogate":
            raise ConfigError(
                f"surrogate_weight={self.surrogate_weight} is for gradient='surrogate'; got "
                f"gradient='{self.gradient}' on backend '{self.name}'. Leave it out."
            )

    def _check_named(self, name: str) -> None:
        if name in BACKENDS and self.shots is not None:
            raise ConfigError(
                f"shots={self.shots}: backend '{name}' computes expectation values without shots and "
                f"takes none. Leave shots out."
            )
        if self.gradient == "autograd" and name not in BACKENDS:
            raise ConfigError(
                f"gradient='autograd' cannot look into backend '{name}'. Use 'surrogate', "
                f"'parameter_shift', 'spsa' or 'straight_through'."
            )

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.backend if isinstance(self.backend, str) else self.backend.name

    @property
    def resolved_gradient(self) -> str:
        """The gradient with "auto" decided."""
        if self.gradient != "auto":
            return self.gradient
        if isinstance(self.backend, str):
            is_differentiable = self.backend in BACKENDS
        else:
            is_differentiable = self.backend.capabilities.is_differentiable
        return "autograd" if is_differentiable else "surrogate"

    def checked(self, circuit: Circuit) -> "Evaluation":
        """Return this, if it suits a circuit, without opening a machine.

        Raises:
            ConfigError: It does not.
        """
        if self.resolved_gradient == "surrogate":
            surrogate_design(circuit, self.surrogate_weight)
        if not isinstance(self.backend, str) or self.backend in BACKENDS:
            check_size(self.open(), circuit)
        return self

    def open(self) -> Backend:
        """Return the backend: of this process, or a remote through the current session of jobs."""
        if not isinstance(self.backend, str):
            return self.backend
        if self.backend in BACKENDS:
            return get_backend(self.backend, self.options)
        from qpeft.jobs import open_backend  # not needed by those who only simulate

        return open_backend(self.backend, self.options, self.shots)

    def bind_each(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> list[BoundCircuit]:
        """Bind a circuit to each entry of weights (n_entries, *blocks, n_weights)."""
        backend, gradient = self.open(), self.resolved_gradient
        if gradient == "autograd":
            return backend.bind_each(circuit, observables, weights)
        check_fit(backend, circuit, weights)
        if gradient == "surrogate":
            rule, weight = self.angle_gradient, self.surrogate_weight
            return [*measure_surrogates(backend, circuit, observables, weights, rule, weight)]
        return [RowByRow(backend, circuit, observables, entry, gradient) for entry in weights]

    def __str__(self) -> str:
        words = [f"backend={self.name}"]
        if self.options:
            words.append(f"options={json.dumps(dict(self.options), sort_keys=True)}")
        if self.shots is not None:
            words.append(f"shots={self.shots}")
        if self.name != "exact" or self.gradient != "auto":
            words.append(f"gradient={self.resolved_gradient}")
        if self.resolved_gradient == "surrogate":
            words.append(f"angle_gradient={self.angle_gradient}")
        if self.surrogate_weight is not None:
            words.append(f"surrogate_weight={self.surrogate_weight}")
        return ", ".join(words)


EXACT = Evaluation()
"""The built-in exact engine."""
