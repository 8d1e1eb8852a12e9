"""Where a study's numbers come from, as its results tell it: nothing in it names a place on one machine."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from qpeft.study.job_folder import read_json, read_status
from qpeft.study.results import RunRow


def describe_study(
    folder: Path, record: Mapping[str, Any], rows: Sequence[RunRow]
) -> dict[str, Any]:
    """Return versions, machine, commands, hashes and dates of a study.

    Args:
        folder: The study's.
        record: Its study.json.
        rows: Its runs.
    """
    first, *later = record["sessions"]
    done = [read_status(folder / row.folder) for row in rows]
    ended = [status["ended"] for status in done if "ended" in status]
    study_file = (folder / "study.yaml").read_text(encoding="utf-8")
    return {
        **{k: v for k, v in first.items() if k not in ("command", "code", "data_hashes", "seed")},
        "code": list(dict.fromkeys(s["code"] for s in (first, *later) if "code" in s)),
        "commands": [_plain_command(session["command"], folder) for session in (first, *later)],
        "finished": max(ended, default=None),
        "data_hashes": {
            name: hashes_by_part(name, task["hashes"]) for name, task in record["tasks"].items()
        },
        "parity": record["parity"],
        "n_base": record["n_base"],
        "weights": record["identity"]["model"].get("weights"),
        "study_file": study_file.replace(str(folder.absolute()), folder.name),
    }


def hashes_by_part(task: str, hashes: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of a task's data by "task/part", or "task/file", the file by its own name.

    The name of a generator would be the same for two tasks of a study, and a file's folder is one machine's. A
    second file of the same name gets a number.

    Args:
        task: The study's name of it.
        hashes: By "generator/part" or by a file's path.

    Example:
        >>> hashes_by_part("sums", {"chain_sum/train": "1f", "chain_sum/test": "2e"})
        {'sums/train': '1f', 'sums/test': '2e'}
    """
    found: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for name, digest in hashes.items():
        part = PureWindowsPath(name).name  # which knows the separators of all systems
        seen[part] += 1
        number = f" ({seen[part]})" if seen[part] > 1 else ""
        found[f"{task}/{part}{number}"] = digest
    return found


def describe_machine(run: Path) -> str | None:
    """Return what a run ran on: the processor and its accelerators; None if it did not get so far.

    Args:
        run: Its folder.
    """
    file = run / "provenance.json"
    if not file.exists():
        return None
    provenance = read_json(file)
    return ", ".join(
        str(part) for part in (provenance.get("cpu"), *provenance.get("gpus", ())) if part
    )


def describe_code(run: Path) -> str | None:
    """Return which sources of qpeft did a run; None if it did not get so far, or did not write it down.

    Args:
        run: Its folder.
    """
    file = run / "provenance.json"
    code = read_json(file).get("code") if file.exists() else None
    return None if code is None else str(code)


def _plain_command(command: str | Sequence[str], folder: Path) -> str:
    """Return a command as it is typed anywhere: the program by its name, the study's folder too."""
    words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    program = Path(words[0]) if words else Path()
    if program.name == "__main__.py":
        words[0] = program.parent.name
    elif words:
        words[0] = program.name
    return shlex.join(words).replace(str(folder.absolute()), folder.name)
