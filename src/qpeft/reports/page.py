"""The page: every section in one HTML file that needs nothing else."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from qpeft.errors import MissingExtraError
from qpeft.reports.accuracy_sections import (
    arms_section,
    controls_section,
    effect_section,
    forgetting_section,
    pareto_section,
)
from qpeft.reports.adapter_sections import branch_section, gradients_section, rank_section
from qpeft.reports.arm_styles import DARK_COLOURS, LIGHT_COLOURS, ArmStyle
from qpeft.reports.circuit_sections import ansatz_section, circuit_section, noise_section
from qpeft.reports.content import Download
from qpeft.reports.drawing import marker_path
from qpeft.reports.material import Material, listed
from qpeft.reports.record_sections import (
    data_section,
    failures_section,
    parity_section,
    provenance_section,
)
from qpeft.reports.training_sections import cost_section, losses_section, tuning_section
from qpeft.study import numbers
from qpeft.study.verdicts import core_of, is_larger

SECTIONS = (
    pareto_section,
    arms_section,
    controls_section,
    losses_section,
    effect_section,
    forgetting_section,
    branch_section,
    rank_section,
    gradients_section,
    ansatz_section,
    noise_section,
    circuit_section,
    tuning_section,
    cost_section,
    failures_section,
    parity_section,
    provenance_section,
    data_section,
)
"""What stands below the verdict and the claims, in this order."""

_MARKS = {"supported": "✓", "contradicted": "✕", "not shown": "○", "not measured": numbers.ABSENT}


@dataclass(frozen=True)
class Fact:
    """One number at a glance."""

    name: str
    value: str
    detail: str = ""


def make_page(material: Material) -> str:
    """Return the text of the page.

    Raises:
        MissingExtraError: Matplotlib or Jinja is not installed.
    """
    environment = _environment()
    colours = {"light_colours": LIGHT_COLOURS, "dark_colours": DARK_COLOURS}
    results, findings = material.results, material.findings
    text: str = environment.get_template("page.html.jinja").render(
        css=environment.get_template("page.css").render(colours),
        title=results.title or results.name,
        what=_what(material),
        results=results,
        headline=findings.headline,
        glance=list(_glance(material)),
        verdicts=findings.verdicts,
        marks=_MARKS,
        sections=[make(material) for make in SECTIONS],
        styles=material.styles,
        version=version("qpeft"),
    )
    return text


def _environment() -> Any:
    try:
        import jinja2
        from markupsafe import Markup
    except ModuleNotFoundError as error:
        raise MissingExtraError("jinja2", "study", "A report's page") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("qpeft.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["trusted"] = Markup  # for our own style sheet and drawings alone
    environment.filters["heading"] = lambda key: key.replace("_", " ").capitalize()
    environment.filters["n_bytes"] = lambda text: numbers.size(len(text.encode()))
    environment.globals["sign"] = _sign
    environment.globals["file_uri"] = _file_uri
    environment.globals["svg_uri"] = lambda text: _data_uri("image/svg+xml", text)
    return environment


def _sign(style: ArmStyle) -> str:
    return marker_path(style.marker)


def _file_uri(file: Download) -> str:
    kind = "application/json" if file.name.endswith(".json") else "text/csv"
    return _data_uri(f"{kind};charset=utf-8", file.text)


def _data_uri(kind: str, text: str) -> str:
    """Return a text as an address that holds it, in the shorter of the two ways to write it."""
    coded = f";base64,{base64.b64encode(text.encode()).decode()}"
    quoted = f",{quote(text, safe=' !$*()[],:;=@/-._~')}"
    return f"data:{kind}{min(coded, quoted, key=len)}"


def _what(material: Material) -> str:
    """Say in a line what was compared on what."""
    results = material.results
    n_done = sum(row.status == "succeeded" for row in results.rows)
    n_seeds = len(results.seeds)
    n_others = len(results.arms) - 2
    others = f" and {n_others} other arm{'s' if n_others > 1 else ''}" if n_others else ""
    compared = f"{results.subject} against {results.reference}{others}"
    tasks = listed(task.title for task in results.tasks)
    seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}"
    done = f"{n_done} of {len(results.rows)} runs finished"
    return f"{compared} on {results.model}; {tasks}; {seeds}; {done}."


def _glance(material: Material) -> Iterator[Fact]:
    """Yield the few numbers that belong beside the verdict."""
    results, task = material.results, material.tasks[0]
    where = material.title(task).lower() if task == "all" else material.title(task)
    for arm in (results.subject, results.reference):
        value = material.value(task, arm, "accuracy")
        if value is not None:
            estimate, _, ends = numbers.interval(value, "accuracy").partition(" (")
            yield Fact(f"Accuracy of {arm}, {where}", estimate, ends.rstrip(")"))
    compared = material.comparison(task, results.reference, "accuracy")
    if compared is not None:
        estimate, _, ends = numbers.difference(compared.difference, "accuracy").partition(" (")
        detail = ends.rstrip(")") + (f"; {compared.equivalence}" if compared.equivalence else "")
        yield Fact(f"{results.subject} less {results.reference}", estimate, detail)
    controls = [arm.name for arm in results.arms if arm.role == "control" and core_of(arm)]
    found = [c for name in controls if (c := material.comparison(task, name, "accuracy"))]
    if found:
        n_better = sum(is_larger(c) == "supported" for c in found)
        detail = "by the verdict's rule: p, corrected, below 0.05, and more than one seed"
        yield Fact("Controls that it is better than", f"{n_better} of {len(controls)}", detail)
    if material.n_parameters(results.subject):
        size = numbers.whole(material.n_parameters(results.subject))
        detail = f"{size} against {numbers.whole(material.n_parameters(results.reference))}"
        yield Fact("Trainable parameters", material.saving(results.subject), detail)
