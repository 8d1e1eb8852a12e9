"""What a study will do, counted before anything runs: the arms on the real model, the runs, and who gets what."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peft import PeftConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qpeft.errors import ConfigError, DataError, RecipeError
from qpeft.recipe import AdapterSpec
from qpeft.study.matching import match_lora
from qpeft.study.pace import Pace, measure_pace
from qpeft.study.parity import ParityRow, check_parity
from qpeft.study.results import BASE_ARM, Role
from qpeft.study.spec import ArmSpec, StudySpec, TaskSpec
from qpeft.training.adapting import quiet_libraries
from qpeft.training.data import Splits, load_splits
from qpeft.training.encoding import EncodedSplit, encode_split, pad_token_id
from qpeft.training.methods import build_adapter_config
from qpeft.training.models import dtype_name, load_base, weights_digest
from qpeft.training.plan import AdapterCount, count_adapter, count_steps, expected_memory

Kind = Literal["base", "trial", "run"]


@dataclass(frozen=True)
class PlannedArm:
    """One arm on the real model.

    Args:
        name: Its label.
        role: What part it plays.
        adapter: Its adapter, matched ranks filled in.
        config: The PEFT configuration of that.
        count: Its size.
    """

    name: str
    role: Role
    adapter: AdapterSpec
    config: PeftConfig
    count: AdapterCount


@dataclass(frozen=True)
class PlannedTask:
    """One task as the base model reads it.

    Args:
        name: Its label.
        splits: The examples.
        tokens: Mean number of tokens of a training example.
        longest: Most tokens in a training example.
    """

    name: str
    splits: Splits
    tokens: float
    longest: int


@dataclass(frozen=True)
class Job:
    """One thing to do in a process of its own.

    Args:
        kind: The base model's evaluation, a trial of a learning rate, or a run.
        task: A task's name.
        arm: An arm's name, or "base".
        seed: Of adapter, batches and shots.
        learning_rate: A trial's; None for a run, which waits for the tuning.
        folder: Relative to the study's.
    """

    kind: Kind
    task: str
    arm: str
    seed: int
    learning_rate: float | None
    folder: Path


@dataclass(frozen=True)
class StudyPlan:
    """What a study will do.

    Args:
        spec: The study file.
        n_base: Parameters of the base model.
        weights: What tells its weights from others of the same name, see `qpeft.training.models.weights_digest`.
        arms: In the order of the file.
        tasks: In the order of the file.
        parity: What each arm gets on each task.
        jobs: In the order in which they are begun.
        memory: Expected peak memory of the largest run, in bytes.
        pace: How fast the base model is here, for the guess of the time.
    """

    spec: StudySpec
    n_base: int
    weights: str
    arms: tuple[PlannedArm, ...]
    tasks: tuple[PlannedTask, ...]
    parity: tuple[ParityRow, ...]
    jobs: tuple[Job, ...]
    memory: int
    pace: Pace

    def arm(self, name: str) -> PlannedArm:
        """Return the arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def task(self, name: str) -> PlannedTask:
        """Return the task of that name."""
        return next(task for task in self.tasks if task.name == name)


def plan_study(spec: StudySpec) -> StudyPlan:
    """Return what a study will do, with every arm counted on the real model, and refuse what is not fair.

    Args:
        spec: The study file, from `load_study`.

    Raises:
        RecipeError: An arm's method or options are wrong; holds every problem found.
        StudyError: An arm differs from what it is compared with, and the study file does not say why.
        QpeftError: The model or the data cannot be used.
    """
    _check_adapters(spec)
    with quiet_libraries():
        model, tokenizer = load_base(spec.model)
    spec, weights = _with_dtype(spec, model), weights_digest(model)
    arms = _plan_arms(spec, model)
    encoded = {task.name: _encode(spec, task, tokenizer) for task in spec.tasks}
    tasks = tuple(
        PlannedTask(name, splits, train.mean_length, train.longest)
        for name, (splits, train) in encoded.items()
    )
    parity = tuple(
        _parity_row(spec, spec.task(task.name), arm, encoded[task.name][1])
        for task in tasks
        for arm in arms
    )
    check_parity(spec, parity)
    memory = max(
        expected_memory(
            model, arm.count.n_trainable, spec.training_of(task, spec.arm(arm.name)), longest
        )
        for arm in arms
        for task in spec.tasks
        for longest in [encoded[task.name][1].longest]
    )
    pace = measure_pace(model, _largest_batch(spec, encoded), pad_token_id(tokenizer))
    jobs = tuple(_jobs(spec))
    return StudyPlan(spec, model.num_parameters(), weights, arms, tasks, parity, jobs, memory, pace)


def _with_dtype(spec: StudySpec, model: PreTrainedModel) -> StudySpec:
    """Return the study with the type of the weights that `auto` is here: on another machine it may be another."""
    if spec.model.dtype != "auto":
        return spec
    chosen = spec.model.model_copy(update={"dtype": dtype_name(model.dtype)})
    return spec.model_copy(update={"model": chosen})


def trial_folder(task: str, arm: str, learning_rate: float) -> Path:
    """Return where a trial lies, relative to the study's folder."""
    return Path(task) / arm / "trials" / f"lr{learning_rate:g}"


def run_folder(task: str, arm: str, seed: int) -> Path:
    """Return where a run lies, relative to the study's folder."""
    return Path(task) / arm / f"seed{seed}"


def _check_adapters(spec: StudySpec) -> None:
    # Before the model is loaded: this takes no time.
    problems = []
    for i, arm in enumerate(spec.arms):
        try:
            build_adapter_config(plain_adapter(arm), f"arms.{i}")
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)


def plain_adapter(arm: ArmSpec) -> AdapterSpec:
    """Return an arm's adapter as a recipe has it."""
    return AdapterSpec(method=arm.method, name=arm.label, options=arm.options)


def _plan_arms(spec: StudySpec, model: PreTrainedModel) -> tuple[PlannedArm, ...]:
    planned: dict[str, PlannedArm] = {}
    # Those that are matched come after those that they are matched to.
    for i, arm in sorted(enumerate(spec.arms), key=lambda pair: _n_matches(spec, pair[1])):
        adapter, where = plain_adapter(arm), f"arms.{i}"
        if arm.match_parameters is not None:
            target = planned[arm.match_parameters].count.n_trainable
            with _told_of(f"Arm '{arm.label}'"):
                adapter = match_lora(model, adapter, target, where)
        config = build_adapter_config(adapter, where)
        with _told_of(f"Arm '{arm.label}'"):
            count = count_adapter(model, config)
        planned[arm.label] = PlannedArm(arm.label, spec.role_of(arm), adapter, config, count)
    return tuple(planned[arm.label] for arm in spec.arms)


def _n_matches(spec: StudySpec, arm: ArmSpec) -> int:
    """Return how many arms have to be counted before this one."""
    seen = [arm.label]
    while arm.match_parameters is not None:
        if arm.match_parameters in seen:
            names = " and ".join(seen)
            raise RecipeError([f"arms: {names} match each other's parameters; fix one of them"])
        arm = spec.arm(arm.match_parameters)
        seen.append(arm.label)
    return len(seen)


def _encode(
    spec: StudySpec, task: TaskSpec, tokenizer: PreTrainedTokenizerBase
) -> tuple[Splits, EncodedSplit]:
    training = spec.training_of(task, spec.arm(spec.reference))
    with _told_of(f"Task '{task.name}'"):
        splits = load_splits(task.data, tokenizer.chat_template is not None)
        return splits, encode_split(tokenizer, splits.train, training)


def _largest_batch(
    spec: StudySpec, encoded: Mapping[str, tuple[Splits, EncodedSplit]]
) -> Sequence[tuple[list[int], list[int]]]:
    """Return a training batch of the task whose examples are longest."""
    task = max(spec.tasks, key=lambda task: encoded[task.name][1].mean_length)
    training = spec.training_of(task, spec.arm(spec.reference))
    return encoded[task.name][1].rows[: training.batch_size]


@contextmanager
def _told_of(part: str) -> Iterator[None]:
    """Put the arm or the task in front of an error that cannot know it."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{part}: {problem}" for problem in error.problems) from error
    except (ConfigError, DataError) as error:
        raise type(error)(f"{part}: {error}") from error


def _parity_row(spec: StudySpec, task: TaskSpec, arm: PlannedArm, train: EncodedSplit) -> ParityRow:
    own = spec.arm(arm.name)
    training = spec.training_of(task, own)
    steps = count_steps(training, len(train.rows))
    batch_size = training.batch_size * training.gradient_accumulation
    step_tokens = round(batch_size * train.mean_length)
    other = {key: own.training[key] for key in own.training if key not in _COUNTED}
    return ParityRow(
        task=task.name,
        arm=arm.name,
        compared_with=spec.compared_with(own),
        parameters=arm.count.n_trainable,
        tokens=steps * step_tokens,
        steps=steps,
        batch_size=batch_size,
        trials=max(len(spec.tuning.learning_rates), 1),
        circuits=step_tokens * arm.count.n_circuits,
        training=", ".join(f"{key}: {value}" for key, value in sorted(other.items())),
    )


# Keys of `training` whose effect is among the numbers that are compared.
_COUNTED = ("steps", "epochs", "batch_size", "gradient_accumulation")


def _jobs(spec: StudySpec) -> Iterator[Job]:
    for task in spec.tasks:
        yield Job("base", task.name, BASE_ARM, spec.seeds[0], None, Path(task.name) / BASE_ARM)
    for task in spec.tasks:
        for arm in spec.arms:
            for rate in spec.tuning.learning_rates:
                folder = trial_folder(task.name, arm.label, rate)
                yield Job("trial", task.name, arm.label, spec.tuning.seed, rate, folder)
    # Seed by seed, so that a study that is cut short has whole seeds.
    for seed in spec.seeds:
        for task in spec.tasks:
            for arm in spec.arms:
                folder = run_folder(task.name, arm.label, seed)
                yield Job("run", task.name, arm.label, seed, None, folder)


def n_workers_for(plan: StudyPlan, n_cores: int, free_memory: int) -> int:
    """Return how many processes the machine can carry at once, at least one.

    Args:
        plan: Of the study.
        n_cores: Cores of the machine.
        free_memory: Bytes that are free.
    """
    # Python and its libraries take about 1 GiB in every process.
    return max(1, min(n_cores, math.floor(free_memory / (plan.memory + 2**30))))
