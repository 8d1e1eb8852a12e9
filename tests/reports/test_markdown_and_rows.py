"""The Markdown for a README, and the rows that stand beside it."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from sample import NO_FINDINGS, bare_study
from synthetic import ARMS, synthetic_results

from qpeft.reports import ReportFiles
from qpeft.reports.csv_rows import csv_files
from qpeft.reports.markdown import make_markdown
from qpeft.reports.material import Material
from qpeft.study import numbers
from qpeft.study.findings import Interval
from qpeft.study.record import write_rows
from qpeft.study.results import StudyResults
from qpeft.study.statistics import find


def tables_of(text: str) -> list[list[list[str]]]:
    """Return the cells of all tables as a Markdown parser sees them."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and token.level >= 3 and tables:
            children = token.children or []
            assert all(c.type in ("text", "softbreak") for c in children), token.content
            tables[-1][-1].append("".join(c.content for c in children))
    return tables


def test_tables_parse_with_equal_rows_and_the_findings_numbers(study: StudyResults) -> None:
    findings = find(study)
    text = make_markdown(Material.of(study, findings))
    tables = tables_of(text)
    assert len(tables) >= 7
    for table in tables:
        assert len({len(row) for row in table}) == 1
    # The parser of tables takes a space that does not break for any other.
    said = [[v.claim, v.measured.replace(numbers.SPACE, " "), v.outcome] for v in findings.verdicts]
    assert tables[0][1:] == said
    value = next(
        s.value
        for s in findings.summaries
        if (s.task, s.arm, s.measure) == ("all", "qtha", "accuracy")
    )
    wanted = f"{100 * value.estimate:.1f} ({100 * value.low:.1f} to {100 * value.high:.1f})"
    assert tables[1][1][:2] == ["qtha", wanted]
    assert findings.headline.replace(numbers.SPACE, " ") in text
    assert "qpeft study study.yaml" in text


def test_names_cannot_become_markdown_or_html() -> None:
    evil = "a|b`c` *d* [e](http://f) <img src=x> \\|"
    arms = tuple(replace(a, name=evil) if a.name == "mlp" else a for a in ARMS)
    results = synthetic_results(arms=arms, n_examples=30, n_seeds=2)
    text = make_markdown(Material.of(results, find(results)))
    assert any(row[0] == evil for table in tables_of(text) for row in table)
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert "<img" not in html
    assert "<a " not in html


def test_a_study_without_results_still_reads_well() -> None:
    text = make_markdown(Material.of(bare_study(), NO_FINDINGS))
    assert NO_FINDINGS.headline in text
    assert "No claim was judged" in text
    assert tables_of(text)


def test_rows_hold_what_the_page_shows(study: StudyResults, report: ReportFiles) -> None:
    files = {file.name: file for file in report.rows}
    rows = list(csv.DictReader(files["rows.csv"].open(encoding="utf-8")))
    assert len(rows) == len(study.rows) + len(study.base)
    by_place = {(r["task"], r["arm"], r["seed"]): r for r in rows}
    for row in study.rows:
        if row.accuracy is not None:
            found = by_place[row.task, row.arm, str(row.seed)]
            assert float(found["accuracy"]) == pytest.approx(row.accuracy)
    losses = list(csv.DictReader(files["losses.csv"].open(encoding="utf-8")))
    assert len(losses) == sum(len(r.losses) + len(r.validation_losses) for r in study.rows)
    trials = list(csv.DictReader(files["trials.csv"].open(encoding="utf-8")))
    assert len(trials) == len(study.trials)


def test_a_reports_rows_are_the_studys_without_single_layers(
    study: StudyResults, tmp_path: Path
) -> None:
    write_rows(study, tmp_path / "rows.csv")
    whole, brief = (tmp_path / "rows.csv").read_text("utf-8"), csv_files(study)[0].text
    assert '""modules""' in whole
    assert '""modules""' not in brief
    kept = [row["accuracy"] for row in csv.DictReader(io.StringIO(brief))]
    assert kept == [row["accuracy"] for row in csv.DictReader(io.StringIO(whole))]


def test_numbers_read_as_people_write_them() -> None:
    minus, space = numbers.MINUS, numbers.SPACE
    value = Interval(-0.0123, -0.03, 0.0004)
    assert numbers.difference(value, "accuracy") == f"{minus}1.2{space}pp ({minus}3.0 to 0.0)"
    assert numbers.interval(Interval(0.5, 0.25, 1.0), "test_loss") == (
        f"0.500{space}nats/token (0.250 to 1.000)"
    )
    assert numbers.decimal(float("nan")) == numbers.ABSENT
    assert (
        numbers.interval(Interval(0.5, float("nan"), float("nan")), "accuracy") == f"50.0{space}%"
    )
    assert numbers.size(1_900_000_000) == f"1.9{space}GB"
    assert numbers.size(999) == f"999{space}B"
    assert numbers.duration(5400.0) == f"90.0{space}min"
    assert numbers.p_value(0.0004) == f"<{space}0.001"
    assert numbers.spread([1.0, 1.0], 2) == "1.00"
    assert numbers.spread([1.0, 2.0], 1) == "1.5 (1.0 to 2.0)"
