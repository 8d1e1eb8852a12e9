"""From a study's folder to its results: every run that was planned, whether it succeeded, failed or never was."""

import csv
import dataclasses
import itertools
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from qpeft.errors import StudyError
from qpeft.files import written_whole
from qpeft.study.job_folder import JOBS_BEFORE, job_key, read_json, read_status
from qpeft.study.plan import run_folder
from qpeft.study.provenance import describe_code, describe_machine, describe_study
from qpeft.study.published import is_published, read_published
from qpeft.study.results import (
    BASE_ARM,
    AnsatzRow,
    Arm,
    RunRow,
    StudyResults,
    Task,
    TrialRow,
)
from qpeft.study.same_data import check_same_data, read_seen
from qpeft.study.spec import StudySpec
from qpeft.study.taking import taken_row
from qpeft.study.tuning import public_state, read_trials
from qpeft.training.record import read_jsonl

TENTH = 0.1
"""The share of the steps whose mean loss is the first and the last training loss."""


def read_results(folder: Path | str) -> StudyResults:
    """Return all that a study has measured so far.

    Args:
        folder: The study's folder, or one with published results (`qpeft.study.published`).

    Raises:
        StudyError: There is no study that can be read, or runs that should have had the same data had not.
    """
    folder = Path(folder)
    if not (folder / "study.json").exists():
        if is_published(folder):
            return read_published(folder)
        raise StudyError(
            f"{folder} holds no study. Give the output folder of one, or make it with: qpeft study FILE"
        )
    try:
        spec = StudySpec.model_validate(yaml.safe_load((folder / "study.yaml").read_text("utf-8")))
        record = read_json(folder / "study.json")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StudyError(
            f"{folder} holds a study that cannot be read ({type(error).__name__}): its study.yaml and study.json "
            f"were changed by hand, or written by another version of qpeft. Run the study again with this one."
        ) from error
    rows = tuple(
        _read_run(folder, spec, record, task.name, arm.label, seed)
        for task in spec.tasks
        for arm in spec.arms
        for seed in spec.seeds
    )
    check_same_data(folder, record, rows)
    base = {task.name: _read_base(folder, spec, task.name) for task in spec.tasks}
    return StudyResults(
        name=spec.name,
        title=spec.title or spec.name,
        model=spec.model.name,
        is_quick=record["is_quick"],
        arms=tuple(_arm(arm.label, record["arms"][arm.label]) for arm in spec.arms),
        tasks=tuple(_task(task.name, record["tasks"][task.name]) for task in spec.tasks),
        seeds=tuple(spec.seeds),
        subject=spec.subject,
        reference=spec.reference,
        margin=spec.margin,
        rows=rows,
        base={task: row for task, row in base.items() if row is not None},
        trials=_trials(folder, spec),
        ansatzes=_ansatzes(folder),
        provenance=describe_study(folder, record, rows),
        folder=folder,
        base_shots=spec.base_shots,
    )


def write_record(folder: Path) -> StudyResults:
    """Write what a study's folder holds beside the runs: circuits, rows, PEFT's layout; return its results.

    Args:
        folder: The study's folder.
    """
    from qpeft.study.method_comparison import write_method_comparison

    measure_circuits(folder)
    results = read_results(folder)
    write_rows(results, folder / "rows.csv")
    write_method_comparison(results, folder / "method_comparison")
    return results


def write_rows(results: StudyResults, path: Path) -> None:
    """Write one line for each run, base model first; the scores of single examples go beside it, into scores.csv.

    Args:
        results: Of a study.
        path: The CSV file for the runs.
    """
    rows = [*results.base.values(), *results.rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_csv(path, [_run_line(row) for row in rows])
    _write_csv(path.with_name("scores.csv"), [line for row in rows for line in _score_lines(row)])


def measure_circuits(folder: Path) -> tuple[AnsatzRow, ...]:
    """Measure the circuits of a study's arms, each once, and keep the rows in ansatzes.json.

    The subject's is measured with other numbers of qubits too: only so does it show whether its gradients vanish
    with them, as on a barren plateau.

    Args:
        folder: The study's folder.
    """
    from qpeft.study.measures import measure_ansatz
    from qpeft.training.record import write_json

    arms = read_json(folder / "study.json")["arms"].values()
    wanted = dict.fromkeys(circuit for arm in arms for circuit in _circuits_of(arm))
    done = _ansatzes(folder)
    known = {(row.name, row.n_qubits, row.n_layers): row for row in done}
    rows = []
    for name, n_qubits, n_layers, is_entangled in wanted:
        label = name if is_entangled else f"{name} without rings"
        row = known.get((label, n_qubits, n_layers))
        rows.append(row or measure_ansatz(name, n_qubits, n_layers, is_entangled=is_entangled))
    write_json(folder / "ansatzes.json", [dataclasses.asdict(row) for row in rows])
    return tuple(rows)


CURVE_QUBITS = (2, 4, 6, 8, 10)
"""Numbers of qubits with which the subject's circuit is measured."""

_DEEP = 10
"""Layers above which the largest of them would take more than about 20 seconds, and is left out."""


def _circuits_of(arm: Mapping[str, Any]) -> Iterator[tuple[str, int, int, bool]]:
    """Yield ansatz, qubits, layers and whether there are rings: an arm's circuit, the subject's in all sizes."""
    from qpeft.adapters import QthaConfig

    own = arm["count"]["n_qubits"]
    if arm["method"] != "qtha" or not own:
        return
    config = QthaConfig(**arm["options"])
    sizes = {own}
    if arm["role"] == "subject":
        sizes |= set(CURVE_QUBITS if config.n_layers <= _DEEP else CURVE_QUBITS[:-1])
    for n_qubits in sorted(sizes):
        yield config.ansatz, n_qubits, config.n_layers, config.core != "product"


def _read_run(
    folder: Path, spec: StudySpec, record: Mapping[str, Any], task: str, arm: str, seed: int
) -> RunRow:
    where = run_folder(task, arm, seed)
    path = folder / where
    taken = taken_row(path, RunRow)
    if taken is not None:
        return taken
    status = read_status(path)
    row = RunRow(
        task, arm, seed, public_state(status), error=_first_line(status), folder=str(where)
    )
    if not (path / "results.json").exists():
        return row
    own = read_json(path / "results.json")["arms"].get(arm, {})
    numbers: dict[str, Any] = {
        "learning_rate": read_json(path / "job.json")["recipe"]["training"]["learning_rate"],
        "peak_memory": status.get("peak_memory"),
        "trained_in": status.get("trained_in"),
        "machine": describe_machine(path),
        "code": describe_code(path),
        "job_key": job_key(read_json(path / "job.json")),
        **_training_numbers(own, read_jsonl(path / arm / "metrics.jsonl")),
        **_test_numbers(path, arm, own, spec.evaluation_of(spec.task(task)).n_shots[0]),
        **_measured(path),
    }
    if row.status == "succeeded":
        numbers["data_digest"] = read_seen(path, arm).digest
    numbers |= _quantum_work(own, record["arms"][arm], numbers["tokens"])
    return dataclasses.replace(row, **numbers)


def _read_base(folder: Path, spec: StudySpec, task: str) -> RunRow | None:
    where = Path(task) / BASE_ARM
    taken = taken_row(folder / where, RunRow)
    if taken is not None:
        return taken
    status = read_status(folder / where)
    if not (folder / where / "results.json").exists():
        ended = public_state(status), _first_line(status)
        failed = RunRow(task, BASE_ARM, spec.seeds[0], ended[0], error=ended[1], folder=str(where))
        return failed if ended[0] == "failed" else None
    own = read_json(folder / where / "results.json")["arms"][BASE_ARM]
    n_shots = spec.evaluation_of(spec.task(task)).n_shots[0]
    few = _test_numbers(folder / where, BASE_ARM, own, spec.base_shots)["scores"]
    return RunRow(
        task,
        BASE_ARM,
        spec.seeds[0],
        public_state(status),
        error=_first_line(status),
        peak_memory=status.get("peak_memory"),
        machine=describe_machine(folder / where),
        code=describe_code(folder / where),
        job_key=job_key(read_json(folder / where / "job.json")),
        few_shot_accuracy=sum(few) / len(few) if spec.base_shots and few else None,
        folder=str(where),
        **_test_numbers(folder / where, BASE_ARM, own, n_shots),
    )


def _training_numbers(
    own: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    losses = tuple((row["step"], row["loss"]) for row in metrics if "loss" in row)
    checks = tuple(
        (row["step"], row["validation_loss"]) for row in metrics if "validation_loss" in row
    )
    tenth = max(round(len(losses) * TENTH), 1)
    training = own.get("training", {})
    return {
        "n_parameters": own.get("parameters", {}).get("n_trainable"),
        "steps": training.get("steps_done"),
        "tokens": training.get("tokens"),
        # Of one batch, but the same for every arm. A mean over steps would be higher for an arm that learns later,
        # which would then seem to have learned more.
        "first_loss": losses[0][1] if losses else None,
        "last_loss": _mean(losses[-tenth:]) if training else None,
        "validation_loss": training.get("validation_loss"),
        "seconds_per_step": _step_time(metrics),
        "losses": losses,
        "validation_losses": checks,
    }


def _step_time(metrics: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the median time of a step in seconds, without the first, which warms up."""
    # The row before may be a validation: its time is not the step's.
    times = [
        row["seconds"] - before["seconds"]
        for before, row in itertools.pairwise(metrics)
        if "loss" in row
    ]
    return statistics.median(times) if times else None


def _test_numbers(path: Path, arm: str, own: Mapping[str, Any], n_shots: int) -> dict[str, Any]:
    found = [e for e in own.get("evaluations", []) if e["n_shots"] == n_shots]
    predictions = read_jsonl(path / "predictions" / f"{arm}-{n_shots}shot.jsonl") if found else []
    right = [row["score"] >= 1.0 for row in predictions]
    exact = [row["text"].strip() == row["expected"].strip() for row in predictions]
    return {
        "test_loss": found[0]["loss"] if found else None,
        "scores": tuple(right),
        "strict_scores": tuple(a and b for a, b in zip(right, exact, strict=True)),
    }


def _measured(path: Path) -> dict[str, Any]:
    if not (path / "measures.json").exists():
        return {}
    measures = read_json(path / "measures.json")
    return {
        "adapter_bytes": measures.get("adapter_bytes"),
        "forgetting": measures.get("forgetting", {}).get("difference"),
        "measures": measures,
    }


def _quantum_work(
    own: Mapping[str, Any], arm: Mapping[str, Any], tokens: int | None
) -> dict[str, Any]:
    """Return what was sent to a machine, or else the circuits that were simulated for the tokens."""
    totals = [*own.get(JOBS_BEFORE, []), *own.get("jobs", [])]
    if not totals:
        a_token = int(arm["count"]["n_circuits"])
        return {"circuits": None if tokens is None else a_token * tokens}
    sent = [total["sent"] for total in totals]
    kinds = ("circuits", "programs", "jobs", "shots")
    return {kind: sum(tally[f"n_{kind}"] for tally in sent) for kind in kinds}


def _trials(folder: Path, spec: StudySpec) -> tuple[TrialRow, ...]:
    return tuple(
        trial
        for task in spec.tasks
        for arm in spec.arms
        for trial in read_trials(folder, spec, task.name, arm.label)
    )


def _ansatzes(folder: Path) -> tuple[AnsatzRow, ...]:
    file = folder / "ansatzes.json"
    return tuple(AnsatzRow(**row) for row in read_json(file)) if file.exists() else ()


def _arm(name: str, record: Mapping[str, Any]) -> Arm:
    count = record["count"]
    return Arm(
        name,
        record["role"],
        record["method"],
        record["options"],
        count["n_trainable"],
        count["n_circuit_angles"],
        record["differs"],
    )


def _task(name: str, record: Mapping[str, Any]) -> Task:
    return Task(
        name,
        record["title"] or name,
        record["n_test"],
        record["verifier"],
        record["is_reasoning"],
        record["commonest"],
    )


def _first_line(status: Mapping[str, Any]) -> str | None:
    error = status.get("error")
    return str(error).splitlines()[0] if error else None


def _mean(losses: Sequence[tuple[int, float]]) -> float | None:
    return statistics.fmean(loss for _, loss in losses) if losses else None


# ---- the rows as CSV -----------------------------------------------------------------------

_LEFT_OUT = ("scores", "strict_scores", "losses", "validation_losses", "measures")


def _run_line(row: RunRow) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(row) if field.name not in _LEFT_OUT]
    line = {name: getattr(row, name) for name in names}
    effect = {key: getattr(row, key) for key in ("accuracy", "strict_accuracy", "training_effect")}
    return {**line, **effect, "n_test": len(row.scores), "measures": json.dumps(row.measures)}


def _score_lines(row: RunRow) -> Iterator[dict[str, Any]]:
    for i, (score, strict) in enumerate(zip(row.scores, row.strict_scores, strict=True)):
        yield {
            "task": row.task,
            "arm": row.arm,
            "seed": row.seed,
            "example": i,
            "score": int(score),
            "strict_score": int(strict),
        }


def _write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]) if lines else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _as_text(value) for key, value in line.items()} for line in lines)


def _as_text(value: Any) -> Any:
    """Put an apostrophe before words that a spreadsheet would take for a formula: an error's text may be any."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
    return f"'{value}" if is_formula else value
