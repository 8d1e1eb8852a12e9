"""From a row of a data set to examples: templates over its columns, and the usual layouts.

| format              | columns                                                        |
|---------------------|----------------------------------------------------------------|
| `prompt_completion` | `prompt`, `completion`: two texts, or two lists of messages    |
| `messages`          | `messages`: a list of `role` and `content`                     |
| `alpaca`            | `instruction`, `output`; perhaps `input`, and perhaps          |
|                     | `history`: the turns before, a list of pairs of texts          |
| `sharegpt`          | `conversations`: a list of `from` and `value`                  |

Of a dialogue, every turn of the assistant becomes an example of its own with all that came before
as its prompt, so that each is trained on, whatever the chat template.
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qpeft.errors import DataError, did_you_mean
from qpeft.recipe import DataSpec
from qpeft.recipe_text import got
from qpeft.training.examples import Example, Message, Text
from qpeft.training.rows import Row

_MARKS = {
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
}


def row_examples(
    rows: Sequence[Row], spec: DataSpec, tokenizer_has_chat_template: bool
) -> list[list[Example]]:
    """Return the examples of each row.

    Args:
        rows: At least one.
        spec: Its `format`, or its `prompt` and `completion` templates, say how to read a row.
        tokenizer_has_chat_template: Whether dialogues can be shown to the model.

    Raises:
        DataError: The columns fit no format, or a row has a missing, empty or odd field.
    """
    if spec.prompt is not None and spec.completion is not None:
        columns = list(rows[0].values)
        prompt = Template.parse(spec.prompt, "data.prompt", columns)
        completion = Template.parse(spec.completion, "data.completion", columns)
        texts = [(row, prompt.render(row), completion.render(row)) for row in rows]
        is_chat = spec.format == "messages"
        examples = [[text_example(*text, is_chat=is_chat)] for text in texts]
    else:
        layout = spec.format if spec.format != "auto" else _detect(rows[0])
        as_chat = tokenizer_has_chat_template
        examples = [_read(row, layout, as_chat) for row in rows]
    for row, found in zip(rows, examples, strict=True):
        if not tokenizer_has_chat_template and not isinstance(found[0].prompt, str):
            raise DataError(
                f"{row.place}: the data are dialogues, but the model's tokenizer has no chat "
                "template; set model.chat_template, or data.prompt and data.completion"
            )
    return examples


def text_example(
    row: Row, prompt: str, completion: str, *, is_chat: bool, entry: dict[str, Any] | None = None
) -> Example:
    """Return the example of a prompt and a completion that are plain texts.

    Args:
        row: Where the texts come from.
        prompt: What the model reads.
        completion: What it shall write.
        is_chat: Whether to put them as a user's and an assistant's message.
        entry: The task's own record of the problem.

    Raises:
        DataError: One of the two is blank.
    """
    for name, text in (("prompt", prompt), ("completion", completion)):
        if not text.strip():
            raise DataError(f"{row.place}: the {name} is empty")
    answer = completion.strip()
    if is_chat:
        asked = [{"role": "user", "content": prompt}]
        return Example(asked, [{"role": "assistant", "content": answer}], answer, entry)
    return Example(prompt, completion, answer, entry)


@dataclass(frozen=True)
class Template:
    """A text with placeholders such as `{question}` or, for what is nested, `{answers.text.0}`.

    A list of texts is put line by line.

    Args:
        pieces: Plain text and the placeholder behind it, in turn.
    """

    pieces: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str, where: str, columns: Sequence[str]) -> "Template":
        """Return the template of a text; `{{` and `}}` are braces.

        Args:
            text: The template.
            where: The recipe's key of the template, for messages.
            columns: The columns there are.

        Raises:
            DataError: A brace is not closed, or a placeholder names no column.
        """
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise DataError(
                f"{where}: {error}; write a brace that is meant as {{{{ or }}}}"
            ) from error
        for _, name, format_spec, conversion in parsed:
            if name is None:
                continue
            if format_spec or conversion or name.split(".")[0] not in columns:
                hint = did_you_mean(name.split(".")[0], columns)
                raise DataError(
                    f"{where}: unknown placeholder {{{name}}}.{hint} Columns: {', '.join(columns)}."
                )
        return cls(tuple((literal, name) for literal, name, _, _ in parsed))

    def render(self, row: Row) -> str:
        """Return the text of one row.

        Raises:
            DataError: The row lacks a column that the template names, or it is null.
        """
        return "".join(
            literal + ("" if name is None else _as_text(_value(row, name)))
            for literal, name in self.pieces
        )


def _as_text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return str(value)


def _value(row: Row, name: str) -> Any:
    value: Any = row.values
    for part in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            value = None
    if value is None:
        raise DataError(f"{row.place}: the field '{name}' is missing or null")
    return value


def _detect(row: Row) -> str:
    for layout, marks in _MARKS.items():
        if all(mark in row.values for mark in marks):
            return layout
    known = "; ".join(f"{layout}: {', '.join(marks)}" for layout, marks in _MARKS.items())
    raise DataError(
        f"{row.place}: cannot tell the format from the columns {', '.join(map(str, row.values))} "
        f"(known are {known}); set data.prompt and data.completion, such as '{{some_column}}'"
    )


def _read(row: Row, layout: str, as_chat: bool) -> list[Example]:
    for mark in _MARKS[layout]:
        if row.values.get(mark) in (None, "", []):
            what = "is empty" if mark in row.values else "is missing"
            raise DataError(f"{row.place}: the field '{mark}' {what} (format '{layout}')")
    if layout == "prompt_completion":
        return [_pair(row)]
    if layout == "alpaca":
        if row.values.get("history"):
            return _dialogue(row, _alpaca_turns(row))
        return [_alpaca(row, as_chat)]
    if layout == "messages":
        turns = _turns(row, "messages", "role", "content", dict.fromkeys(_ROLES))
        return _dialogue(row, turns)
    return _dialogue(row, _turns(row, "conversations", "from", "value", _SPEAKERS))


def _pair(row: Row) -> Example:
    prompt, completion = row.values["prompt"], row.values["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return text_example(row, prompt, completion, is_chat=False)
    roles = dict.fromkeys(_ROLES)
    asked = _turns(row, "prompt", "role", "content", roles)
    said = _turns(row, "completion", "role", "content", roles)
    return Example(asked, said, said[-1]["content"].strip())


def _alpaca(row: Row, as_chat: bool) -> Example:
    instruction, output = str(row.values["instruction"]), str(row.values["output"])
    if as_chat:
        return text_example(row, _asked(row), output, is_chat=True)
    material = str(row.values.get("input") or "")
    given = f"Given: {material}\n" if material.strip() else ""
    return text_example(row, f"Task: {instruction}\n{given}Result:", f" {output}", is_chat=False)


def _asked(row: Row) -> str:
    instruction, material = str(row.values["instruction"]), str(row.values.get("input") or "")
    return f"{instruction}\n\n{material}" if material.strip() else instruction


def _alpaca_turns(row: Row) -> list[Message]:
    """Return the turns of an alpaca row with a history, oldest first.

    An empty turn is refused, as in every other format: whether it or the whole pair should go is not ours to
    guess.
    """
    history = row.values["history"]
    turns: list[Message] = []
    for i, pair in enumerate(history if isinstance(history, list) else [history]):
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(isinstance(text, str) for text in pair):
            raise DataError(f"{row.place}: history[{i}] is not a pair of texts: {got(pair)}")
        if not all(text.strip() for text in pair):
            raise DataError(
                f"{row.place}: history[{i}] has an empty turn: {got(pair)}; fill it, or take the pair out"
            )
        turns += _round(*pair)
    return turns + _round(_asked(row), str(row.values["output"]))


def _round(asked: str, answered: str) -> list[Message]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


_ROLES = ("system", "user", "assistant", "tool")
_SPEAKERS: dict[str, str | None] = {
    "system": None,
    "user": None,
    "assistant": None,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


def _turns(
    row: Row, column: str, who: str, what: str, speakers: Mapping[str, str | None]
) -> list[Message]:
    """Return the turns in a column as messages; `speakers` maps other names to roles."""
    turns = row.values.get(column)
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise DataError(f"{row.place}: '{column}' is not a list of '{who}' and '{what}'")
    messages = []
    for i, turn in enumerate(turns):
        speaker, text = turn.get(who), turn.get(what)
        if speaker not in speakers:
            hint = did_you_mean(str(speaker), speakers)
            raise DataError(f"{row.place}: {column}[{i}].{who} is {got(speaker)}.{hint}")
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{row.place}: {column}[{i}].{what} is not a text or empty: {got(text)}"
            )
        messages.append({"role": speakers[speaker] or speaker, "content": text})
    return messages


def _dialogue(row: Row, turns: list[Message]) -> list[Example]:
    """Return one example for each assistant's turn that answers something."""
    examples = [
        Example(turns[:i], [turn], turn["content"].strip())
        for i, turn in enumerate(turns)
        if turn["role"] == "assistant" and any(before["role"] != "system" for before in turns[:i])
    ]
    if not examples:
        raise DataError(f"{row.place}: the dialogue has no assistant's turn after a user's")
    return examples


def prompt_key(prompt: Text) -> str:
    """Return one text for a prompt, equal for equal prompts."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
