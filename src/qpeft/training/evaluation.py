"""How good a model is on the test split: strict accuracy, completion loss, perplexity.

An answer is right if the verifier of the task says so about the text up to the first stop string,
with blanks stripped. Decoding is greedy. Solved examples ("shots") come from the training split,
chosen by the seed, the same for every prompt and every model.
"""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qpeft.errors import DataError
from qpeft.recipe import EvaluationSpec
from qpeft.training.encoding import encode_example, pad_token_id, prompt_text
from qpeft.training.examples import Example, Splits
from qpeft.training.generation import SharedPrefix, evaluation_mode, generate_text
from qpeft.training.losses import IGNORED, completion_loss_sum
from qpeft.training.significance import mcnemar_p_value, wilson_interval

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Prediction:
    """What a model said to one test example.

    Args:
        prompt: The text the model was given, shots and chat template included.
        expected: The right answer.
        text: What it generated, up to the first stop string, stripped.
        score: The verifier's score in [0, 1]; only 1 counts as right.
    """

    prompt: str
    expected: str
    text: str
    score: float

    @property
    def is_correct(self) -> bool:
        """Whether the verifier gave the full score."""
        return self.score >= 1.0


@dataclass(frozen=True)
class Evaluation:
    """One model on the test split.

    Args:
        n_shots: How many solved examples stood in front of each prompt.
        n: Test examples.
        n_correct: Those answered rightly.
        interval: 95 % Wilson interval of the accuracy.
        loss: Mean negative log-likelihood of a completion token, in nats.
        seconds: How long it took.
        verifier: What judged the answers.
        predictions: Every answer; empty when read back from results.json.
    """

    n_shots: int
    n: int
    n_correct: int
    interval: tuple[float, float]
    loss: float
    seconds: float
    verifier: str
    predictions: tuple[Prediction, ...] = ()

    @property
    def accuracy(self) -> float:
        """The share of right answers, in [0, 1]."""
        return self.n_correct / self.n

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for results.json, without the single predictions."""
        return {
            "n_shots": self.n_shots,
            "n": self.n,
            "n_correct": self.n_correct,
            "accuracy": self.accuracy,
            "interval_95": list(self.interval),
            "loss": self.loss,
            "perplexity": self.perplexity,
            "seconds": self.seconds,
            "verifier": self.verifier,
        }

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]] = ()
    ) -> "Evaluation":
        """Return the evaluation that `to_dict` wrote."""
        return cls(
            n_shots=data["n_shots"],
            n=data["n"],
            n_correct=data["n_correct"],
            interval=(data["interval_95"][0], data["interval_95"][1]),
            loss=data["loss"],
            seconds=data["seconds"],
            verifier=data["verifier"],
            predictions=tuple(Prediction(**row) for row in predictions),
        )


@dataclass(frozen=True)
class Comparison:
    """Two models on the same test examples.

    Args:
        arm: The first model's name.
        other: The second model's name.
        n_shots: The shots of both.
        difference: Accuracy of `arm` less that of `other`, as a fraction.
        p_value: McNemar's exact two-sided p-value.
    """

    arm: str
    other: str
    n_shots: int
    difference: float
    p_value: float


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: Splits,
    spec: EvaluationSpec,
    n_shots: int = 0,
    *,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Return how the model does on the test split.

    Args:
        model: A causal language model, with or without adapters.
        tokenizer: Its tokenizer.
        splits: Training split for the shots, test split, verifier.
        spec: Stop strings, longest answer, batch size.
        n_shots: How many solved examples to show.
        seed: Chooses them.
        on_progress: Called with the number of finished steps and of all.

    Raises:
        DataError: There is no test split, or fewer training examples than shots.
    """
    if not splits.test:
        raise DataError("There are no test examples to evaluate on. Set data.n_test.")
    began = time.monotonic()
    shots = choose_shots(splits.train, n_shots, seed)
    predictions = _predict(model, tokenizer, splits, spec, shots, _part(on_progress, 0, splits))
    loss = completion_loss(
        model,
        tokenizer,
        splits.test,
        batch_size=spec.batch_size,
        shots=shots,
        on_progress=_part(on_progress, 1, splits),
    )
    n, n_correct = len(predictions), sum(p.is_correct for p in predictions)
    return Evaluation(
        n_shots=n_shots,
        n=n,
        n_correct=n_correct,
        interval=wilson_interval(n_correct, n),
        loss=loss,
        seconds=time.monotonic() - began,
        verifier=splits.verifier.name,
        predictions=predictions,
    )


def choose_shots(train: Sequence[Example], n_shots: int, seed: int) -> list[Example]:
    """Return `n_shots` training examples, always the same for a seed.

    Raises:
        DataError: There are fewer training examples.
    """
    if n_shots > len(train):
        raise DataError(
            f"evaluation.n_shots asks for {n_shots} solved examples, but the training split has "
            f"{len(train)}. Use fewer."
        )
    return random.Random(seed).sample(list(train), n_shots)


def completion_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    batch_size: int = 64,
    shots: Sequence[Example] = (),
    on_progress: Progress | None = None,
) -> float:
    """Return the mean negative log-likelihood of a completion token, in nats.

    Every token of all completions counts the same, whatever batch it was in.
    """
    encoded = [encode_example(tokenizer, example, shots) for example in examples]
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i][0]) - len(encoded[i][1]))
    total, n_tokens = 0.0, 0
    with evaluation_mode(model), torch.no_grad():
        shared = SharedPrefix(model, [prompt for prompt, _ in encoded])
        for start in range(0, len(order), batch_size):
            rows = [encoded[i] for i in order[start : start + batch_size]]
            inputs, labels = _loss_batch(rows, shared, pad_token_id(tokenizer), model.device)
            loss, n = completion_loss_sum(model, inputs, labels)
            total, n_tokens = total + loss.item(), n_tokens + int(n)
            if on_progress is not None:
                on_progress(start + len(rows), len(order))
    return total / n_tokens


def compare(arm: str, a: Evaluation, other: str, b: Evaluation) -> Comparison:
    """Return how two evaluations with the same shots differ, and how surely."""
    p_value = mcnemar_p_value(
        [p.is_correct for p in a.predictions], [p.is_correct for p in b.predictions]
    )
    return Comparison(arm, other, a.n_shots, a.accuracy - b.accuracy, p_value)


def _part(on_progress: Progress | None, part: int, splits: Splits) -> Progress | None:
    """Return a progress of the answers (part 0) or the losses (part 1) within that of both."""
    if on_progress is None:
        return None
    n = len(splits.test)
    return lambda done, _: on_progress(part * n + done, 2 * n)


def _predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: Splits,
    spec: EvaluationSpec,
    shots: Sequence[Example],
    on_progress: Progress | None,
) -> tuple[Prediction, ...]:
    texts = generate_text(
        model,
        tokenizer,
        [example.prompt for example in splits.test],
        max_new_tokens=spec.max_new_tokens,
        stop=spec.stop,
        batch_size=spec.batch_size,
        shots=shots,
        on_progress=on_progress,
    )
    return tuple(
        _judge(tokenizer, splits, example, text.strip(), shots)
        for example, text in zip(splits.test, texts, strict=True)
    )


def _judge(
    tokenizer: PreTrainedTokenizerBase,
    splits: Splits,
    example: Example,
    text: str,
    shots: Sequence[Example],
) -> Prediction:
    if isinstance(example.completion, str):
        completion = example.completion
    else:
        completion = str(example.completion[-1]["content"])
    return Prediction(
        prompt=prompt_text(tokenizer, example.prompt, shots),
        expected=completion.strip() if example.answer is None else example.answer,
        text=text,
        score=float(splits.verifier.score(text, example)),
    )


def _loss_batch(
    rows: Sequence[tuple[list[int], list[int]]],
    shared: SharedPrefix,
    pad: int,
    device: torch.device,
) -> tuple[dict[str, Any], torch.Tensor]:
    n_shared = len(shared.ids)
    ids = [(prompt + completion)[n_shared:] for prompt, completion in rows]
    labels = [[IGNORED] * len(prompt) + completion for prompt, completion in rows]
    width = max(len(row) for row in ids)
    inputs: dict[str, Any] = {
        "input_ids": _padded(ids, width, pad).to(device),
        "attention_mask": torch.tensor(
            [[1] * (n_shared + len(row)) + [0] * (width - len(row)) for row in ids]
        ).to(device),
    }
    if n_shared:
        inputs["past_key_values"] = shared.expand(len(rows))
    return inputs, _padded([row[n_shared:] for row in labels], width, IGNORED).to(device)


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> torch.Tensor:
    return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows])
