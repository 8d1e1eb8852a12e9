"""Sections on the record: runs that did not finish, who got what, where it all comes from, raw rows."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qpeft.reports.content import Column, Listing, Section, Table
from qpeft.reports.csv_rows import csv_files
from qpeft.reports.material import Material
from qpeft.reports.samples import samples_table
from qpeft.study import numbers
from qpeft.study.provenance import hashes_by_part
from qpeft.study.results import RunRow


def failures_section(material: Material) -> Section:
    """Show every run that has no full result."""
    key, title = "failures", "Runs that did not finish"
    # Seeds or trials of one arm that ended in the same way share a row.
    ended: dict[tuple[str, str, str, str], list[str]] = {}
    for base in material.results.base.values():
        ending = (base.arm, base.task, base.status, base.error or numbers.ABSENT)
        ended.setdefault(ending, []).append("the untrained model")
    for row in material.results.rows:
        ending = (row.arm, row.task, row.status, row.error or numbers.ABSENT)
        ended.setdefault(ending, []).append(f"seed {row.seed}")
    for t in material.results.trials:
        ending = (t.arm, t.task, t.status, t.error or numbers.ABSENT)
        ended.setdefault(ending, []).append(f"trial at {numbers.short(t.learning_rate)}")
    rows = [
        (arm, _title(material, task), ", ".join(which), status, error)
        for (arm, task, status, error), which in ended.items()
        if status != "succeeded"
    ]
    if not rows:
        n = len(material.results.rows)
        return Section(key, title, absent=f"None: all {n} runs and all trials succeeded.")
    columns = (
        Column("Arm", "arm"),
        Column("Task"),
        Column("Seeds or trials"),
        Column("How it ended"),
        Column("First line of the error"),
    )
    paragraphs = (
        "They are left out of all averages, and shown here so that nobody has to guess what is missing.",
    )
    return Section(key, title, paragraphs, tables=(Table("Unfinished runs", columns, tuple(rows)),))


def parity_section(material: Material) -> Section:
    """Show what every arm got, and which differences the study file declares."""
    key, title = "parity", "Parity and declared differences"
    arms = material.results.arms
    tables = [_planned_table(material) or _got_table(material)]
    notes: tuple[str, ...] = ()
    declared = [
        (a.name, what.replace("_", " "), why) for a in arms for what, why in a.differs.items()
    ]
    if declared:
        why = (Column("Arm", "arm"), Column("Differs in"), Column("Why"))
        tables.append(Table("Declared differences", why, tuple(declared)))
    else:
        notes = ("The study file declares no differences.",)
    options = [
        (
            a.name,
            a.method,
            ", ".join(f"{k}={_option(v)}" for k, v in a.options.items()) or numbers.ABSENT,
        )
        for a in arms
    ]
    columns = (Column("Arm", "arm"), Column("Method"), Column("Options as trained"))
    tables.append(Table("Options of every arm", columns, tuple(options)))
    return Section(key, title, tables=tuple(tables), notes=notes)


def provenance_section(material: Material) -> Section:
    """Show versions, machine, commands, hashes and dates, and on how much the measures were taken."""
    key, title = "provenance", "Provenance"
    results = material.results
    shown = {k: v for k, v in results.provenance.items() if k not in ("parity", "study_file")}
    rows = [
        ("study", results.name),
        ("base model", results.model),
        ("seeds", ", ".join(map(str, results.seeds))),
        *(
            (f"task {t.name}", f"{t.title}; {t.n_test} test examples; judged by {t.verifier}")
            for t in results.tasks
        ),
        *_flat(_plain(shown)),
        *_where_runs_differ(results.rows),
    ]
    table = Table("Where the numbers come from", (Column("What"), Column("Value")), tuple(rows))
    file = results.provenance.get("study_file")
    listings = (Listing("The study file", str(file)),) if file else ()
    samples = samples_table(material)
    tables = (table, samples) if samples else (table,)
    return Section(key, title, tables=tables, listings=listings)


def data_section(material: Material) -> Section:
    """Carry the raw rows within the page."""
    files = csv_files(material.results)
    text = (
        "Every number above can be worked out again from these files, which the page carries within itself. What "
        "was measured of single layers stands in the study's own rows.csv alone."
    )
    return Section("data", "Raw rows", (text,), downloads=tuple(files))


def _planned_table(material: Material) -> Table | None:
    """Return what the plan gave to every arm on every task, if the provenance has it."""
    planned = material.results.provenance.get("parity")
    if not isinstance(planned, list | tuple) or not planned:
        return None
    rows = tuple(
        (
            str(row.get("arm", numbers.ABSENT)),
            _title(material, str(row.get("task", numbers.ABSENT))),
            str(row.get("compared_with", numbers.ABSENT)),
            *(numbers.whole(row.get(name)) for name in _PLANNED),
            str(row.get("training") or numbers.ABSENT),
        )
        for row in planned
    )
    columns = (
        Column("Arm", "arm"),
        Column("Task"),
        Column("Compared with"),
        *(Column(header, "number") for header in _PLANNED.values()),
        Column("Settings of its own"),
    )
    return Table("What every arm gets, as planned", columns, rows)


_PLANNED = {
    "parameters": "Trainable parameters",
    "tokens": "Tokens, about",
    "steps": "Steps",
    "batch_size": "Examples a step",
    "trials": "Trials",
    "circuits": "Circuits a step, about",
}


def _got_table(material: Material) -> Table:
    """Return what the runs of every arm got."""
    rows = []
    for arm in material.results.arms:
        n_trials = [
            float(sum((t.task, t.arm) == (task.name, arm.name) for t in material.results.trials))
            for task in material.results.tasks
        ]
        rows.append(
            (
                arm.name,
                arm.role,
                numbers.whole(material.n_parameters(arm.name)),
                numbers.spread(material.known(arm.name, "steps"), 0),
                numbers.spread(material.known(arm.name, "tokens"), 0),
                numbers.spread(n_trials, 0),
                numbers.spread(material.known(arm.name, "circuits"), 0),
            )
        )
    headers = (
        "Trainable parameters",
        "Steps a run",
        "Tokens a run",
        "Trials a task",
        "Circuits a run",
    )
    columns = (Column("Arm", "arm"), Column("Role"), *(Column(h, "number") for h in headers))
    return Table("What every arm got (range over tasks and seeds)", columns, tuple(rows))


def _title(material: Material, task: str) -> str:
    names = {t.name: t.title for t in material.results.tasks}
    return names.get(task, task)


def _option(value: Any) -> str:
    """Return an option as it was set; of a long table of modules how many have which value."""
    if not isinstance(value, Mapping) or len(value) <= _MAX_ENTRIES:
        return str(value)
    counts = Counter(map(str, value.values()))
    return ", ".join(f"{inner} for {n} modules" for inner, n in counts.most_common())


_MAX_ENTRIES = 4


def _where_runs_differ(rows: Sequence[RunRow]) -> Iterator[tuple[str, str]]:
    """Yield which runs were done on which machine, and by which code, if it was not one that did all."""
    for words, field in (("runs on", "machine"), ("runs by the code of", "code")):
        seeds: dict[str, set[int]] = {}
        for row in rows:
            if (value := getattr(row, field)) is not None:
                seeds.setdefault(value, set()).add(row.seed)
        if len(seeds) > 1:
            for value, found in seeds.items():
                word = "seed" if len(found) == 1 else "seeds"
                yield f"{words} {value}", f"{word} {', '.join(map(str, sorted(found)))}"


def _plain(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance with one line for all versions, and each command once."""
    shown: dict[str, Any] = {}
    for key, value in provenance.items():
        if key == "versions" and isinstance(value, Mapping):
            shown[key] = ", ".join(f"{name} {version}" for name, version in value.items())
        elif key == "data_hashes" and isinstance(value, Mapping):
            for task, hashes in value.items():
                by_part = hashes_by_part(task, hashes)
                shown |= {f"SHA-256 of {part}": digest for part, digest in by_part.items()}
        elif key == "commands":
            # A study that was interrupted was begun with the same command again and again.
            shown[key] = list(dict.fromkeys(value))
        else:
            shown[_LABELS.get(key, key)] = value
    return shown


_LABELS = {
    "n_base": "parameters of the base model",
    "weights": "weights of the base model, SHA-256 of a sample",
    "cpu": "processor",
    "code": "code of the study's sessions",
}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested data with their paths; each command has a line."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{path} {key}".strip())
    elif path == "commands" and isinstance(value, list | tuple):
        yield path, "\n".join(map(str, value))
    elif isinstance(value, list | tuple):
        yield path, ", ".join(map(str, value)) or numbers.ABSENT
    else:
        yield path, numbers.ABSENT if value is None else str(value)
