"""Train one recipe: its adapter and its baselines on the same base model, and compare them.

Under a distributed launch (torchrun, accelerate) the processes share the training's batches and the
test examples of every evaluation; the main one writes.

The base model is loaded once. Each arm gets a fresh adapter drawn with the same seed, the same
batches in the same order, and gives the base weights back bit for bit. What is finished is
recorded at once, so a run that stopped anywhere goes on from there.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from qpeft.errors import ModelError, QpeftError
from qpeft.jobs import Budget, Session, use_session
from qpeft.recipe import AdapterSpec, Recipe
from qpeft.training.adapting import add_adapter, fingerprint, quiet_libraries, remove_adapter
from qpeft.training.card import model_card
from qpeft.training.data import load_splits
from qpeft.training.encoding import EncodedSplit, encode_split
from qpeft.training.evaluation import Comparison, Evaluation, compare
from qpeft.training.examples import Splits
from qpeft.training.hardware_plan import check_machine
from qpeft.training.loading import attach_adapter
from qpeft.training.methods import build_adapter_config
from qpeft.training.models import load_base
from qpeft.training.plan import Plan, count_adapted, make_plan
from qpeft.training.processes import (
    StopTogether,
    evaluate_together,
    has_stopped_early,
    join_processes,
)
from qpeft.training.record import (
    BASE,
    MetricsLog,
    RunFolder,
    check_run,
    checkpoint_step,
    describe_provenance,
    is_main,
    newest_checkpoint,
    open_run,
    read_jsonl,
    write_jsonl,
    write_text,
)
from qpeft.training.reporter import Reporter, SilentReporter
from qpeft.training.saving import save_adapter
from qpeft.training.trainer import Watch, make_trainer


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Args:
        output_dir: The run's folder.
        plan: What it set out to do.
        evaluations: Of the base model ("base") and of each arm, by name, one for each `n_shots`.
        comparisons: Each arm against the base model, and the adapter against each baseline.
        is_interrupted: Whether Ctrl-C ended it; the same recipe with `resume` goes on.
        is_main: Whether this process is the one of several that writes and speaks.
    """

    output_dir: Path
    plan: Plan
    evaluations: dict[str, list[Evaluation]]
    comparisons: list[Comparison]
    is_interrupted: bool
    is_main: bool = True


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> TrainingResult:
    """Train and evaluate what a recipe says.

    Args:
        recipe: A resolved recipe, from `qpeft.recipe.load_recipe`.
        resume: Go on with the run in `output_dir`; start one if there is none.
        overwrite: Delete the run in `output_dir` first.
        reporter: Told how it goes; nobody by default.

    Returns:
        The evaluations, also when Ctrl-C ended the run (`is_interrupted`).

    Raises:
        QpeftError: Anything that the user can put right; nothing was trained.
    """
    # Before the processes meet: one that failed here afterwards could leave the others in the middle of meeting.
    check_run(recipe, resume=resume, overwrite=overwrite)
    _check_loggers(recipe)
    join_processes()
    reporter = reporter if reporter and is_main() else SilentReporter()
    try:
        run = _prepare(recipe, reporter, overwrite=overwrite)
        return run.go()
    finally:
        reporter.close()


class _Interrupted(Exception):  # noqa: N818 - no error: how the run ends after Ctrl-C
    """A checkpoint was written after Ctrl-C."""


@dataclass
class _Run:
    """All that the arms of a run share."""

    recipe: Recipe
    reporter: Reporter
    folder: RunFolder
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    splits: Splits
    encoded: dict[str, EncodedSplit]
    configs: Mapping[str, PeftConfig]
    plan: Plan
    base_bits: dict[str, int]
    measured: dict[tuple[str, int], Evaluation] = field(default_factory=dict)

    def go(self) -> TrainingResult:
        """Do what is not done yet: the base model, then arm after arm."""
        is_interrupted = False
        try:
            if self.recipe.evaluation.base_model:
                self._evaluate(BASE, self.model)
            for spec in (self.recipe.adapter, *self.recipe.baselines):
                with use_session(open_session(self.recipe, spec.label, self.reporter.jobs)) as jobs:
                    try:
                        self._do_arm(spec)
                    finally:
                        self._record_jobs(spec, jobs)
        except (_Interrupted, KeyboardInterrupt):
            is_interrupted = True
        evaluations = self._evaluations()
        comparisons = compare_all(evaluations, self.recipe.adapter.label)
        self.folder.results["comparisons"] = [asdict(c) for c in comparisons]
        self.folder.results["status"] = "interrupted" if is_interrupted else "finished"
        self.folder.save()
        if not is_interrupted:
            self._write_cards(evaluations, comparisons)
            self.reporter.table(evaluations, comparisons)
        return TrainingResult(
            self.folder.path, self.plan, evaluations, comparisons, is_interrupted, is_main()
        )

    def _do_arm(self, spec: AdapterSpec) -> None:
        record = self.folder.arm(spec.label)
        is_trained = record.get("training", {}).get("steps") == self.plan.n_steps
        if is_trained and not self._missing(spec.label):
            return
        if is_trained:
            self.reporter.stage(f"load {spec.label}")
            adapted = attach_adapter(self.model, self.folder.arm_folder(spec.label))
        else:
            record["evaluations"] = []
            adapted = self._train(spec)
        self._evaluate(spec.label, adapted)
        self.model = remove_adapter(adapted)
        self._check_base()

    def _record_jobs(self, spec: AdapterSpec, jobs: Session) -> None:
        """Write down what the arm's circuits have sent so far, in this run and those it resumed."""
        sent = jobs.totals()
        if sent:
            self.folder.arm(spec.label)["jobs"] = [asdict(total) for total in sent]
            self.folder.save()

    def _train(self, spec: AdapterSpec) -> PeftModel:
        name, n_steps = spec.label, self.plan.n_steps
        self.reporter.stage(f"train {name}")
        set_seed(self.recipe.seed)
        adapted = add_adapter(self.model, self.configs[name])
        folder = self.folder.arm_folder(name)
        checkpoint = newest_checkpoint(folder / "checkpoints", n_steps)
        from_step = checkpoint_step(checkpoint) if checkpoint else 0
        log = MetricsLog(folder / "metrics.jsonl", from_step)
        has_validation = bool(self.encoded["validation"].rows)
        watch = Watch(log, self.reporter, n_steps, has_validation=has_validation)
        stopper = StopTogether()
        trainer = make_trainer(
            self.recipe,
            adapted,
            self.tokenizer,
            self.encoded,
            folder / "checkpoints",
            n_steps=n_steps,
            callbacks=[watch, stopper],
            first_step=from_step,
        )
        try:
            with quiet_libraries():
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            stopper.restore()
        stopper.agree()
        is_over = trainer.state.global_step >= n_steps or has_stopped_early(trainer)
        if stopper.is_interrupted and not is_over:
            raise _Interrupted
        save_adapter(adapted, folder)
        self._record_training(spec, adapted, log)
        if stopper.is_interrupted:
            raise _Interrupted
        return adapted

    def _record_training(self, spec: AdapterSpec, adapted: PeftModel, log: MetricsLog) -> None:
        count = count_adapted(adapted)
        losses = [row for row in log.rows if "loss" in row]
        checked = [row for row in log.rows if "validation_loss" in row]
        self.folder.arm(spec.label).update(
            method=spec.method,
            parameters={**asdict(count), "saving": count.saving},
            training={
                "steps": self.plan.n_steps,
                "steps_done": losses[-1]["step"],
                "loss": losses[-1]["loss"],
                "validation_loss": checked[-1]["validation_loss"] if checked else None,
                "tokens": losses[-1]["tokens"],
                "seconds": log.seconds,
            },
        )
        self.folder.save()

    def _missing(self, arm: str) -> list[int]:
        """Return the shots for which the arm has no evaluation under the present settings."""
        settings = self._settings()
        done = {
            e["n_shots"] for e in self.folder.arm(arm)["evaluations"] if e["settings"] == settings
        }
        return (
            [n for n in self.recipe.evaluation.n_shots if n not in done] if self.splits.test else []
        )

    def _evaluate(self, arm: str, model: PreTrainedModel | PeftModel) -> None:
        record = self.folder.arm(arm)
        spec = self.recipe.evaluation
        for n_shots in self._missing(arm):
            self.reporter.stage(f"evaluate {arm}, {n_shots} shots")
            evaluation = evaluate_together(
                model,
                self.tokenizer,
                self.splits,
                spec,
                n_shots,
                seed=self.recipe.seed,
                on_progress=self.reporter.progress,
            )
            self.measured[arm, n_shots] = evaluation
            rows = [asdict(prediction) for prediction in evaluation.predictions]
            write_jsonl(self.folder.predictions_file(arm, n_shots), rows)
            others = [e for e in record["evaluations"] if e["n_shots"] != n_shots]
            numbers = {**evaluation.to_dict(), "settings": self._settings()}
            record["evaluations"] = [*others, numbers]
            self.folder.save()

    def _settings(self) -> dict[str, object]:
        """Return what the answers depend on; an evaluation under other settings is done again."""
        outside = {"base_model", "n_shots", "batch_size"}
        return self.recipe.evaluation.model_dump(mode="json", exclude=outside)

    def _evaluations(self) -> dict[str, list[Evaluation]]:
        found: dict[str, list[Evaluation]] = {}
        for arm, record in self.folder.results["arms"].items():
            done = {e["n_shots"]: e for e in record["evaluations"]}
            found[arm] = [
                self._measured(arm, done[n]) for n in self.recipe.evaluation.n_shots if n in done
            ]
        return found

    def _measured(self, arm: str, recorded: dict[str, Any]) -> Evaluation:
        n_shots = recorded["n_shots"]
        if (arm, n_shots) in self.measured:
            return self.measured[arm, n_shots]
        rows = read_jsonl(self.folder.predictions_file(arm, n_shots))
        return Evaluation.from_dict(recorded, rows)

    def _write_cards(
        self, evaluations: dict[str, list[Evaluation]], comparisons: list[Comparison]
    ) -> None:
        for spec in (self.recipe.adapter, *self.recipe.baselines):
            text = model_card(
                self.recipe,
                spec,
                self.folder.arm(spec.label),
                evaluations,
                comparisons,
                base_id=self.model.name_or_path,
            )
            write_text(self.folder.arm_folder(spec.label) / "README.md", text)

    def _check_base(self) -> None:
        if fingerprint(self.model) == self.base_bits:
            return
        # A few methods (PiSSA, OLoRA) take their start out of the base weights.
        with quiet_libraries():
            self.model, self.tokenizer = load_base(self.recipe.model)
        place(self.model)
        if fingerprint(self.model) != self.base_bits:
            raise ModelError(
                f"Model {self.recipe.model.name} is not the same when it is loaded again, so the "
                f"arms cannot be compared. Was the file changed during the run?"
            )


def open_session(
    recipe: Recipe, label: str, on_progress: Callable[[int, int, str], None]
) -> Session:
    """Return how the jobs of one adapter are recorded and capped, as the recipe says.

    Args:
        recipe: The resolved recipe.
        label: The adapter's label.
        on_progress: Told (jobs done, jobs of the batch, words).
    """
    spec = recipe.jobs
    caps = Budget(spec.max_circuits, spec.max_programs, spec.max_shots, spec.max_jobs)
    run = spec.label or recipe.output_dir.name
    return Session(spec.journal, caps, f"{run}/{label}", on_progress)


def place(model: PreTrainedModel) -> None:
    """Move a model to the device that this process trains on."""
    device = PartialState().device
    if model.device.type != device.type and not getattr(model, "is_quantized", False):
        model.to(device)


def compare_all(evaluations: Mapping[str, list[Evaluation]], main: str) -> list[Comparison]:
    """Return each arm against the base model, and the main arm against each other one.

    Args:
        evaluations: By arm, with predictions.
        main: The arm that the others are baselines of.
    """
    pairs = [(arm, BASE) for arm in evaluations if arm != BASE]
    pairs += [(main, arm) for arm in evaluations if arm not in (BASE, main)]
    return [
        compare(arm, a, other, b)
        for arm, other in pairs
        for a in evaluations.get(arm, [])
        for b in evaluations.get(other, [])
        if a.n_shots == b.n_shots
    ]


def _prepare(recipe: Recipe, reporter: Reporter, *, overwrite: bool) -> _Run:
    reporter.stage(f"load {recipe.model.name}")
    keys = ["adapter", *(f"baselines.{i}" for i in range(len(recipe.baselines)))]
    specs = (recipe.adapter, *recipe.baselines)
    configs = {s.label: build_adapter_config(s, k) for s, k in zip(specs, keys, strict=True)}
    for config in configs.values():
        check_machine(config)
    with quiet_libraries():
        model, tokenizer = load_base(recipe.model)
    place(model)
    splits = load_splits(recipe.data, tokenizer.chat_template is not None)
    parts = {"train": splits.train, "validation": splits.validation}
    encoded = {
        name: encode_split(tokenizer, examples, recipe.training, name)
        for name, examples in parts.items()
    }
    plan = make_plan(recipe, model, encoded, configs)
    folder = open_run(recipe, describe_provenance(recipe, splits.hashes), overwrite=overwrite)
    reporter.plan(plan)
    return _Run(
        recipe,
        reporter,
        folder,
        model,
        tokenizer,
        splits,
        encoded,
        configs,
        plan,
        base_bits=fingerprint(model),
    )


def _check_loggers(recipe: Recipe) -> None:
    for name in recipe.training.loggers:
        if importlib.util.find_spec(name) is None:
            raise QpeftError(
                f"training.loggers: the package '{name}' is not installed. "
                f"Install it with: pip install {name.replace('_', '-')}"
            )
