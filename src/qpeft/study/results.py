"""What a study has measured, as plain data: the one thing that statistics and reports read.

    StudyResults
      arms, tasks       what was compared, on what
      rows              one for each (task, arm, seed), failed and missing ones included
      trials            one for each learning rate that an arm tried on a task
      ansatzes          circuit by circuit: expressibility, entangling capability, gradient variance

Every score of a row belongs to the test example of the same index in every other row of its task.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["subject", "control", "reference", "rival"]
"""Of an arm: what is on trial, the subject with its circuit exchanged, what it is measured against, any other."""

Status = Literal["succeeded", "failed", "cancelled", "missing"]

BASE_ARM = "base"
"""The untrained model, evaluated once on each task; in `StudyResults.base`, never among the arms."""


@dataclass(frozen=True)
class Arm:
    """One adapter of a study.

    Args:
        name: Its label in tables and folders.
        role: What part it plays.
        method: The PEFT method.
        options: The method's options as trained, matched ranks filled in.
        n_parameters: Trainable parameters; None until a run has counted them.
        n_angles: Those of them that are angles of circuits.
        differs: What the study file declares to differ from the reference, and why: by name of the quantity
            ("parameters", "tokens", "steps", "batch_size", "circuits", "trials").
    """

    name: str
    role: Role
    method: str
    options: dict[str, Any]
    n_parameters: int | None
    n_angles: int | None
    differs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What the arms are trained and tested on.

    Args:
        name: Its label in tables and folders.
        title: A few words for people.
        n_test: Test examples.
        verifier: What judges the answers.
        is_reasoning: Whether claims about reasoning are judged on it.
        commonest: The share of test examples whose answer is the commonest one, in [0, 1]: what a model gets
            that says nothing else.
    """

    name: str
    title: str
    n_test: int
    verifier: str
    is_reasoning: bool = False
    commonest: float | None = None


@dataclass(frozen=True)
class RunRow:
    """One run: an arm trained on a task with a seed, and all that was measured of it.

    Numbers are None where the run did not get so far.

    Args:
        task: A task's name.
        arm: An arm's name.
        seed: The seed of adapter, batches and shots.
        status: How it ended; only a succeeded run has all numbers.
        error: The first line of what went wrong.
        learning_rate: The tuned one.
        n_parameters: Trainable parameters.
        adapter_bytes: Size of the saved weights.
        steps: Optimiser steps.
        tokens: Tokens trained on, padding left out.
        first_loss: Training loss of the first step, before any update, nats a token.
        last_loss: Mean training loss of the last tenth of the steps.
        validation_loss: After the last step, nats a token.
        test_loss: Nats a token of the test completions.
        scores: For each test example whether the task's verifier took the answer.
        strict_scores: For each test example whether moreover the text is the expected one, format included.
        few_shot_accuracy: Of the untrained model, with examples in its prompt; None for an arm.
        forgetting: Loss on general text with the adapter less that without, nats a token.
        seconds_per_step: Median wall time of a training step.
        peak_memory: Largest resident memory of the run's process, bytes.
        circuits: Circuits evaluated in training; for hardware, those that were sent.
        programs: Programs sent to a machine, several circuits beside one another in each; None without one.
        jobs: Jobs in which they were sent.
        shots: Shots of all programs; 0 for exact probabilities.
        losses: (step, training loss, nats a token).
        validation_losses: (step, validation loss, nats a token).
        measures: What was measured of the trained adapter itself, by name; see `qpeft.study.measures`.
        trained_in: The trial whose adapter the run took over, being the very same training; None without.
        machine: What it ran on: processor with its vector instructions, accelerators.
        code: Which sources of qpeft did it: a commit, or a hash of the files.
        data_digest: SHA-256 of what it was trained on, see `qpeft.study.same_data`.
        job_key: SHA-256 of what it was to do, see `qpeft.study.job_folder`.
        folder: The run's folder, relative to the study's.
    """

    task: str
    arm: str
    seed: int
    status: Status
    error: str | None = None
    learning_rate: float | None = None
    n_parameters: int | None = None
    adapter_bytes: int | None = None
    steps: int | None = None
    tokens: int | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    validation_loss: float | None = None
    test_loss: float | None = None
    scores: tuple[bool, ...] = ()
    strict_scores: tuple[bool, ...] = ()
    few_shot_accuracy: float | None = None
    forgetting: float | None = None
    seconds_per_step: float | None = None
    peak_memory: int | None = None
    circuits: int | None = None
    programs: int | None = None
    jobs: int | None = None
    shots: int | None = None
    losses: tuple[tuple[int, float], ...] = ()
    validation_losses: tuple[tuple[int, float], ...] = ()
    measures: dict[str, Any] = field(default_factory=dict)
    trained_in: str | None = None
    machine: str | None = None
    code: str | None = None
    data_digest: str | None = None
    job_key: str | None = None
    folder: str = ""

    @property
    def accuracy(self) -> float | None:
        """The share of test answers that the verifier took, in [0, 1]."""
        return sum(self.scores) / len(self.scores) if self.scores else None

    @property
    def strict_accuracy(self) -> float | None:
        """The share of test answers that are right in content and form, in [0, 1]."""
        return sum(self.strict_scores) / len(self.strict_scores) if self.strict_scores else None

    @property
    def training_effect(self) -> float | None:
        """The relative reduction of the training loss, (first - last) / first; all arms have the same first."""
        if not self.first_loss or self.last_loss is None:
            return None
        return (self.first_loss - self.last_loss) / self.first_loss


@dataclass(frozen=True)
class TrialRow:
    """One trial of the tuning: an arm on a task with one learning rate, judged on the validation split alone.

    Args:
        task: A task's name.
        arm: An arm's name.
        learning_rate: What was tried.
        status: How it ended.
        validation_loss: After the last step, nats a token.
        is_chosen: Whether the arm's runs on the task use this rate.
        error: The first line of what went wrong.
        job_key: SHA-256 of what it was to do, see `qpeft.study.job_folder`.
    """

    task: str
    arm: str
    learning_rate: float
    status: Status
    validation_loss: float | None = None
    is_chosen: bool = False
    error: str | None = None
    job_key: str | None = None


@dataclass(frozen=True)
class AnsatzRow:
    """What is known of an ansatz without any training.

    Args:
        name: The ansatz.
        n_qubits: Of one circuit.
        n_layers: Circuit layers L.
        expressibility: Kullback-Leibler divergence of its fidelities from those of Haar-random states, nats
            (arXiv 1905.10876, eq. 9); smaller is more expressive.
        entangling_capability: Mean Meyer-Wallach measure of its states, in [0, 1] (arXiv 1905.10876, eq. 12).
        gradient_variance: Variance of d<Z_0>/d(angle) over random angles, the mean over the angles
            (barren plateaus: arXiv 1803.11173).
    """

    name: str
    n_qubits: int
    n_layers: int
    expressibility: float
    entangling_capability: float
    gradient_variance: float


@dataclass(frozen=True)
class StudyResults:
    """All of a study.

    Args:
        name: The study's name.
        title: One line for people.
        model: The base model.
        is_quick: Whether it is the short variant, whose numbers mean little.
        arms: What was compared, in the order of the study file.
        tasks: On what.
        seeds: The seeds of the runs.
        subject: The name of the arm on trial.
        reference: The name of the arm that it is measured against.
        margin: How much less accuracy still counts as "as good as the reference", in [0, 1]; fixed before any run.
        rows: One for each (task, arm, seed).
        base: The untrained model's row by task; its training numbers are None.
        trials: Of the tuning.
        ansatzes: Of the circuits in the arms, and of the subject's with other numbers of qubits.
        provenance: Versions, machine, commands, hashes, dates.
        folder: The study's folder.
        base_shots: Examples in the prompt of the untrained model's second evaluation; 0 without one.
    """

    name: str
    title: str
    model: str
    is_quick: bool
    arms: tuple[Arm, ...]
    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    subject: str
    reference: str
    margin: float
    rows: tuple[RunRow, ...]
    base: dict[str, RunRow]
    trials: tuple[TrialRow, ...]
    ansatzes: tuple[AnsatzRow, ...]
    provenance: dict[str, Any]
    folder: Path
    base_shots: int = 0

    def arm(self, name: str) -> Arm:
        """Return the arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def rows_of(self, task: str, arm: str) -> tuple[RunRow, ...]:
        """Return the succeeded rows of an arm on a task, by seed."""
        found = [r for r in self.rows if (r.task, r.arm, r.status) == (task, arm, "succeeded")]
        return tuple(sorted(found, key=lambda row: row.seed))
