"""`qpeft eval`: finished adapters and their base model side by side, on any recipe's test split."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qpeft.errors import DataError, QpeftError
from qpeft.jobs import use_session
from qpeft.recipe import Recipe
from qpeft.training.adapting import quiet_libraries, remove_adapter
from qpeft.training.data import load_splits
from qpeft.training.evaluation import Comparison, Evaluation, evaluate
from qpeft.training.examples import Splits
from qpeft.training.loading import attach_adapter, find_source
from qpeft.training.models import load_base
from qpeft.training.record import BASE, write_json, write_jsonl
from qpeft.training.reporter import Reporter, SilentReporter
from qpeft.training.run import compare_all, open_session, place


@dataclass(frozen=True)
class EvaluationResult:
    """Models side by side.

    Args:
        output_dir: Where results.json and predictions/ were written.
        evaluations: By model, the base model ("base") first, one for each number of shots.
        comparisons: Each adapter against the base model, the first against the others.
    """

    output_dir: Path
    evaluations: dict[str, list[Evaluation]]
    comparisons: list[Comparison]


def evaluate_run(
    path: Path | str,
    *,
    recipe: Recipe | None = None,
    n_shots: Sequence[int] | None = None,
    n_examples: int | None = None,
    output_dir: Path | None = None,
    with_base: bool = True,
    reporter: Reporter | None = None,
) -> EvaluationResult:
    """Evaluate the adapters at a path beside their base model and write every prediction.

    Args:
        path: A run's folder, one adapter's folder, or a base model (needs `recipe`).
        recipe: Test data and evaluation settings; by default those the adapter was trained with.
        n_shots: Numbers of solved examples, in place of the recipe's.
        n_examples: Evaluate on the first so many test examples only.
        output_dir: Where to write; `eval/` in the folder by default.
        with_base: Whether to evaluate the base model too.
        reporter: Told how it goes; nobody by default.

    Raises:
        QpeftError: There is no recipe, no adapter or no test split.
    """
    reporter = reporter or SilentReporter()
    source = find_source(path)
    recipe = recipe or source.recipe
    if recipe is None:
        raise QpeftError(
            f"{path} lies in no run, so there is no recipe to say what to evaluate on. "
            f"Give one with --recipe."
        )
    output_dir = output_dir or (Path(path) if source.adapters else recipe.output_dir) / "eval"
    try:
        reporter.stage(f"load {source.model.name}")
        with quiet_libraries():
            model, tokenizer = load_base(source.model)
        place(model)
        splits = load_splits(recipe.data, tokenizer.chat_template is not None)
        if not splits.test:
            raise DataError("There are no test examples to evaluate on. Set data.n_test.")
        job = _Job(recipe, tokenizer, _first(splits, n_examples), n_shots, output_dir, reporter)
        evaluations: dict[str, list[Evaluation]] = {}
        if with_base or not source.adapters:
            evaluations[BASE] = job.evaluate(BASE, model)
        for label, folder in source.adapters.items():
            adapted = attach_adapter(model, folder)
            with use_session(open_session(recipe, f"{label}/eval", reporter.jobs)):
                evaluations[label] = job.evaluate(label, adapted)
            model = remove_adapter(adapted)
        comparisons = compare_all(evaluations, next(iter(source.adapters), BASE))
        _write(output_dir, evaluations, comparisons)
        reporter.table(evaluations, comparisons)
    finally:
        reporter.close()
    return EvaluationResult(output_dir, evaluations, comparisons)


def evaluate_base(
    recipe: Recipe, output_dir: Path, *, reporter: Reporter | None = None
) -> list[Evaluation]:
    """Evaluate a recipe's base model, without any adapter, and write every prediction.

    Args:
        recipe: Model, test data and evaluation settings.
        output_dir: Where results.json and predictions/ are written.
        reporter: Told how it goes; nobody by default.

    Returns:
        One evaluation for each number of shots.

    Raises:
        QpeftError: There is no such model or no test split.
    """
    reporter = reporter or SilentReporter()
    try:
        reporter.stage(f"load {recipe.model.name}")
        with quiet_libraries():
            model, tokenizer = load_base(recipe.model)
        place(model)
        splits = load_splits(recipe.data, tokenizer.chat_template is not None)
        found = _Job(recipe, tokenizer, splits, None, output_dir, reporter).evaluate(BASE, model)
        _write(output_dir, {BASE: found}, [])
    finally:
        reporter.close()
    return found


@dataclass(frozen=True)
class _Job:
    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    splits: Splits
    n_shots: Sequence[int] | None
    output_dir: Path
    reporter: Reporter

    def evaluate(self, name: str, model: PreTrainedModel | PeftModel) -> list[Evaluation]:
        found = []
        spec = self.recipe.evaluation
        for n_shots in spec.n_shots if self.n_shots is None else self.n_shots:
            self.reporter.stage(f"evaluate {name}, {n_shots} shots")
            evaluation = evaluate(
                model,
                self.tokenizer,
                self.splits,
                spec,
                n_shots,
                seed=self.recipe.seed,
                on_progress=self.reporter.progress,
            )
            rows = [asdict(prediction) for prediction in evaluation.predictions]
            file = self.output_dir / "predictions" / f"{name}-{n_shots}shot.jsonl"
            write_jsonl(file, rows)
            found.append(evaluation)
        return found


def _first(splits: Splits, n_examples: int | None) -> Splits:
    test = splits.test if n_examples is None else splits.test[:n_examples]
    return Splits(splits.train, splits.validation, test, splits.verifier, splits.hashes)


def _write(
    folder: Path, evaluations: dict[str, list[Evaluation]], comparisons: list[Comparison]
) -> None:
    write_json(
        folder / "results.json",
        {
            "arms": {
                name: {"evaluations": [e.to_dict() for e in found]}
                for name, found in evaluations.items()
            },
            "comparisons": [asdict(c) for c in comparisons],
        },
    )
