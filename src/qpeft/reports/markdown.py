"""The report as Markdown, short enough for a README."""

import re

from qpeft.reports.accuracy_sections import (
    CONTROLS_NOTES,
    CONTROLS_TEXT,
    arms_section,
    controls_table,
    difference_table,
    measure_table,
)
from qpeft.reports.adapter_sections import branch_summary, gradient_table, rank_table
from qpeft.reports.circuit_sections import noise_table
from qpeft.reports.content import Column, Section, Table
from qpeft.reports.material import Material
from qpeft.reports.record_sections import failures_section, provenance_section
from qpeft.reports.training_sections import tuning_section
from qpeft.study.numbers import MEASURES


def make_markdown(material: Material) -> str:
    """Return the headline, the claims, the arms, the controls, the training and what was run.

    The tables are those of the page, so that both show the same numbers.
    """
    results = material.results
    parts = [f"# {_plain(results.title or results.name)}"]
    if results.is_quick:
        parts.append("> **Quick study.** It shows that everything runs. Its numbers mean little.")
    parts.append(f"**{_plain(material.findings.headline)}**")
    parts.append("## Claims")
    parts.append(
        _table(_claims(material)) if material.findings.verdicts else "No claim was judged."
    )
    parts += _section(arms_section(material), "Arms")
    parts += _section(_controls(material), "Controls")
    for measure in ("training_effect", "forgetting"):
        parts += _section(_measured(material, measure), MEASURES[measure].label.capitalize())
    branch = branch_summary(material)
    parts += _section(branch, branch.title)
    for table in (rank_table(material), gradient_table(material), noise_table(material)):
        if table is not None:
            parts += _section(Section("", "", tables=(table,)), table.caption)
    parts += _section(tuning_section(material), "Tuning")
    parts += _section(_declared(material), "Declared differences")
    parts += _section(failures_section(material), "Runs that did not finish")
    parts += _section(provenance_section(material), "What was run")
    return "\n\n".join(parts) + "\n"


def _claims(material: Material) -> Table:
    rows = tuple((v.claim, v.measured, v.outcome) for v in material.findings.verdicts)
    return Table("Claims", (Column("Claimed"), Column("Measured here"), Column("Outcome")), rows)


def _controls(material: Material) -> Section:
    """Return the section on the controls without its pictures."""
    table = controls_table(material, material.tasks)
    if table is None:
        return Section(
            "controls", "", absent="No arm shares scored examples and seeds with the subject yet."
        )
    return Section("controls", "", CONTROLS_TEXT, tables=(table,), notes=CONTROLS_NOTES)


def _measured(material: Material, measure: str) -> Section:
    """Return a measure of all arms, and of the subject less each other."""
    found = (measure_table(material, measure), difference_table(material, measure))
    tables = tuple(table for table in found if table is not None)
    if not tables:
        return Section(measure, "", absent="It was not measured in this study.")
    return Section(measure, "", tables=tables)


def _declared(material: Material) -> Section:
    """Return what the study file says of arms that did not get the same."""
    rows = tuple(
        (arm.name, what.replace("_", " "), why)
        for arm in material.results.arms
        for what, why in arm.differs.items()
    )
    if not rows:
        return Section("differs", "", absent="The study file declares none.")
    columns = (Column("Arm"), Column("Differs in"), Column("Why"))
    return Section("differs", "", tables=(Table("Declared differences", columns, rows),))


def _section(section: Section, title: str) -> list[str]:
    parts = [f"## {title}"]
    if section.absent:
        return [*parts, _plain(section.absent)]
    parts += [_plain(text) for text in section.paragraphs]
    for table in section.tables:
        if len(section.tables) > 1:
            parts.append(f"{_plain(table.caption)}:")
        parts.append(_table(table))
    return [*parts, *(_plain(text) for text in section.notes)]


def _table(table: Table) -> str:
    header = [_plain(column.header) for column in table.columns]
    line = ["---:" if column.kind == "number" else "---" for column in table.columns]
    rows = [[_plain(text) for text in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, line, *rows))


def _plain(text: str) -> str:
    """Return text on one line in which nothing acts as Markdown or HTML."""
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*\[\]|])", r"\\\1", one_line).replace("&", "&amp;").replace("<", "&lt;")
