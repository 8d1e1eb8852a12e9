"""The study file: which adapters are compared, on what, and how fairly, as typed and checked data.

    name, title, model, seeds, output_dir
    arms         adapters as in a recipe, with what makes them arms: `control`, `match_parameters`, `differs`,
                 `training`
    subject      the arm on trial; `reference`, the arm that it is measured against; `margin`, between them
    tasks        what they are trained and tested on
    training     as in a recipe, the same for every arm; `evaluation` too
    base_shots   examples in the prompt of the untrained model, which answers without any, too
    tuning       the learning rates that every arm may try
    measures     what else is measured of each trained adapter
    quick        what `--quick` puts in place of other keys

Methods and their options are checked by the plan, against the classes that they belong to.
"""

from collections.abc import Iterator, Mapping
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
from qpeft.study.results import Role
from qpeft.study.spec_problems import OWN_KEYS, cross_problems

Quantity = Literal[
    "parameters", "tokens", "steps", "batch_size", "trials", "training", "circuits", "options"
]
"""What can differ between an arm and the one that it is compared with; "training": other keys of `training`,
"options": those of a control's adapter."""

QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

JOURNAL = "jobs.sqlite"
"""Where a job records what it sends to a quantum machine, in its own folder, if the study names no other place."""

_Count = Annotated[int, Strict(), Field(gt=0)]
_CountFromZero = Annotated[int, Strict(), Field(ge=0)]
_Rate = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
_Name = Annotated[str, Field(pattern=r"^\w[\w.+-]*$")]


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

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in OWN_KEYS if getattr(self, key)}
        return {"name": self.label, "method": self.method, **own, **self.options}


class TaskSpec(_Spec):
    """What the arms are trained and tested on; `training` and `evaluation` replace keys of the study's.

    `reasoning` marks the tasks on which claims about reasoning are judged.
    """

    name: _Name
    title: str = ""
    reasoning: bool = False
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
    base_shots: _CountFromZero = 0
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
            jobs=self._jobs_of(task, folder),
            seed=seed,
            output_dir=folder,
        )

    def _jobs_of(self, task: TaskSpec, folder: Path) -> JobsSpec:
        """Return where a run records its jobs. In a journal that all share, each run has a label of its own."""
        jobs = self.jobs or JobsSpec(journal=folder / JOURNAL)
        return jobs.model_copy(
            update={"label": f"{jobs.label or self.output_dir.name}/{task.name}/{folder.name}"}
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
        return None, found or [(one["loc"], one["msg"]) for one in error.errors()]


def _data_problems(error: ValidationError) -> Iterator[tuple[Key, str]]:
    # What DataSpec and the like say between their own keys: "key: text; key: text".
    for one in error.errors():
        key = one["loc"]
        if one["type"] == "value_error" and key and key[-1] != "seeds":
            for line in str(one["ctx"]["error"]).split("; "):
                yield key, line
