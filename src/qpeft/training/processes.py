"""What the processes of one run do together: find each other, stop at the same step, share an evaluation.

Started by torchrun, by `accelerate launch` or by `qpeft train --accelerate-config`, every process runs the same
program. A process alone is the case of one.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import PeftModel
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from qpeft.errors import ConfigError
from qpeft.recipe import EvaluationSpec
from qpeft.training.encoding import encode_example
from qpeft.training.evaluation import Evaluation, Prediction, choose_shots, evaluate
from qpeft.training.examples import Splits
from qpeft.training.significance import wilson_interval

NO_SHARDING = (
    "qpeft train keeps a copy of the model in every process and does not shard it (FSDP). Set distributed_type: "
    "MULTI_GPU, or MULTI_CPU with use_cpu: true; docs/processes.md says how a program of your own shards."
)


def join_processes() -> None:
    """Meet the other processes of a distributed launch, if there are any.

    It must come before anything asks which process is the main one: without an accelerator, accelerate takes every
    process for a run of its own unless it is told that CPUs are meant, and each would write the same files.

    Raises:
        ConfigError: The launch asks for a sharded model.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ConfigError(NO_SHARDING)
    PartialState(cpu=not torch.accelerator.is_available())


class StopTogether(TrainerCallback):
    """Turns Ctrl-C in any process into: all finish this step, write a checkpoint, stop.

    The signal reaches the processes at different moments, perhaps on both sides of a step's end. One that went on
    would wait for ever for the gradients of the others. A validation that is due after the step is still done:
    the resumed run begins with the next step and would never do it. A second Ctrl-C raises KeyboardInterrupt as
    usual. `is_interrupted` says whether it happened.
    """

    def __init__(self) -> None:
        self.is_interrupted = False
        self._previous: Any = None

    def on_train_begin(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """Take over the signal; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)

    def on_step_end(
        self, _args: TrainingArguments, _state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save and stop if the signal came to any process."""
        self.agree()
        if self.is_interrupted:
            control.should_save = True
            control.should_training_stop = True

    def agree(self) -> None:
        """Learn whether any process was interrupted; all must ask."""
        self.is_interrupted = _in_any_process(self.is_interrupted)

    def restore(self) -> None:
        """Give the signal back to whoever had it before."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _note(self, _signal_number: int, _frame: FrameType | None) -> None:
        self.is_interrupted = True
        self.restore()


def has_stopped_early(trainer: Trainer) -> bool:
    """Say whether the validation loss has ended a training before its last step."""
    return any(
        callback.early_stopping_patience_counter >= callback.early_stopping_patience
        for callback in trainer.callback_handler.callbacks
        if isinstance(callback, EarlyStoppingCallback)
    )


def evaluate_together(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: Splits,
    spec: EvaluationSpec,
    n_shots: int,
    *,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a model on the test split, each process on its share; all return the whole.

    Args:
        model: A causal language model that every process holds, with or without adapters.
        tokenizer: Its tokenizer.
        splits: Training split for the shots, test split, verifier.
        spec: Stop strings, longest answer, batch size.
        n_shots: How many solved examples to show.
        seed: Chooses them.
        on_progress: Called with the number of finished steps and of all, of this process's share.

    Raises:
        DataError: There is no test split, or fewer training examples than shots.
    """
    here = PartialState()
    options: dict[str, Any] = {"seed": seed, "on_progress": on_progress}
    if not 1 < here.num_processes <= len(splits.test):
        return evaluate(model, tokenizer, splits, spec, n_shots, **options)
    began = time.monotonic()
    share = replace(splits, test=splits.test[here.process_index :: here.num_processes])
    part = evaluate(model, tokenizer, share, spec, n_shots, **options)
    shots = choose_shots(splits.train, n_shots, seed)
    n_tokens = sum(len(encode_example(tokenizer, example, shots)[1]) for example in share.test)
    return _joined(gather_object([(part, n_tokens)]), time.monotonic() - began)


def _joined(parts: list[tuple[Evaluation, int]], seconds: float) -> Evaluation:
    """Return the evaluation that the shares make up, its answers in the order of the test split."""
    predictions: list[Prediction] = []
    for i in range(max(part.n for part, _ in parts)):
        predictions += [part.predictions[i] for part, _ in parts if i < part.n]
    n_correct = sum(part.n_correct for part, _ in parts)
    n_tokens = sum(n for _, n in parts)
    return replace(
        parts[0][0],
        n=len(predictions),
        n_correct=n_correct,
        interval=wilson_interval(n_correct, len(predictions)),
        loss=sum(part.loss * n for part, n in parts) / n_tokens,
        seconds=seconds,
        predictions=tuple(predictions),
    )


def _in_any_process(is_true: bool) -> bool:
    here = PartialState()
    if here.num_processes == 1:
        return is_true
    flag = torch.tensor(int(is_true), device=here.device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())
