"""Sections say what stands behind their numbers, and promise nothing that is not there."""

from dataclasses import replace
from typing import Any

import pytest
from sample import NO_FINDINGS, rich_study
from synthetic import TASKS, synthetic_results

from qpeft.reports.adapter_sections import branch_section, gradients_section, rank_section
from qpeft.reports.circuit_sections import ansatz_section, noise_section
from qpeft.reports.content import Section
from qpeft.reports.markdown import make_markdown
from qpeft.reports.material import Material
from qpeft.reports.record_sections import provenance_section
from qpeft.reports.samples import first_examples, forgetting_samples, ranges
from qpeft.study import numbers
from qpeft.study.results import StudyResults


def small(n_tasks: int = 1, n_seeds: int = 1) -> StudyResults:
    tasks = TASKS[:n_tasks]
    return rich_study(n_seeds=n_seeds, tasks=tasks, n_examples=120, failed=())


def material_of(results: StudyResults, **changes: Any) -> Material:
    return Material.of(replace(results, **changes), NO_FINDINGS)


def said(section: Section) -> str:
    captions = [figure.caption for figure in section.figures]
    return " ".join([*section.paragraphs, *captions, *section.notes])


def test_the_samples_behind_every_measure_are_told() -> None:
    material = material_of(small(n_tasks=2, n_seeds=3))
    _, samples = provenance_section(material).tables
    first = f"the first 100 of 120 test examples of each task: one answer is 1.0{numbers.SPACE}pp"
    rows, batch = "2,048 tokens of test examples", "a batch of 8 training examples"
    texts = "16 texts, 752 tokens in all: samples of the base model"
    over = "2 tasks, 3 seeds"
    assert samples.rows == (
        ("Forgetting", texts, over),
        ("Core out, core shuffled", first, over),
        ("Share of the core", rows, over),
        ("Effective rank", rows, over),
        ("Gradients", batch, over),
        ("Noise and shots", first, over),
    )
    for make, samples_of in (
        (branch_section, first),
        (branch_section, rows),
        (rank_section, rows),
        (gradients_section, batch),
        (noise_section, first),
    ):
        assert samples_of in said(make(material)), make


@pytest.mark.parametrize(
    ("n_tasks", "n_seeds", "by_task", "over_all"),
    [
        (1, 3, "means over 3 seeds, bars the range over them", None),
        (2, 3, "means over 3 seeds, bars", "means over 2 tasks and 3 seeds, bars"),
        (2, 1, "single runs and there are no ranges", "over 2 tasks with one seed, bars"),
        (1, 1, "single runs and there are no ranges: what another seed", None),
    ],
)
def test_ranges_say_whether_they_are_over_seeds(
    n_tasks: int, n_seeds: int, by_task: str, over_all: str | None
) -> None:
    material = material_of(small(n_tasks, n_seeds))
    assert by_task in ranges(material, "noise", "rows", is_by_task=True)
    assert (over_all or by_task) in ranges(material, "branch", "ablated")


def test_runs_that_were_measured_on_more_or_fewer_samples_are_told_as_a_span() -> None:
    results = small(n_seeds=3)
    few = {"branch": {"n_examples": 20}, "forgetting": {"n_texts": 8, "n_tokens": 99, "text": "x"}}
    rows = tuple(
        replace(row, measures=few) if (row.arm, row.seed) == ("qtha", 0) else row
        for row in results.rows
    )
    material = material_of(results, rows=rows)
    assert first_examples(material, "branch") == (
        f"the first 20 to 100 of 120 test examples: one answer is up to 5.0{numbers.SPACE}pp"
    )
    assert forgetting_samples(material) == (
        "8 to 16 texts, 99 to 752 tokens in all: samples of the base model or x"
    )
    assert "2 to 3 seeds" in ranges(material, "noise", "rows")


def test_a_shuffle_in_which_padding_took_part_is_owned_up_to() -> None:
    whole = said(branch_section(material_of(small())))
    assert "of another token of the same pass" in whole
    assert "padding" not in whole
    older = synthetic_results(n_seeds=2, tasks=TASKS[:1], n_examples=20, failed=())
    n = sum("shuffled" in row.measures["branch"] for row in older.rows)
    section = branch_section(material_of(older))
    assert f"In {n} of {n} runs (qtha, mlp and frozen) padding took part" in said(section)
    assert f"In {n} of {n} runs (qtha, mlp and frozen) padding" in make_markdown(material_of(older))


def test_a_curve_by_qubits_is_shown_where_there_is_one() -> None:
    material = material_of(small())
    rows = material.results.ansatzes
    first, *_, last = [r for r in rows if (r.name, r.n_layers) == ("reupload", 1)]
    ends = [numbers.short(row.gradient_variance) for row in (first, last)]
    section = ansatz_section(material)
    curve = f"from {ends[0]} with 2 qubits to {ends[1]} with 8 (reupload, L = 1)"
    assert curve in section.paragraphs[1]
    assert "the same ansatz with other numbers of qubits" in said(section)
    assert "stands in the next section" in said(gradients_section(material))


def test_one_number_of_qubits_promises_no_curve() -> None:
    results = small()
    material = material_of(results, ansatzes=results.ansatzes[:1])
    section = ansatz_section(material)
    assert "with one number of qubits only" in section.paragraphs[1]
    assert "picture" not in said(section)
    assert "other numbers" not in said(section)
    assert "was not measured in this study" in said(gradients_section(material))


def test_hashes_are_told_by_the_studys_tasks_and_no_place_of_one_machine() -> None:
    hashes = {
        "easy": {"chain_sum/train": "11aa", "chain_sum/test": "12ab"},
        "hard": {"chain_sum/train": "21ba", "chain_sum/test": "22bb"},
        "files": {"/home/me/a/sums.jsonl": "31ca", "C:\\data\\b\\sums.jsonl": "32cb"},
    }
    material = material_of(small(), provenance={"data_hashes": hashes})
    rows = dict(provenance_section(material).tables[0].rows)
    assert {name: found for name, found in rows.items() if name.startswith("SHA-256")} == {
        "SHA-256 of easy/train": "11aa",
        "SHA-256 of easy/test": "12ab",
        "SHA-256 of hard/train": "21ba",
        "SHA-256 of hard/test": "22bb",
        "SHA-256 of files/sums.jsonl": "31ca",
        "SHA-256 of files/sums.jsonl (2)": "32cb",
    }
