"""The study file: which adapters are compared, on what, and how fairly, as typed and checked data.

    name, title, model, seeds, output_dir
    arms         adapters as in a recipe, with what makes them arms: `control`, `match_parameters`, `differs`,
                 `training`
    subject      the arm on trial; `reference`, the arm that it is measured against; `margin`, between them
    tasks        what they are trained and tested on
    training     as in a recipe, the same for every arm; `evaluation` too
    tuning       the learning rates that every arm may try
    measures     what else is measured of each trained adapter
    quick        what `--quick` puts in place of other keys

Methods and their options are checked by the plan, against the classes that they belong to.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from qpeft.recipe import (
    AdapterSpec,
    DataSpec,
    EvaluationSpec,
    JobsSpec,
    ModelSpec,
    Recipe,
    TrainingSpec,
)
from qpeft.recipe_text import Key, dotted, plain_words, write_yaml
from qpeft.study.measures.spec import MeasureSpec
from qpeft.study.results import BASE_ARM, Role

Quantity = Literal["parameters", "tokens", "steps", "batch_size", "trials", "training", "circuits"]
"""What can differ between an arm and the one that it is compared with; "training": other keys of `training`."""

QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

_Count = Annotated[int, Strict(), Field(gt=0)]
_CountFromZero = Annotated[int, Strict(), Field(ge=0)]
_Rate = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
_Name = Annotated[str, Field(pattern=r"^\w[\w.+-]*$")]
# What stands in the study's folder, and in a task's, beside the folders of tasks and arms.
_TAKEN_TASKS = (
    "method_comparison",
    "report",
    "samples",
    *("study.yaml", "study.json", "rows.csv", "scores.csv", "ansatzes.json"),
)
_TAKEN_ARMS = (BASE_ARM, "data", "eval", "predictions", "trials")


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArmSpec(AdapterSpec):
    """An adapter as in a recipe, and what makes it an arm of a study.

    `control` marks the subject with its circuit exchanged: it is compared with the subject instead of the
    reference. `match_parameters` names the arm whose number of parameters LoRA's ranks are chosen for. `differs`
    says by quantity why an arm may differ from what it is compared with. `training` replaces keys of the study's.
    """

    control: bool = False
    match_parameters: str | None = None
    differs: dict[Quantity, Annotated[str, Field(min_length=1)]] = Field(default={})
    training: dict[str, Any] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, value: Any) -> Any:
        value = {"method": value} if isinstance(value, str) else value
        if not isinstance(value, Mapping) or isinstance(value.get("options", {}), str | list):
            return value
        own = {key: value[key] for key in cls.model_fields if key in value}
        loose = {key: v for key, v in value.items() if key not in cls.model_fields}
        return {**own, "options": {**(value.get("options") or {}), **loose}}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in _ARM_KEYS if getattr(self, key)}
        return {"name": self.label, "method": self.method, **own, **self.options}


_ARM_KEYS = ("control", "match_parameters", "differs", "training")


class TaskSpec(_Spec):
    """What the arms are trained and tested on; `training` and `evaluation` replace keys of the study's."""

    name: _Name
    title: str = ""
    data: DataSpec
    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}


class TuningSpec(_Spec):
    """The learning rates that every arm tries on every task; the best validation loss after `steps` wins.

    Without learning rates every arm has one trial: the fixed `training.learning_rate`.
    """

    learning_rates: list[_Rate] = []
    steps: _Count | None = None
    seed: _CountFromZero = 0


class StudySpec(_Spec):
    """A study: arms x tasks x seeds."""

    name: _Name
    title: str = ""
    model: ModelSpec
    seeds: Annotated[list[_CountFromZero], Field(min_length=1)] = [0]
    subject: str
    reference: str
    margin: Annotated[float, Strict(), Field(gt=0, lt=1)] = 0.05
    arms: Annotated[list[ArmSpec], Field(min_length=2)]
    tasks: Annotated[list[TaskSpec], Field(min_length=1)]
    training: TrainingSpec
    evaluation: EvaluationSpec = EvaluationSpec()
    tuning: TuningSpec = TuningSpec()
    measures: MeasureSpec = MeasureSpec()
    jobs: JobsSpec | None = None
    output_dir: Path = Path("runs/study")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands here twice")
        return seeds

    @model_validator(mode="after")
    def _check(self) -> Self:
        lines = [f"{dotted(key)}: {text}" for key, text in cross_problems(self.model_dump())]
        if lines:
            raise ValueError("; ".join(lines))
        return self

    def arm(self, name: str) -> ArmSpec:
        """Return the arm of that name."""
        return next(arm for arm in self.arms if arm.label == name)

    def task(self, name: str) -> TaskSpec:
        """Return the task of that name."""
        return next(task for task in self.tasks if task.name == name)

    def role_of(self, arm: ArmSpec) -> Role:
        """Return what part an arm plays."""
        if arm.label == self.subject:
            return "subject"
        if arm.label == self.reference:
            return "reference"
        return "control" if arm.control else "rival"

    def compared_with(self, arm: ArmSpec) -> str:
        """Return the name of the arm whose budget an arm has to keep to."""
        return self.subject if self.role_of(arm) == "control" else self.reference

    def training_of(self, task: TaskSpec, arm: ArmSpec) -> TrainingSpec:
        """Return how an arm is trained on a task."""
        return TrainingSpec.model_validate(
            {**self.training.model_dump(), **task.training, **arm.training}
        )

    def evaluation_of(self, task: TaskSpec) -> EvaluationSpec:
        """Return how answers are taken on a task; the base model has a run of its own."""
        own = {**self.evaluation.model_dump(), **task.evaluation, "base_model": False}
        return EvaluationSpec.model_validate(own)

    def recipe(
        self, task: TaskSpec, arm: ArmSpec, adapter: AdapterSpec, seed: int, folder: Path
    ) -> Recipe:
        """Return the recipe of one run, as `qpeft train` would take it.

        Args:
            task: What it is trained on.
            arm: How it is trained.
            adapter: What is trained: the arm's adapter, matched ranks filled in.
            seed: Of adapter, batches and shots.
            folder: The run's folder.
        """
        return Recipe(
            model=self.model,
            adapter=adapter,
            data=task.data,
            training=self.training_of(task, arm),
            evaluation=self.evaluation_of(task),
            jobs=self.jobs or JobsSpec(journal=folder / "jobs.sqlite"),
            seed=seed,
            output_dir=folder,
        )

    def to_yaml(self) -> str:
        """Return the whole study, defaults included, as YAML."""
        return write_yaml(self.model_dump(mode="json"))


def validate_study(raw: Mapping[str, Any]) -> tuple[StudySpec | None, list[tuple[Key, str]]]:
    """Return the study of a mapping, or every mistake in it with its key."""
    try:
        return StudySpec.model_validate(raw), []
    except ValidationError as error:
        found = []
        for one in error.errors():
            if one["type"] != "value_error":
                found.append(plain_words(one, StudySpec))
            elif one["loc"] and one["loc"][-1] == "seeds":
                found.append((one["loc"], str(one["ctx"]["error"])))
        found += cross_problems(raw)
        found += _data_problems(error)
        return None, found


def cross_problems(raw: Mapping[str, Any]) -> list[tuple[Key, str]]:
    """Return what is wrong between the keys of a study, each with its key.

    It reads plain mappings, so that it runs beside the checks of single keys, not after them.
    """
    return [
        *_arm_problems(raw),
        *_part_problems(raw),
        *_task_problems(raw),
        *_tuning_problems(raw),
    ]


def arm_label(arm: Any) -> str | None:
    """Return the name of an arm as it stands in a study file; None if it has none."""
    if isinstance(arm, str):
        return arm
    named = (arm.get("name") or arm.get("method")) if isinstance(arm, Mapping) else None
    return None if named is None else str(named)


def _data_problems(error: ValidationError) -> Iterator[tuple[Key, str]]:
    # What DataSpec and the like say between their own keys: "key: text; key: text".
    for one in error.errors():
        key = one["loc"]
        if one["type"] == "value_error" and key and key[-1] != "seeds":
            for line in str(one["ctx"]["error"]).split("; "):
                yield key, line


def _arm_problems(raw: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    arms = _listed(raw, "arms")
    labels = [arm_label(arm) for arm in arms]
    for i, (arm, label) in enumerate(zip(arms, labels, strict=True)):
        if label is None:
            continue  # the check of the single key says so
        if label.lower() in _TAKEN_ARMS:
            yield ("arms", i, "name"), f"'{label}' is used by the folder itself; choose another"
        if label.lower() in [str(other).lower() for other in labels[:i]]:
            text = f"a second arm is called '{label}'; give it another 'name'"
            yield ("arms", i, "name"), text
        if not isinstance(arm, Mapping):
            continue
        yield from _override_problems(raw, ("arms", i, "training"), arm, TrainingSpec)
        yield from _match_problems(("arms", i, "match_parameters"), arm, labels)
        own = arm.get("training")
        if isinstance(own, Mapping) and "learning_rate" in own and _rates(raw):
            text = "the tuning chooses it for every arm; remove it, or empty tuning.learning_rates"
            yield ("arms", i, "training", "learning_rate"), text


def _match_problems(
    key: Key, arm: Mapping[str, Any], labels: Sequence[str | None]
) -> Iterator[tuple[Key, str]]:
    target = arm.get("match_parameters")
    if target is None:
        return
    others = [label for label in labels if label is not None and label != arm_label(arm)]
    if target not in others:
        yield key, f"no other arm is called '{target}'; there are: {', '.join(others)}"
    if str(arm.get("method")).lower() != "lora":
        yield key, f"ranks can be chosen for method lora only, got '{arm.get('method')}'"
    for chosen in ("r", "lora_alpha", "rank_pattern", "alpha_pattern"):
        if chosen in arm:
            yield (*key[:-1], chosen), "match_parameters chooses it; remove one of the two"


def _part_problems(raw: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    labels = [label for label in map(arm_label, _listed(raw, "arms")) if label]
    for part in ("subject", "reference"):
        name = raw.get(part)
        if isinstance(name, str) and labels and name not in labels:
            yield (part,), f"no arm is called '{name}'; there are: {', '.join(labels)}"
    if isinstance(raw.get("subject"), str) and raw["subject"] == raw.get("reference"):
        yield ("reference",), "is the subject itself; name the arm that it is measured against"
    arms = _listed(raw, "arms")
    methods = {arm_label(arm): _method(arm) for arm in arms}
    subject = methods.get(str(raw.get("subject")))
    for i, arm in enumerate(arms):
        if not isinstance(arm, Mapping) or arm.get("control") is not True:
            continue
        if arm_label(arm) in (raw.get("subject"), raw.get("reference")):
            yield ("arms", i, "control"), "the subject and the reference are no controls; remove it"
        elif subject is not None and _method(arm) != subject:
            yield (
                ("arms", i, "control"),
                f"a control is the subject with its circuit exchanged, so its method is {subject}, "
                f"not {_method(arm)}; remove 'control', and it is compared with the reference",
            )


def _method(arm: Any) -> str | None:
    method = arm if isinstance(arm, str) else None
    if isinstance(arm, Mapping):
        method = arm.get("method")
    return None if method is None else str(method).lower()


def _task_problems(raw: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    seen: set[str] = set()
    for i, task in enumerate(_listed(raw, "tasks")):
        if not isinstance(task, Mapping):
            continue
        name = str(task.get("name")).lower()
        if name in seen:
            yield ("tasks", i, "name"), f"a second task is called '{name}'; give it another name"
        if name in _TAKEN_TASKS:
            yield ("tasks", i, "name"), f"'{name}' is used by the folder itself; choose another"
        seen.add(name)
        yield from _override_problems(raw, ("tasks", i, "training"), task, TrainingSpec)
        yield from _override_problems(raw, ("tasks", i, "evaluation"), task, EvaluationSpec)
        data = task.get("data")
        if not isinstance(data, Mapping):
            continue
        parts = [data.get(key) for key in ("splits", "files")]
        own = {k: v for part in parts if isinstance(part, Mapping) for k, v in part.items()}
        if data.get("n_test") is None and own.get("test") is None:
            yield ("tasks", i, "data", "n_test"), "missing: set how many examples to test on"
        if _rates(raw) and data.get("n_validation") is None and own.get("validation") is None:
            text = "missing: the tuning is judged on validation examples"
            yield ("tasks", i, "data", "n_validation"), text


def _tuning_problems(raw: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    rates = _rates(raw)
    # As the trials' folders are called: six digits.
    named = [f"{rate:g}" if isinstance(rate, int | float) else str(rate) for rate in rates]
    if len(set(named)) < len(named):
        yield ("tuning", "learning_rates"), "a learning rate stands here twice"
    training = raw.get("training")
    if isinstance(training, Mapping) and training.get("early_stopping") is not None:
        text = "the arms of a study take the same number of steps; remove it"
        yield ("training", "early_stopping"), text


def _override_problems(
    raw: Mapping[str, Any], key: Key, part: Mapping[str, Any], spec: type[BaseModel]
) -> Iterator[tuple[Key, str]]:
    own, common = part.get(str(key[-1])), raw.get(str(key[-1]))
    if not isinstance(own, Mapping) or not isinstance(common or {}, Mapping):
        return
    if own.get("early_stopping") is not None:
        text = "the arms of a study take the same number of steps; remove it"
        yield (*key, "early_stopping"), text
    try:
        spec.model_validate({**(common or {}), **own})
    except ValidationError as error:
        for one in error.errors():
            if one["type"] == "value_error":
                yield key, str(one["ctx"]["error"])
            elif one["loc"][0] in own:  # else the study's own part says so
                found, text = plain_words(one, spec)
                yield (*key, *found), text


def _rates(raw: Mapping[str, Any]) -> list[Any]:
    tuning = raw.get("tuning")
    rates = tuning.get("learning_rates") if isinstance(tuning, Mapping) else None
    return rates if isinstance(rates, list) else []


def _listed(raw: Mapping[str, Any], key: str) -> list[Any]:
    found = raw.get(key)
    return found if isinstance(found, list) else []
