"""What training a recipe on a quantum machine would send, for each way to a gradient, before anything is sent.

Programs and jobs are what the backend itself makes of a sample batch; nothing leaves this process. A run may send
less: circuits whose result is in the journal, and gradients of circuits without influence, are not sent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from peft import PeftConfig
from transformers import PreTrainedModel

from qpeft.adapters import QthaConfig
from qpeft.adapters.qtha import QthaAdapter
from qpeft.backends import REMOTES, CircuitBatch, Remote, get_remote
from qpeft.circuits import Circuit, Input, build_ansatz
from qpeft.errors import ConfigError, QpeftError
from qpeft.layers import QuantumLayer
from qpeft.layers.gradients import RULES, n_gradient_circuits
from qpeft.layers.surrogate import MAX_POINTS, n_surrogate_circuits
from qpeft.recipe import Recipe
from qpeft.training.adapting import quiet_libraries
from qpeft.training.data import load_splits
from qpeft.training.encoding import encode_split
from qpeft.training.methods import build_adapter_config
from qpeft.training.models import load_base
from qpeft.training.plan import adapted_copy, count_steps

SAMPLE = 1000
"""Circuits of the sample batch from which the packing is read off."""


@dataclass(frozen=True)
class Cost:
    """What is sent.

    Args:
        circuits: Circuits.
        programs: Programs of the chip, several circuits side by side where the backend packs.
        jobs: Submissions.
        shots: Shots of all programs.
    """

    circuits: int = 0
    programs: int = 0
    jobs: int = 0
    shots: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.circuits + other.circuits,
            self.programs + other.programs,
            self.jobs + other.jobs,
            self.shots + other.shots,
        )

    def __mul__(self, times: int) -> "Cost":
        return Cost(
            self.circuits * times, self.programs * times, self.jobs * times, self.shots * times
        )


@dataclass(frozen=True)
class StrategyPlan:
    """One way to a gradient.

    Args:
        gradient: What `gradient` in the recipe would say.
        angle_gradient: What `angle_gradient` would say; None where it has no meaning.
        step: What one optimiser step sends.
        total: What the training and the evaluation of the trained adapter send.
        seconds: Estimated time at the machine for all, queue included; None where it is not known.
        money: Estimated cost of all, in the price's currency; None where it is not known.
        is_chosen: Whether the recipe says this one.
    """

    gradient: str
    angle_gradient: str | None
    step: Cost
    total: Cost
    seconds: float | None
    money: float | None
    is_chosen: bool


@dataclass(frozen=True)
class HardwarePlan:
    """What an adapter's circuits would send.

    Args:
        adapter: The adapter's label.
        backend: The backend's name.
        n_layers: Adapted layers whose circuits run there.
        n_blocks: Circuits of all of them for one token.
        n_qubits: Qubits of a circuit.
        n_tokens: Tokens of an optimiser step.
        n_steps: Optimiser steps.
        shots: Of each circuit.
        circuits_per_program: How many circuits stand side by side on the chip.
        currency: Of `StrategyPlan.money`.
        price_source: Where times and prices are from.
        strategies: The ways to a gradient.
    """

    adapter: str
    backend: str
    n_layers: int
    n_blocks: int
    n_qubits: int
    n_tokens: int
    n_steps: int
    shots: int | None
    circuits_per_program: float
    currency: str
    price_source: str
    strategies: tuple[StrategyPlan, ...]


def plan_hardware(recipe: Recipe) -> list[HardwarePlan]:
    """Return what each adapter of a recipe that uses a quantum machine would send.

    Args:
        recipe: The resolved recipe.

    Raises:
        QpeftError: No adapter of the recipe runs on a machine, or its options do not fit.
    """
    specs = (recipe.adapter, *recipe.baselines)
    keys = ["adapter", *(f"baselines.{i}" for i in range(len(recipe.baselines)))]
    configs = {s.label: build_adapter_config(s, k) for s, k in zip(specs, keys, strict=True)}
    remote = {name: config for name, config in configs.items() if _is_remote(config)}
    if not remote:
        raise QpeftError(
            f"No adapter of this recipe sends anything: all circuits run in this process. "
            f"Name a machine with --backend; there are {', '.join(REMOTES)}."
        )
    with quiet_libraries():
        model, tokenizer = load_base(recipe.model)
    splits = load_splits(recipe.data, tokenizer.chat_template is not None)
    train = encode_split(tokenizer, splits.train, recipe.training, "train")
    spec = recipe.training
    rows = spec.batch_size * spec.gradient_accumulation
    load = _Load(
        n_tokens=round(rows * train.mean_length),
        n_micro_batches=spec.gradient_accumulation,
        n_steps=count_steps(spec, len(train.rows)),
        n_evaluated=_evaluated_tokens(recipe, train.mean_length, len(splits.test)),
    )
    return [_plan_adapter(name, config, model, load) for name, config in remote.items()]


def check_machine(config: PeftConfig) -> None:
    """Raise if an adapter's machine cannot be used: no package, key or network, a circuit without a place.

    Asked before a run begins, not after its first hour. One circuit is prepared and nothing is sent; an adapter
    without a machine passes.

    Raises:
        QpeftError: What is missing, and what to do.
    """
    if not isinstance(config, QthaConfig) or not _is_remote(config):
        return
    n_qubits, is_entangled = config.r // config.groups, config.core != "product"
    circuit = build_ansatz(config.ansatz, n_qubits, config.n_layers, is_entangled=is_entangled)
    untied = circuit.untied()
    remote = get_remote(config.backend, config.backend_options)
    if config.shots is None and not remote.limits.has_exact_results:
        raise ConfigError(f"Backend '{config.backend}' needs a number of shots, for example 1000.")
    remote.prepare(CircuitBatch(untied, np.zeros((1, untied.n_inputs)), config.shots))


@dataclass(frozen=True)
class _Load:
    n_tokens: int
    n_micro_batches: int
    n_steps: int
    n_evaluated: int


def _is_remote(config: PeftConfig) -> bool:
    return isinstance(config, QthaConfig) and config.backend in REMOTES


def _evaluated_tokens(recipe: Recipe, mean_length: float, n_test: int) -> int:
    """Return about how many tokens the trained adapter reads and writes in its evaluation."""
    spec = recipe.evaluation
    read = sum((n_shots + 1) * mean_length for n_shots in spec.n_shots)
    return round(n_test * (read + len(spec.n_shots) * spec.max_new_tokens))


def _plan_adapter(
    name: str, config: QthaConfig, model: PreTrainedModel, load: _Load
) -> HardwarePlan:
    adapters = [m for m in adapted_copy(model, config).modules() if isinstance(m, QthaAdapter)]
    layers = [
        adapter.core
        for adapter in adapters
        if isinstance(adapter.core, QuantumLayer) and adapter.core.evaluation.name == config.backend
    ]
    if not layers:
        raise ConfigError(
            f"Adapter '{name}' has no circuits on backend '{config.backend}'. Look at core, "
            f"backend_layers and target_modules."
        )
    circuit = layers[0].circuit
    remote = get_remote(config.backend, config.backend_options)
    sender = _Sender(remote, circuit, config.shots)
    n_blocks = sum(layer.groups for layer in layers)
    strategies = [
        _plan_strategy(gradient, rule, config, sender, layers, load)
        for gradient, rule in _strategies(circuit, config.surrogate_weight)
    ]
    return HardwarePlan(
        adapter=name,
        backend=config.backend,
        n_layers=len(layers),
        n_blocks=n_blocks,
        n_qubits=circuit.n_qubits,
        n_tokens=load.n_tokens,
        n_steps=load.n_steps,
        shots=config.shots,
        circuits_per_program=sender.circuits_per_program,
        currency=remote.price.currency,
        price_source=remote.price.source,
        strategies=tuple(strategies),
    )


def _strategies(circuit: Circuit, weight: int | None) -> list[tuple[str, str | None]]:
    points = n_surrogate_circuits(circuit.n_inputs, max(1, circuit.n_uploads()), weight)
    surrogates = [("surrogate", rule) for rule in RULES] if points <= MAX_POINTS else []
    return [*surrogates, *((rule, None) for rule in RULES)]


class _Sender:
    """Says how many programs and jobs a number of circuits makes."""

    def __init__(self, remote: Remote, circuit: Circuit, shots: int | None):
        untied = circuit.untied()
        angles = np.random.default_rng(0).uniform(-3, 3, (SAMPLE, untied.n_inputs))
        requests = remote.prepare(CircuitBatch(untied, angles, shots))
        self.circuits_per_program = SAMPLE / sum(request.n_programs for request in requests)
        self.remote, self.shots = remote, shots

    def cost(self, n_circuits: int, n_batches: int = 1) -> Cost:
        """Return what a number of circuits costs that go out in equal batches."""
        a_batch = math.ceil(n_circuits / n_batches)
        programs = math.ceil(a_batch / self.circuits_per_program)
        jobs = math.ceil(programs / self.remote.limits.max_programs)
        shots = programs * (self.shots or 0)
        return Cost(0, programs, jobs, shots) * n_batches + Cost(circuits=n_circuits)


def _plan_strategy(
    gradient: str,
    rule: str | None,
    config: QthaConfig,
    sender: _Sender,
    layers: Sequence[QuantumLayer],
    load: _Load,
) -> StrategyPlan:
    circuit = layers[0].circuit
    n_blocks = sum(layer.groups for layer in layers)
    if rule is not None:
        points = n_surrogate_circuits(
            circuit.n_inputs, max(1, circuit.n_uploads()), config.surrogate_weight
        )
        is_data = [isinstance(g.angle, Input) for g in circuit.gates if g.angle is not None]
        trained = [column for column, is_input in enumerate(is_data) if not is_input]
        n_more = n_gradient_circuits(circuit, rule, trained)
        # The circuits of all layers are one batch.
        forward = sender.cost(n_blocks * points)
        backward = sender.cost(n_blocks * points * n_more) if n_more else Cost()
        # A validation or an evaluation after a step finds the coefficients already measured, or
        # measures what the next step would.
        step, evaluation = forward + backward, forward
    else:
        n_more = n_gradient_circuits(circuit, gradient)
        n_batches = len(layers) * load.n_micro_batches
        rows = n_blocks * load.n_tokens
        step = sender.cost(rows, n_batches)
        step += sender.cost(rows * n_more, n_batches) if n_more else Cost()
        evaluation = sender.cost(n_blocks * load.n_evaluated, len(layers))
    total = step * load.n_steps + evaluation
    seconds, money = _estimate(sender.remote, total)
    chosen = config.gradient if config.gradient != "auto" else "surrogate"
    is_chosen = gradient == chosen and rule in (None, config.angle_gradient)
    return StrategyPlan(gradient, rule, step, total, seconds, money, is_chosen)


def _estimate(remote: Remote, cost: Cost) -> tuple[float | None, float | None]:
    price = remote.price
    seconds = money = None
    if price.seconds_per_job is not None or price.seconds_per_shot is not None:
        seconds = cost.jobs * (price.seconds_per_job or 0.0)
        seconds += cost.shots * (price.seconds_per_shot or 0.0)
    if price.cost_per_job is not None or price.cost_per_shot is not None:
        money = cost.jobs * (price.cost_per_job or 0.0) + cost.shots * (price.cost_per_shot or 0.0)
    return seconds, money
