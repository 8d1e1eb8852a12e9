"""Writes docs/cli.md from the command line itself: python scripts/make_docs.py."""

from pathlib import Path
from typing import Any

import typer

from qpeft.cli import app

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"


def cli_page() -> str:
    """Return the page: the help of `qpeft` and of each verb, as they print it."""
    command = typer.main.get_command(app)
    with command.make_context("qpeft", [], resilient_parsing=True, terminal_width=80) as context:
        pages = _pages(command, context, "qpeft")
    return "# The command line\n\nMade by `python scripts/make_docs.py`.\n\n" + "\n".join(pages)


def _pages(command: Any, context: Any, title: str) -> list[str]:
    """Return the section of a verb and those of the verbs below it."""
    pages = [_section(title, command.get_help(context))]
    for name, verb in sorted(getattr(command, "commands", {}).items()):
        with verb.make_context(
            name, [], parent=context, resilient_parsing=True, terminal_width=80
        ) as inner:
            pages += _pages(verb, inner, f"{title} {name}")
    return pages


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    TARGET.write_text(cli_page(), encoding="utf-8")
