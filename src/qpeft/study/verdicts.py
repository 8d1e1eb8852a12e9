"""The claims made for quantum adapters, each beside what a study measured, by rules fixed in advance.

A claim that something is larger is "supported" if the difference is, at the 5 % level corrected for the
number of comparisons; "contradicted" if it is smaller at that level; else "not shown". One seed alone
decides nothing. `docs/statistics.md` has the rule of each claim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from qpeft.study import numbers
from qpeft.study.findings import ArmSummary, Interval, PairedComparison, Verdict
from qpeft.study.results import BASE_ARM, Arm, StudyResults, Task

Outcome = Literal["supported", "contradicted", "not shown", "not measured"]

LEVEL = 0.05
"""Of every test of a claim."""

CLAIMED_SAVING = 0.76
ROUNDING = 0.005
"""A claim in whole per cents is met by what rounds to it."""

EQUAL_COUNT = 1.05
"""Two parameter counts within this factor are called equal."""

CONTROL_CORES = ("none", "constant", "mlp", "frozen", "product", "fourier")
"""What stands in the circuit's place in a control."""

PAPER = "arXiv 2503.12790"
REPORT = "report of April 2025 on a 72-qubit chip"


@dataclass(frozen=True)
class Evidence:
    """All that a rule may look at."""

    results: StudyResults
    summaries: Sequence[ArmSummary]
    comparisons: Sequence[PairedComparison]

    @property
    def subject(self) -> Arm:
        """The arm on trial."""
        return self.results.arm(self.results.subject)

    def against(self, other: str, measure: str, task: str = "all") -> PairedComparison | None:
        """Return the subject's comparison with another arm, over all tasks or some."""
        key = (task, other, measure)
        return next((c for c in self.comparisons if (c.task, c.other, c.measure) == key), None)

    def mean(self, arm: str, measure: str, task: str = "all") -> Interval | None:
        """Return an arm's mean over all tasks or some."""
        key = (task, arm, measure)
        return next((s.value for s in self.summaries if (s.task, s.arm, s.measure) == key), None)

    def controls(self) -> list[Arm]:
        """Return the arms with something else in the circuit's place."""
        others = [a for a in self.results.arms if a.role not in ("subject", "reference")]
        return [a for a in others if core_of(a)]

    def loras(self) -> list[Arm]:
        """Return the arms that are LoRA, the reference first."""
        found = [a for a in self.results.arms if a.method.lower() == "lora"]
        return sorted(found, key=lambda arm: arm.name != self.results.reference)


def judge(
    results: StudyResults,
    summaries: Sequence[ArmSummary],
    comparisons: Sequence[PairedComparison],
) -> tuple[Verdict, ...]:
    """Return a verdict for every claim, measured or not.

    Args:
        results: The study.
        summaries: Of `qpeft.study.statistics`.
        comparisons: The same, corrected for their number.
    """
    evidence = Evidence(results, summaries, comparisons)
    rules: tuple[Callable[[Evidence], Verdict], ...] = (
        _parameters,
        _training_effect,
        _reasoning,
        _circuit,
        _as_good,
        _equal_parameters,
    )
    verdicts = tuple(rule(evidence) for rule in rules)
    if not results.is_quick:
        return verdicts
    warning = "A quick study, whose numbers mean little. "
    return tuple(replace(verdict, measured=warning + verdict.measured) for verdict in verdicts)


def headline(
    results: StudyResults,
    summaries: Sequence[ArmSummary],
    comparisons: Sequence[PairedComparison],
) -> str:
    """Return the study's answer in two plain sentences.

    An advantage is called the circuit's only if the subject beats every control.

    Args:
        results: The study.
        summaries: Of `qpeft.study.statistics`.
        comparisons: The same, corrected for their number.
    """
    evidence = Evidence(results, summaries, comparisons)
    found = evidence.against(results.reference, "accuracy")
    circuit = _circuit(evidence)
    quick = "A quick study, whose numbers mean little: " if results.is_quick else ""
    if found is None:
        return f"{quick}{results.subject} and {results.reference} cannot be compared: runs are missing."
    answers = {
        "supported": "Its circuit does better than every control in its place.",
        "contradicted": "A control in its circuit's place does better than it.",
        "not shown": "That the circuit contributes anything is not shown.",
        "not measured": "Whether the circuit contributes was not measured.",
    }
    return f"{quick}{_against_reference(evidence, found)} {answers[circuit.outcome]}"


def is_larger(found: PairedComparison) -> Outcome:
    """Return whether the difference is above zero, below it, or neither for sure.

    Args:
        found: A comparison; its corrected p-value decides, and one seed decides nothing.
    """
    if found.n_seeds < 2 or found.p_adjusted is None or found.p_adjusted >= LEVEL:
        return "not shown"
    return "supported" if found.difference.estimate > 0 else "contradicted"


def core_of(arm: Arm) -> str | None:
    """Return what a control has in the circuit's place, or None if the arm is no such control."""
    core = arm.options.get("core")
    return core if core in CONTROL_CORES else None


def _parameters(evidence: Evidence) -> Verdict:
    """Count: supported at 76 % fewer than LoRA of the same rank, contradicted if there are not even fewer."""
    claim = f"76 % fewer trainable parameters than LoRA at the same rank ({PAPER}; {REPORT})"
    subject, rank = evidence.subject, evidence.subject.options.get("r")
    loras = [a for a in evidence.loras() if rank and a.options.get("r") == rank]
    loras = [a for a in loras if _modules_of(a) == _modules_of(subject)]
    lora = next((a for a in loras if not a.options.get("rank_pattern")), None)
    if lora is None or not lora.n_parameters or subject.n_parameters is None:
        text = "No counted LoRA of the same rank on the same modules."
        return Verdict("parameters", claim, text, "not measured")
    saving = 1 - subject.n_parameters / lora.n_parameters
    text = (
        f"{subject.n_parameters:,} parameters against {lora.n_parameters:,} of {lora.name} at rank "
        f"{rank}: {_fewer(saving)}. "
    )
    if subject.options.get("target_saving") is not None:
        text += "Its sizes were chosen for that. "
    none = next((a for a in evidence.controls() if core_of(a) == "none"), None)
    if none is not None and none.n_parameters is not None:
        alone = 1 - none.n_parameters / lora.n_parameters
        text += f"Without any circuit ({none.name}) it has {_fewer(alone)}. "
    if subject.n_angles:
        text += (
            f"What is saved, the tensor network saves; the circuit adds {subject.n_angles:,} angles, and the "
            "matrices that weigh its outputs."
        )
    text = text.rstrip()
    outcome: Outcome = "contradicted" if saving <= 0 else "not shown"
    if saving >= CLAIMED_SAVING - ROUNDING:
        outcome = "supported"
    return Verdict("parameters", claim, text, outcome)


def _modules_of(arm: Arm) -> Any:
    """Return which modules an arm adapts, whatever the order of their names."""
    modules = arm.options.get("target_modules")
    return sorted(modules) if isinstance(modules, list | tuple) else modules


def _training_effect(evidence: Evidence) -> Verdict:
    """The relative loss reduction at equal steps, subject less reference."""
    claim = f"A training effect 8.4 % better than LoRA's ({REPORT})"
    reference = evidence.results.reference
    found = evidence.against(reference, "training_effect")
    theirs = evidence.mean(reference, "training_effect")
    if found is None or theirs is None:
        return Verdict("training_effect", claim, _missing(evidence, reference), "not measured")
    if not _has_equal_steps(evidence, reference):
        text = f"{evidence.subject.name} and {reference} had different numbers of steps."
        return Verdict("training_effect", claim, text, "not measured")
    text = f"Relative loss reduction at equal steps, less that of {reference}: {_points(found)}"
    if theirs.estimate > 0 and found.n_seeds > 1:
        low, value, high = (
            x / theirs.estimate
            for x in (found.difference.low, found.difference.estimate, found.difference.high)
        )
        shown = [numbers.decimal(100 * x, is_signed=True) for x in (value, low, high)]
        text += f"; as a share of {reference}'s {shown[0]} % ({shown[1]} to {shown[2]})"
    return Verdict("training_effect", claim, f"{text}.", is_larger(found))


def _reasoning(evidence: Evidence) -> Verdict:
    """Strict accuracy after training less that before; what the reference gains stands beside it."""
    claim = f"Strict accuracy on a mathematical reasoning task up from 68 % to 82 % by fine-tuning ({REPORT})"
    results = evidence.results
    tasks = [task for task in results.tasks if task.is_reasoning] or list(results.tasks)
    which = "all" if len(tasks) == len(results.tasks) else "reasoning"
    gain = evidence.against(BASE_ARM, "strict_accuracy", which)
    before, after = (
        evidence.mean(a, "strict_accuracy", which) for a in (BASE_ARM, results.subject)
    )
    if gain is None or before is None or after is None:
        return Verdict("reasoning", claim, _missing(evidence, BASE_ARM), "not measured")
    text = (
        f"From {numbers.percent(before.estimate)} to {numbers.percent(after.estimate)}, mean over "
        f"{' and '.join(task.name for task in tasks)}: {_points(gain)}. {_few_shots(results, tasks)}"
    )
    theirs = evidence.mean(results.reference, "strict_accuracy", which)
    versus = evidence.against(results.reference, "strict_accuracy", which)
    if theirs is not None and versus is not None:
        text += (
            f"{results.reference} reaches {numbers.percent(theirs.estimate)}; {results.subject} less "
            f"{results.reference}: {_points(versus)}. "
        )
    text += "A gain by fine-tuning says nothing about the circuit."
    return Verdict("reasoning", claim, text, is_larger(gain))


def _few_shots(results: StudyResults, tasks: Sequence[Task]) -> str:
    """Say how much of the gain is the form of the answer: what the untrained model does when it is shown it."""
    rows = [results.base.get(task.name) for task in tasks]
    found = [row.few_shot_accuracy for row in rows if row is not None]
    known = [share for share in found if share is not None]
    if not known or len(known) < len(tasks):
        return "How much of that is the form of an answer is not known. "
    mean = numbers.percent(sum(known) / len(known))
    return f"With {results.base_shots} examples in its prompt the untrained model has {mean}. "


def _circuit(evidence: Evidence) -> Verdict:
    """Supported if the subject beats every control of the study; contradicted if one beats it."""
    claim = (
        "The quantum circuit is worth more than anything in its place (the question of this study)"
    )
    controls = evidence.controls()
    pairs = [(arm, evidence.against(arm.name, "accuracy")) for arm in controls]
    measured = [(arm, found) for arm, found in pairs if found is not None]
    text = "; ".join(f"less {arm.name}: {_points(found)}" for arm, found in measured)
    text = f"Accuracy of {evidence.subject.name} over all tasks, {text}." if measured else ""
    if len(measured) < 2 or all(core_of(arm) != "none" for arm, _ in measured):
        needed = "It takes the control 'none' and one with something else in the circuit's place."
        return Verdict("circuit", claim, f"{needed} {text}".rstrip(), "not measured")
    lacking = [arm.name for arm, found in pairs if found is None]
    if lacking:
        text += f" No result of {', '.join(lacking)}."
    alike = [arm.name for arm, found in measured if found.equivalence == "equivalent"]
    if alike:
        text += f" Within the margin of {_margin(evidence)}, so equivalent: {', '.join(alike)}."
    outcomes = {is_larger(found) for _, found in measured}
    if "contradicted" in outcomes:
        return Verdict("circuit", claim, text, "contradicted")
    is_supported = outcomes == {"supported"} and not lacking
    return Verdict("circuit", claim, text, "supported" if is_supported else "not shown")


def _as_good(evidence: Evidence) -> Verdict:
    """Two one-sided tests against the margin; one comparison planned in advance, so not corrected."""
    reference = evidence.results.reference
    claim = f"As accurate as {reference}, within {_margin(evidence)} (margin fixed before the runs)"
    found = evidence.against(reference, "accuracy")
    if found is None:
        return Verdict("as_good", claim, _missing(evidence, reference), "not measured")
    text = f"Accuracy less that of {reference}: {_points(found)}"
    if found.equivalence is None:
        return Verdict("as_good", claim, f"{text}; too little for a test.", "not shown")
    is_one_sided = found.equivalence == "not inferior"
    p = found.p_not_inferior if is_one_sided else found.p_equivalence
    text += f"; {found.equivalence} ({_p(p)} for {'that' if is_one_sided else 'equivalence'})."
    if found.minimal_detectable_effect is not None:
        smallest = numbers.decimal(100 * found.minimal_detectable_effect)
        text += f" Four in five such studies would find a difference of {smallest} points, before any correction."
    outcomes: dict[str, Outcome] = {
        "equivalent": "supported",
        "not inferior": "supported",
        "inferior": "contradicted",
        "undecided": "not shown",
    }
    return Verdict("as_good", claim, text, outcomes[found.equivalence])


def _equal_parameters(evidence: Evidence) -> Verdict:
    """The subject against the LoRA arm of the nearest parameter count, within 5 %."""
    claim = "More accurate than LoRA at an equal number of trainable parameters (what a saving is worth)"
    ours = evidence.subject.n_parameters
    counted = [(a, n) for a in evidence.loras() if (n := a.n_parameters)]
    near = [(a, n) for a, n in counted if ours and 1 / EQUAL_COUNT <= n / ours <= EQUAL_COUNT]
    if ours is None or not near:
        text = "No LoRA arm with as many parameters (within 5 %)."
        return Verdict("equal_parameters", claim, text, "not measured")
    arm, count = min(near, key=lambda pair: abs(pair[1] - ours))
    found = evidence.against(arm.name, "accuracy")
    if found is None:
        return Verdict("equal_parameters", claim, _missing(evidence, arm.name), "not measured")
    text = (
        f"{ours:,} parameters against {count:,} of {arm.name}: accuracy less that of {arm.name} "
        f"{_points(found)}."
    )
    return Verdict("equal_parameters", claim, text, is_larger(found))


def _against_reference(evidence: Evidence, found: PairedComparison) -> str:
    """Return the headline's first sentence: how the subject compares with the reference, at which size."""
    results = evidence.results
    means = [evidence.mean(arm, "accuracy") for arm in (results.subject, results.reference)]
    shares = [numbers.percent(mean.estimate) for mean in means if mean is not None]
    counts = [results.arm(arm).n_parameters for arm in (results.subject, results.reference)]
    size = ""
    if counts[0] and counts[1]:
        size = (
            f"With {numbers.percent(counts[0] / counts[1], 0)} of the trainable parameters of "
            f"{results.reference}, "
        )
    words = {
        "supported": "more accurate",
        "contradicted": "less accurate",
        "not shown": "not shown to be more or less accurate",
    }
    outcome = words[is_larger(found)]
    if found.equivalence == "equivalent" and is_larger(found) == "not shown":
        outcome = f"as accurate within {_margin(evidence)}"
    return (
        f"{size}{results.subject} is {outcome}: {' against '.join(shares)}, a difference of "
        f"{_points(found, has_tests=False)}."
    )


def _has_equal_steps(evidence: Evidence, reference: str) -> bool:
    """Return whether subject and reference trained for the same number of steps on each task."""
    for task in evidence.results.tasks:
        rows = (
            *evidence.results.rows_of(task.name, evidence.subject.name),
            *evidence.results.rows_of(task.name, reference),
        )
        if len({row.steps for row in rows}) > 1:
            return False
    return True


def _points(found: PairedComparison, *, has_tests: bool = True) -> str:
    """Return a difference of shares in percentage points, with its interval and what that leaves out."""
    value = found.difference
    middle, low, high = (
        numbers.decimal(100 * x, is_signed=True) for x in (value.estimate, value.low, value.high)
    )
    if value.covers == "nothing":
        return f"{middle} points (one seed: no interval)"
    text = f"{middle} points ({numbers.percent(value.confidence, 0)} interval {low} to {high}"
    if value.covers == "examples":
        return f"{text}, for these very trainings: one seed)"
    if has_tests:
        text += f"; {_p(found.p_value)}, corrected for all arms {_p(found.p_adjusted)}"
    return f"{text}; {found.n_seeds} seeds)"


def _p(value: float | None) -> str:
    """Return a p-value with its sign of relation."""
    if value is None:
        return "p unknown"
    shown = numbers.p_value(value)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def _margin(evidence: Evidence) -> str:
    """Return the study's margin in points."""
    return f"{100 * evidence.results.margin:g} points"


def _fewer(saving: float) -> str:
    """Return a saving in words."""
    return f"{numbers.percent(abs(saving))} {'fewer' if saving >= 0 else 'more'}"


def _missing(evidence: Evidence, other: str) -> str:
    """Return what keeps a claim from being measured."""
    return f"{evidence.subject.name} and {other} have no seed in common on every task."
