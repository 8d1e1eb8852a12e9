"""What the verbs for quantum machines share: options of a backend, compact tables and numbers."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from qpeft.errors import ConfigError

Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="An option of the backend. Repeatable."),
]


def compact_table(*names: str, n_numbers: int) -> Table:
    """Return a table without rules between the columns: names, and then the first so many numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in ("circuits", "programs", "shots", "jobs")[:n_numbers]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def short(n: int) -> str:
    """Return a count in at most six characters or so: 3,402, 205k, 13.8M."""
    if n < 10_000:
        return f"{n:,}"
    for size, unit in ((10**9, "G"), (10**6, "M")):
        if n >= size:
            return f"{n / size:,.3g}{unit}" if n < 1000 * size else f"{n / size:,.0f}{unit}"
    return f"{n / 1000:.3g}k"


def parse_options(texts: list[str] | None) -> dict[str, Any]:
    """Return KEY=VALUE texts as a mapping, values read as YAML.

    Raises:
        ConfigError: A text is not of that form.
    """
    import yaml

    options = {}
    for text in texts or []:
        key, found, value = text.partition("=")
        if not found or not key:
            raise ConfigError(f"--option takes KEY=VALUE; got '{text}'.")
        options[key] = yaml.safe_load(value)
    return options


def remote_named(name: str, options: Mapping[str, Any]) -> Any:
    """Return the remote of a journal's row, whose name may hold its device behind a colon."""
    from qpeft.backends import get_remote

    kind, has_device, device = name.partition(":")
    own: dict[str, Any] = {"device": device} if has_device else {}
    if kind == "origin" and has_device:
        chip, has_url, url = device.partition("@")
        own = {"chip": chip, **({"url": url} if has_url else {})}
    return get_remote(kind, {**own, **options})
