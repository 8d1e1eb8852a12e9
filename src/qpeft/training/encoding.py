"""Text to tokens, the same way for training, for the loss of a test and for generation.

A completion is trained behind exactly the tokens that generation will see as its prompt. Where a
tokenizer merges the end of the prompt with the start of the completion ("Answer: " + "42"), the
two are tokenised apart instead; where it does not, they are tokenised as one text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qpeft.errors import DataError
from qpeft.recipe import TrainingSpec
from qpeft.training.examples import Example, Message, Text


@dataclass(frozen=True)
class EncodedSplit:
    """The token ids of one part of the data, none longer than `training.max_length`.

    Args:
        rows: Prompt ids and completion ids of each example, in the order of the data.
        n_dropped: Examples left out because they were too long.
        n_truncated: Examples that were cut.
    """

    rows: list[tuple[list[int], list[int]]]
    n_dropped: int = 0
    n_truncated: int = 0

    @property
    def mean_length(self) -> float:
        """Mean number of tokens of a row."""
        return sum(len(p) + len(c) for p, c in self.rows) / max(len(self.rows), 1)

    @property
    def longest(self) -> int:
        """Most tokens in a row."""
        return max((len(p) + len(c) for p, c in self.rows), default=0)


def encode_split(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    spec: TrainingSpec,
    name: str = "train",
) -> EncodedSplit:
    """Return the token ids of a split, with too long rows treated as `on_long` says.

    Cutting takes from the start of the prompt, so that the completion still follows its end.

    Args:
        tokenizer: The base model's tokenizer.
        examples: The split.
        spec: Its `max_length` (tokens of prompt and completion) and `on_long`.
        name: The split's name, for messages.

    Raises:
        DataError: A row is too long and `on_long` is "error", or no row is left.
    """
    rows: list[tuple[list[int], list[int]]] = []
    n_dropped = n_truncated = 0
    for number, example in enumerate(examples, start=1):
        prompt, completion = encode_example(tokenizer, example)
        if len(prompt) + len(completion) > spec.max_length:
            if spec.on_long == "error":
                raise DataError(_too_long(name, number, example, prompt, completion, spec))
            if spec.on_long == "drop":
                n_dropped += 1
                continue
            n_truncated += 1
            prompt = prompt[-max(spec.max_length - len(completion), 1) :]
            completion = completion[: spec.max_length - len(prompt)]
        rows.append((prompt, completion))
    if examples and not rows:
        raise DataError(
            f"Every example of the {name} split is longer than training.max_length "
            f"{spec.max_length}, so all were dropped. Raise max_length."
        )
    return EncodedSplit(rows, n_dropped, n_truncated)


def encode_example(
    tokenizer: PreTrainedTokenizerBase, example: Example, shots: Sequence[Example] = ()
) -> tuple[list[int], list[int]]:
    """Return the token ids of the prompt and of the completion with its end token.

    Args:
        tokenizer: The base model's tokenizer.
        example: A prompt and a completion, both text or both message lists.
        shots: Solved examples to show in front of the prompt.

    Raises:
        DataError: The example is a message list and the tokenizer has no chat template.
    """
    text = prompt_text(tokenizer, example.prompt, shots)
    completion = _completion_text(tokenizer, example)
    is_chat = not isinstance(example.prompt, str)
    prompt_ids = _ids(tokenizer, text, is_chat)
    joint_ids = _ids(tokenizer, text + completion, is_chat)
    if joint_ids[: len(prompt_ids)] == prompt_ids:
        completion_ids = joint_ids[len(prompt_ids) :]
    else:
        completion_ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return prompt_ids, completion_ids


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, shots: Sequence[Example] = ()
) -> list[int]:
    """Return the token ids after which the model shall go on."""
    text = prompt_text(tokenizer, prompt, shots)
    return _ids(tokenizer, text, is_chat=not isinstance(prompt, str))


def prompt_text(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, shots: Sequence[Example] = ()
) -> str:
    """Return the prompt as the model reads it: chat template applied, solved examples in front."""
    if isinstance(prompt, str):
        return "".join(f"{shot.prompt}{shot.completion}\n\n" for shot in shots) + prompt
    system = [message for message in prompt if message["role"] == "system"]
    turns = [turn for shot in shots for turn in (*shot.prompt, *shot.completion)]
    messages = system + [turn for turn in [*turns, *prompt] if turn["role"] != "system"]
    return _render(tokenizer, messages, add_generation_prompt=True)


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that fills a batch: the padding token, else the end token, else 0."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every id that ends a reply: the model's own and the one that training appends."""
    own = model.generation_config.eos_token_id
    ids = own if isinstance(own, list) else [own]
    return sorted({int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None})


def _too_long(
    name: str,
    number: int,
    example: Example,
    prompt: list[int],
    completion: list[int],
    spec: TrainingSpec,
) -> str:
    text = example.prompt if isinstance(example.prompt, str) else example.prompt[-1]["content"]
    start = " ".join(text.split())[:60]
    return (
        f"Row {number} of the {name} split ('{start}...') has {len(prompt)} prompt and "
        f"{len(completion)} completion tokens, together more than training.max_length "
        f"{spec.max_length}. Raise it, or set training.on_long to truncate or drop."
    )


def _completion_text(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    end = str(tokenizer.eos_token or "")
    if isinstance(example.prompt, str) or isinstance(example.completion, str):
        text = str(example.completion)
        return text if end and text.endswith(end) else text + end
    content = example.completion[0]["content"]
    before = _render(tokenizer, example.prompt, add_generation_prompt=True)
    whole = _render(tokenizer, [*example.prompt, *example.completion], add_generation_prompt=False)
    if whole.startswith(before):
        text = whole[len(before) :]
    else:
        # Templates that render an open prompt differently (an empty thought, say): what is
        # trained is the reply as it stands in the whole conversation, behind the open prompt.
        start = whole.rfind(content.strip())
        text = whole[start:] if start >= 0 else content
    if text.rstrip() == content.rstrip():
        return text + end
    reply, found, rest = text.rpartition(end) if end else ("", "", text)
    # Nothing is ever generated behind the end token, so blanks there teach nothing.
    return reply + found if found and not rest.strip() else text


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[Message],
    *,
    add_generation_prompt: bool,
) -> str:
    if tokenizer.chat_template is None:
        raise DataError(
            "The data are conversations, but the model's tokenizer has no chat template. "
            "Set model.chat_template, or data.prompt and data.completion for plain text."
        )
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return str(text)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, is_chat: bool) -> list[int]:
    # A chat template writes the begin token itself.
    ids: list[int] = tokenizer(text, add_special_tokens=not is_chat)["input_ids"]
    end = tokenizer.eos_token
    if end and ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(end):
        return ids[:-1]  # some tokenizers close every text, a prompt too
    return ids
