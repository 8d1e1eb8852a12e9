"""What is wrong between the keys of a study file: names, roles, controls, matches, and keys that replace others.

It reads plain mappings, so that it runs beside the checks of single keys, not after them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from qpeft.recipe import EvaluationSpec, TrainingSpec
from qpeft.recipe_text import Key, plain_words
from qpeft.study.results import BASE_ARM

OWN_KEYS = ("control", "match_parameters", "differs", "training")
"""What makes an adapter an arm; all else in it is the adapter's."""

_ADAPTER_KEYS = ("method", "name", "options")

# What stands in the study's folder, and in a task's, beside the folders of tasks and arms.
_TAKEN_TASKS = (
    "method_comparison",
    "report",
    "samples",
    *("study.yaml", "study.json", "rows.csv", "scores.csv", "ansatzes.json"),
    *("all", "reasoning"),  # what findings call means over tasks
)
_TAKEN_ARMS = (BASE_ARM, "data", "eval", "predictions", "replaced", "trials")


def cross_problems(raw: Mapping[str, Any]) -> list[tuple[Key, str]]:
    """Return what is wrong between the keys of a study, each with its key."""
    return [
        *_arm_problems(raw),
        *_part_problems(raw),
        *_task_problems(raw),
        *_tuning_problems(raw),
    ]


def arm_label(arm: Any) -> str | None:
    """Return what an arm of a study file is called: its name, else its method in small letters; None without."""
    if isinstance(arm, Mapping) and arm.get("name"):
        return str(arm["name"])
    return _method(arm)


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
    subject_arm = next((arm for arm in arms if arm_label(arm) == raw.get("subject")), None)
    subject = _method(subject_arm)
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
        else:
            yield from _control_problems(i, arm, subject_arm)


# What makes a control one, and where the circuits run, which is no part of the adapter.
_FREE_OPTIONS = (
    *("core", "backend", "backend_options", "backend_layers"),
    *("shots", "gradient", "angle_gradient", "surrogate_weight"),
)


def _control_problems(i: int, arm: Mapping[str, Any], subject: Any) -> Iterator[tuple[Key, str]]:
    """Yield the options in which a control is not the subject, unless it says why."""
    own, other = _options(arm), _options(subject)
    changed = [
        key
        for key in sorted({*own, *other}, key=str)
        if key not in _FREE_OPTIONS and own.get(key) != other.get(key)
    ]
    declared = arm.get("differs")
    is_declared = isinstance(declared, Mapping) and "options" in declared
    if is_declared and not changed:
        text = "the control has the subject's options, but for its core; remove it"
        yield ("arms", i, "differs", "options"), text
    for key in () if is_declared else changed:
        yield (
            ("arms", i, key),
            f"is {own.get(key)!r}, the subject's {other.get(key)!r}; a control is the subject with another core. "
            'Make them equal, or say why: differs: {options: "the reason"}',
        )


def _options(arm: Any) -> dict[str, Any]:
    """Return the options of an arm's adapter as they stand in a study file, nested or not."""
    if not isinstance(arm, Mapping):
        return {}
    nested = arm.get("options")
    loose = {key: value for key, value in arm.items() if key not in (*OWN_KEYS, *_ADAPTER_KEYS)}
    return {**(nested if isinstance(nested, Mapping) else {}), **loose}


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
