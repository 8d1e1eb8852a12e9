"""The recipe: what to train, on what, how, as typed and checked data.

`load_recipe` reads a YAML file, applies `--set` overrides and reports every mistake at once,
one line each, with the file, the key and what would have been right. This module knows the
recipe's own keys only: the options of an adapter are checked against its configuration class in
`training.methods`, those of a task in `training.tasks`. It imports nothing heavy, because every
command of the CLI starts with it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from qpeft.errors import RecipeError
from qpeft.recipe_text import (
    Key,
    apply_overrides,
    dotted,
    place,
    plain_words,
    read_yaml,
    write_yaml,
)

__all__ = [
    "AdapterSpec",
    "DataSpec",
    "EvaluationSpec",
    "FileSplits",
    "HubSplits",
    "JobsSpec",
    "ModelSpec",
    "Recipe",
    "TrainingSpec",
    "load_recipe",
]


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> "Recipe":
    """Read a recipe file, apply the overrides and check all of it.

    Relative paths of data and model are taken from the recipe's folder, `output_dir` and the jobs'
    journal from the current one; without `output_dir` it is `runs/<name of the recipe>`.

    Args:
        path: The YAML file.
        overrides: `key.path=value` each, the value written as in YAML.

    Raises:
        RecipeError: The file is missing or not YAML, or keys or values are wrong; holds every
            problem found.

    Example:
        >>> load_recipe("recipes/math.yaml", ["training.steps=20"]).training.steps  # doctest: +SKIP
        20
    """
    path = Path(path)
    raw = read_yaml(path)
    sources, problems = apply_overrides(raw, overrides, _SHORT_FORMS)
    raw.setdefault("output_dir", f"runs/{path.stem}")
    recipe: Recipe | None = None
    found: list[tuple[Key, str]] = []
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        single = [e for e in error.errors() if e["type"] != "value_error"]
        found = [plain_words(e, Recipe) for e in single] + _cross_problems(raw)
    problems += [f"{place(path, key, sources)}: {text}" for key, text in found]
    if problems or recipe is None:
        raise RecipeError(problems)
    return _resolve_paths(recipe, path.parent)


# ---- the data ------------------------------------------------------------------------------


# A key that may hold a name alone, and which key of its long form that name is.
_SHORT_FORMS = {"model": "name", "adapter": "method", "data.files": "train"}


def _no_bool(kind: str) -> BeforeValidator:
    # Python counts True as 1; in a recipe `steps: true` is a mistake.
    def refuse(value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticCustomError(kind, "a truth value where a number belongs")
        return value

    return BeforeValidator(refuse)


_Whole = Annotated[int, _no_bool("int")]
_Count = Annotated[_Whole, Field(gt=0)]
_CountFromZero = Annotated[_Whole, Field(ge=0)]
_Word = Annotated[str, BeforeValidator(str)]  # YAML reads a label such as 0 as a number
_Number = Annotated[float, _no_bool("float"), Field(allow_inf_nan=False)]
_S = TypeVar("_S", bound="_Spec")


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(_Spec):
    """The base model: a name alone, or a name with how to load it."""

    name: str = Field(min_length=1)
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    gguf_file: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    quantization: Literal["8bit", "4bit"] | None = None
    chat_template: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class AdapterSpec(_Spec):
    """A PEFT method and its options; in YAML a name alone, or the options beside `method`."""

    method: str = Field(min_length=1)
    name: str | None = Field(default=None, pattern=r"^\w[\w.+-]*$")
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, value: Any) -> Any:
        value = {"method": value} if isinstance(value, str) else value
        if not isinstance(value, Mapping):
            return value
        options = {} if value.get("options") is None else value["options"]
        if not isinstance(options, Mapping):
            return value
        own = {key: value[key] for key in cls.model_fields if key in value}
        loose = {key: v for key, v in value.items() if key not in cls.model_fields}
        return {**own, "options": {**options, **loose}}

    @field_validator("method")
    @classmethod
    def _lower(cls, method: str) -> str:
        return method.lower()

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        name = {} if self.name is None else {"name": self.name}
        return {"method": self.method, **name, **self.options}

    @property
    def label(self) -> str:
        """What the adapter is called in tables and folders: its name, else its method."""
        return self.name or self.method


class FileSplits(_Spec):
    """The data files of each part; in YAML a single file name means `train`."""

    train: Path
    validation: Path | None = None
    test: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"train": value} if isinstance(value, str | Path) else value


class HubSplits(_Spec):
    """What the parts are called in a hub data set."""

    train: str = "train"
    validation: str | None = None
    test: str | None = None


class DataSpec(_Spec):
    """Where the examples come from: exactly one of `task`, `files` and `hub`.

    `n_train`, `n_validation` and `n_test` are how many examples a task generates; for files and
    hub data they are an upper limit of the part, and a part that has no file of its own is split
    off `train` with `seed`. `limit` is how many rows of each file are read. `labels` says for a
    column which word stands for each of its values; `verifier` judges answers, a task has its own.
    """

    task: str | None = None
    options: dict[str, Any] = {}
    files: FileSplits | None = None
    hub: str | None = None
    name: str | None = None
    revision: str | None = None
    splits: HubSplits = HubSplits()
    format: Literal["auto", "prompt_completion", "messages", "alpaca", "sharegpt"] = "auto"
    prompt: str | None = None
    completion: str | None = None
    labels: dict[str, dict[_Word, str]] = {}
    verifier: Literal["exact", "number", "word"] = "exact"
    n_train: _Count | None = None
    n_validation: _Count | None = None
    n_test: _Count | None = None
    limit: _Count | None = None
    seed: _CountFromZero = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        return _raise_if(self, _data_problems(self.model_dump(exclude_none=True)))


class TrainingSpec(_Spec):
    """How to train; exactly one of `steps` (optimiser steps) and `epochs`."""

    steps: _Count | None = None
    epochs: Annotated[_Number, Field(gt=0)] | None = None
    batch_size: _Count = 16
    gradient_accumulation: _Count = 1
    learning_rate: Annotated[_Number, Field(gt=0)] = 1e-3
    angle_rate_ratio: Annotated[_Number, Field(gt=0)] | None = None
    schedule: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ] = "cosine"
    warmup_steps: _CountFromZero = 0
    weight_decay: Annotated[_Number, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[_Number, Field(gt=0)] = 1.0
    max_length: _Count = 512
    on_long: Literal["error", "truncate", "drop"] = "error"
    loss_on: Literal["completion", "all"] = "completion"
    packing: bool = False
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    evaluate_every: _Count | None = 50
    save_every: _Count | None = 50
    keep_checkpoints: _Count = 2
    early_stopping: _Count | None = None
    loggers: list[
        Literal["tensorboard", "wandb", "mlflow", "comet_ml", "clearml", "trackio", "swanlab"]
    ] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        return _raise_if(self, _training_problems(self.model_dump()))


class EvaluationSpec(_Spec):
    """How base model and adapters are compared after training; `base_model: false` leaves the former out."""

    base_model: bool = True
    n_shots: Annotated[list[_CountFromZero], Field(min_length=1)] = [0]
    max_new_tokens: _Count = 16
    batch_size: _Count = 64
    stop: list[str] = ["\n"]


class JobsSpec(_Spec):
    """Where jobs for quantum hardware are recorded, and what each adapter of the run may send in all.

    `label` is what the journal calls the run; by default its output folder's name.
    """

    journal: Path = Path("qpeft-jobs.sqlite")
    label: Annotated[str, Field(min_length=1)] | None = None
    max_circuits: _Count | None = None
    max_programs: _Count | None = None
    max_shots: _Count | None = None
    max_jobs: _Count | None = None


class Recipe(_Spec):
    """One training run: model, adapter, baselines, data, training, evaluation and hardware jobs."""

    model: ModelSpec
    adapter: AdapterSpec
    baselines: list[AdapterSpec] = []
    data: DataSpec
    training: TrainingSpec
    evaluation: EvaluationSpec = EvaluationSpec()
    jobs: JobsSpec = JobsSpec()
    seed: _CountFromZero = 0
    output_dir: Path = Path("runs/qpeft")

    @model_validator(mode="after")
    def _check(self) -> Self:
        return _raise_if(self, _recipe_problems(self.model_dump(exclude_none=True)))

    def to_yaml(self) -> str:
        """Return the whole recipe, defaults included, as YAML that `load_recipe` reads back."""
        return write_yaml(self.model_dump(mode="json"))


# ---- checks across keys --------------------------------------------------------------------
# They read plain mappings, so that they run beside the checks of single keys, not after them.


def _cross_problems(raw: Mapping[str, Any]) -> list[tuple[Key, str]]:
    parts = {"data": _data_problems, "training": _training_problems}
    found = [
        ((name, *key), text)
        for name, check in parts.items()
        if isinstance(raw.get(name), Mapping)
        for key, text in check(raw[name])
    ]
    return found + _recipe_problems(raw)


def _data_problems(data: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    kinds = [key for key in ("task", "files", "hub") if data.get(key) is not None]
    if len(kinds) != 1:
        got = " and ".join(kinds) or "none of them"
        yield (), f"set exactly one of 'task', 'files' and 'hub', got {got}"
    if kinds == ["task"] and data.get("n_train") is None:
        yield ("n_train",), "missing: set how many training examples the task shall generate"
    for key in ("prompt", "completion"):
        other = "completion" if key == "prompt" else "prompt"
        if "task" not in kinds and data.get(key) is None and data.get(other) is not None:
            yield (key,), f"missing: a template for '{other}' needs one for '{key}' too"
    if data.get("prompt") is not None and data.get("format") in ("alpaca", "sharegpt"):
        yield ("prompt",), f"format '{data['format']}' takes no templates; remove one of the two"
    if data.get("options") and "task" not in kinds:
        yield ("options",), "only a task has options; remove it"
    if data.get("labels") and "task" in kinds:
        yield ("labels",), "a task has no labels of its own to name; remove it"
    if data.get("verifier", "exact") != "exact" and "task" in kinds:
        yield ("verifier",), "a task has a verifier of its own; remove it"


def _training_problems(training: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    steps, epochs = training.get("steps"), training.get("epochs")
    if steps is None and epochs is None:
        yield (), "set exactly one of 'steps' and 'epochs', got none of them"
    if steps is not None and epochs is not None:
        yield (), "set exactly one of 'steps' and 'epochs', got both; set the other one to null"
    if training.get("early_stopping") is not None and training.get("evaluate_every", 0) is None:
        yield ("early_stopping",), "counts validations; set 'evaluate_every' to a number of steps"


def _recipe_problems(raw: Mapping[str, Any]) -> list[tuple[Key, str]]:
    found: list[tuple[Key, str]] = []
    data, training, baselines = (raw.get(key) for key in ("data", "training", "baselines"))
    if isinstance(data, Mapping) and isinstance(training, Mapping):
        own = [data.get(key) for key in ("files", "splits")]
        has_validation = data.get("n_validation") is not None or any(
            isinstance(part, Mapping) and part.get("validation") is not None for part in own
        )
        if training.get("early_stopping") is not None and not has_validation:
            text = "needs validation examples; set data.n_validation"
            found.append((("training", "early_stopping"), text))
    labels: set[str] = set()
    listed = baselines if isinstance(baselines, list) else []
    keys: list[Key] = [("adapter",), *(("baselines", i) for i in range(len(listed)))]
    for key, adapter in zip(keys, [raw.get("adapter"), *listed], strict=True):
        adapter = {"method": adapter} if isinstance(adapter, str) else adapter
        if not isinstance(adapter, Mapping):
            continue  # the check of the single key says so
        label = str(adapter.get("name") or adapter.get("method")).lower()
        if label in labels:
            text = f"a second adapter is called '{label}'; give it another 'name'"
            found.append(((*key, "name"), text))
        labels.add(label)
    return found


def _raise_if(spec: _S, problems: Iterable[tuple[Key, str]]) -> _S:
    lines = [f"{dotted(key)}: {text}" if key else text for key, text in problems]
    if lines:
        raise ValueError("; ".join(lines))
    return spec


def _resolve_paths(recipe: "Recipe", folder: Path) -> "Recipe":
    update: dict[str, Any] = {"output_dir": recipe.output_dir.absolute()}
    journal = recipe.jobs.journal.expanduser().absolute()
    update["jobs"] = recipe.jobs.model_copy(update={"journal": journal})
    name, template = recipe.model.name, recipe.model.chat_template
    model = {}
    local = folder / Path(name).expanduser()
    if name.startswith((".", "~", "/")) or name.endswith(".gguf") or local.exists():
        model["name"] = str(local.absolute())
    if template is not None and "{" not in template:  # not the template itself but its file
        model["chat_template"] = str((folder / template).absolute())
    update["model"] = recipe.model.model_copy(update=model)
    if recipe.data.files is not None:
        files = {
            part: (folder / file.expanduser()).absolute()
            for part, file in recipe.data.files
            if file is not None
        }
        update["data"] = recipe.data.model_copy(update={"files": FileSplits(**files)})
    return recipe.model_copy(update=update)
