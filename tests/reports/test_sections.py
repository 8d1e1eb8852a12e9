"""Sections say what stands behind their numbers, and promise nothing that is not there."""

from dataclasses import replace
from typing import Any

from sample import NO_FINDINGS, rich_study
from synthetic import TASKS, synthetic_results

from qpeft.reports.adapter_sections import branch_section
from qpeft.reports.content import Section
from qpeft.reports.material import Material
from qpeft.study.results import StudyResults


def small(n_tasks: int = 1, n_seeds: int = 1) -> StudyResults:
    tasks = TASKS[:n_tasks]
    return rich_study(n_seeds=n_seeds, tasks=tasks, n_examples=120, failed=())


def material_of(results: StudyResults, **changes: Any) -> Material:
    return Material.of(replace(results, **changes), NO_FINDINGS)


def said(section: Section) -> str:
    captions = [figure.caption for figure in section.figures]
    return " ".join([*section.paragraphs, *captions, *section.notes])


def test_a_shuffle_in_which_padding_took_part_is_owned_up_to() -> None:
    whole = said(branch_section(material_of(small())))
    assert "of another token of the same pass" in whole
    assert "padding" not in whole
    older = synthetic_results(n_seeds=2, tasks=TASKS[:1], n_examples=20, failed=())
    n = sum("shuffled" in row.measures["branch"] for row in older.rows)
    section = branch_section(material_of(older))
    assert f"In {n} of {n} runs padding took part in the shuffle" in said(section)
