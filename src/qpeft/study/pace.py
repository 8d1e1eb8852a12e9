"""How fast this machine is with a base model, from a few passes over one batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from transformers import PreTrainedModel

from qpeft.training.generation import evaluation_mode
from qpeft.training.losses import IGNORED, completion_loss_sum

N_PASSES = 3
"""Timed passes, of which the middle one counts; one more before them lies, because it finds cold memory."""
PATIENCE_SECONDS = 1.0
"""No further pass is begun after this time: a rough number is not worth waiting for."""
MAX_WORK = 2e10
"""Weights times tokens of a timed batch: less than half a second a pass on one thread of a slow CPU."""

Row = tuple[list[int], list[int]]
"""Token ids of a prompt and of its completion."""


@dataclass(frozen=True)
class Pace:
    """How long a forward pass takes, without gradients.

    Args:
        seconds_per_pass: What every pass costs, however few tokens it has: the weights are read.
        seconds_per_token: What each token adds.
    """

    seconds_per_pass: float
    seconds_per_token: float

    def seconds(self, n_tokens: float, n_passes: float = 1) -> float:
        """Return how long so many passes over so many tokens, all passes together, take."""
        return n_passes * self.seconds_per_pass + n_tokens * self.seconds_per_token


def measure_pace(model: PreTrainedModel, rows: Sequence[Row], pad: int) -> Pace:
    """Return how fast a model reads a batch, on one thread, as every worker of a full machine has.

    Two batches are timed, a real one and one of two tokens: decoding is many small passes, and on a GPU, or with
    few rows, they cost more than their tokens would say. Padding is not counted as tokens, so it makes each token
    dearer, as it does in training. On a CPU the time is that of the processor: what else the machine is doing now
    says nothing about the night.

    Args:
        model: The base model.
        rows: A batch of training examples; of large models only the first few are timed.
        pad: The token id that fills the batch.
    """
    n_allowed = MAX_WORK / max(model.num_parameters(), 1)
    batch = list(rows[:1])
    for row in rows[1:]:
        if sum(map(_length, [*batch, row])) > n_allowed:
            break
        batch.append(row)
    prompt, completion = batch[0]
    smallest = ((prompt + completion)[:1], (prompt + completion)[-1:])
    is_cpu = model.device.type == "cpu"
    clock = time.process_time if is_cpu else time.perf_counter
    with _one_thread(), evaluation_mode(model), torch.no_grad():
        short = _seconds_of(lambda: _read(model, [smallest], pad), clock)
        long = _seconds_of(lambda: _read(model, batch, pad), clock)
    n_more = max(sum(map(_length, batch)) - _length(smallest), 1)
    per_token = max(long - short, 0.0) / n_more
    return Pace(max(short - _length(smallest) * per_token, 0.0), per_token)


def _length(row: Row) -> int:
    return len(row[0]) + len(row[1])


def _read(model: PreTrainedModel, rows: Sequence[Row], pad: int) -> None:
    """Do what training does forwards: logits and loss at the completions only."""
    width = max(map(_length, rows))
    ids, mask, labels = [], [], []
    for prompt, completion in rows:
        n_pad = width - len(prompt) - len(completion)
        ids.append(prompt + completion + [pad] * n_pad)
        mask.append([1] * (width - n_pad) + [0] * n_pad)
        labels.append([IGNORED] * len(prompt) + completion + [IGNORED] * n_pad)
    made = [torch.tensor(values, device=model.device) for values in (ids, mask, labels)]
    inputs = {"input_ids": made[0], "attention_mask": made[1], "use_cache": False}
    loss, _ = completion_loss_sum(model, inputs, made[2])
    float(loss)  # waits for a GPU


def _seconds_of(work: Callable[[], None], clock: Callable[[], float]) -> float:
    """Return the median time of a few repetitions, the first left out where patience allows a second."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) <= N_PASSES and (not times or time.perf_counter() - began < PATIENCE_SECONDS):
        before = clock()
        work()
        times.append(clock() - before)
    return median(times[1:] or times)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
