"""The page as text: what it says, that it is well-formed, and that it needs nothing and trusts nobody."""

import itertools
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from page_reader import Element, read_page
from sample import NO_FINDINGS, bare_study
from synthetic import ARMS, synthetic_results

from qpeft.errors import MissingExtraError, StudyError
from qpeft.reports import ReportFiles, write_csv, write_report
from qpeft.reports.accuracy_sections import step_ratios
from qpeft.reports.arm_styles import DARK_COLOURS, LIGHT_COLOURS, arm_styles
from qpeft.reports.material import Material
from qpeft.reports.page import make_page
from qpeft.study.results import StudyResults, TrialRow
from qpeft.study.statistics import find

SMALL = {"n_examples": 60, "n_seeds": 2, "tasks": ("arithmetic",), "failed": (), "arms": ARMS[:4]}


def page_of(results: StudyResults) -> str:
    return make_page(Material.of(results, find(results)))


@pytest.fixture(scope="module")
def text(report: ReportFiles) -> str:
    assert report.page is not None
    return report.page.read_text("utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Element:
    return read_page(text)


def test_ids_are_unique_and_all_references_lead_somewhere(page: Element) -> None:
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    wanted: list[str] = []
    for element in page.all():
        href = element.attributes.get("href", "")
        wanted += [href[1:]] if href.startswith("#") else []
        wanted += element.attributes.get("aria-labelledby", "").split()
        for value in element.attributes.values():
            wanted += re.findall(r"url\(#([^)]+)\)", value)
    assert wanted
    assert not set(wanted) - set(ids)


def test_nothing_points_outside_the_file(page: Element, text: str) -> None:
    for element in page.all():
        for name in ("src", "href", "action", "srcset", "poster", "data"):
            value = element.attributes.get(name, "#")
            assert value.startswith(("#", "data:")), (element.tag, name, value[:80])
    assert not page.all("script", "iframe", "object", "embed", "form")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    policy = next(
        e.attributes["content"]
        for e in page.all("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "http" not in policy.replace("http-equiv", "")


def test_headings_are_ordered_under_a_single_h1(page: Element) -> None:
    levels = [int(e.tag[1]) for e in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert page.all("html")[0].attributes["lang"] == "en"
    assert "quantum part" in page.all("title")[0].text


def test_tables_have_captions_and_scopes_and_equal_rows(page: Element) -> None:
    tables = page.all("table")
    assert len(tables) > 15
    for table in tables:
        assert table.all("caption")[0].text
        assert all(cell.attributes.get("scope") in ("col", "row") for cell in table.all("th"))
        assert len({len(row.all("th", "td")) for row in table.all("tr")}) == 1


def test_every_picture_has_a_name_a_description_and_a_table(page: Element) -> None:
    pictures = [e for e in page.all("svg") if e.attributes.get("role") == "img"]
    assert len(pictures) > 20
    for picture in pictures:
        assert picture.children[0].tag == "title"
        assert len(picture.children[1].text) > 30
        assert picture.all("text"), "text stays text"
    assert all(e.attributes.get("alt") for e in page.all("img"))
    for key in ("pareto", "losses", "effect", "noise", "ansatz", "rank"):
        assert page.at(key).all("figure")[0].all("details")[0].all("table"), key


def test_sections_come_in_the_order_of_the_questions(page: Element) -> None:
    keys = [e.attributes["id"] for e in page.all("section")]
    assert keys[:5] == ["verdict", "claims", "pareto", "arms", "controls"]
    assert keys[-4:] == ["failures", "parity", "provenance", "data"]
    links = [e.attributes["href"] for e in page.all("nav")[0].all("a")]
    assert links == [f"#{key}" for key in keys]


def test_the_numbers_are_those_of_the_findings(page: Element, study: StudyResults) -> None:
    findings = find(study)
    table = page.at("arms").table("Accuracy")
    titles = {task.title: task.name for task in study.tasks} | {"All tasks": "all"}
    columns = [titles[title] for title in table[0][1:]]
    shown = {
        (row[0], task): cell
        for row in table[1:]
        for task, cell in zip(columns, row[1:], strict=True)
    }
    expected = {
        (
            s.arm,
            s.task,
        ): f"{100 * s.value.estimate:.1f} ({100 * s.value.low:.1f} to {100 * s.value.high:.1f})"
        for s in findings.summaries
        if s.measure == "accuracy"
    }
    expected = {(arm.replace("base", "base model"), task): v for (arm, task), v in expected.items()}
    assert len(expected) == 3 * 11  # the untrained model too
    assert {key: shown[key] for key in expected} == expected


def test_the_differences_are_those_of_the_findings(page: Element, study: StudyResults) -> None:
    wanted = {}
    for c in find(study).comparisons:
        if c.measure == "accuracy" and c.task == "all" and c.other != "base":
            ends = (c.difference.estimate, c.difference.low, c.difference.high)
            a, b, d = (re.sub(r"^[+-](?=0\.0$)", "", f"{100 * x:+.1f}") for x in ends)
            shown = f"{a} ({b} to {d})".replace("-", "\N{MINUS SIGN}")
            wanted[c.other] = [str(c.n_seeds), shown]
    tables = [t for t in page.at("controls").all("table") if "All tasks" in t.text]
    rows = [[cell.text for cell in row.all("th", "td")] for row in tables[0].all("tr")[1:]]
    assert {row[0]: row[3:5] for row in rows} == wanted
    assert [row[1] for row in rows][:3] == ["control"] * 3


def test_verdicts_stand_beside_their_claims(page: Element, study: StudyResults) -> None:
    findings = find(study)
    assert findings.headline in page.at("verdict").text
    items = page.at("claims").all("li")
    for item, verdict in zip(items, findings.verdicts, strict=True):
        assert verdict.outcome in item.all("h3")[0].text
        assert [e.text for e in item.all("dd")] == [verdict.claim, verdict.measured]


def test_failed_runs_are_shown_with_their_error(page: Element) -> None:
    rows = page.at("failures").table("Unfinished runs")
    assert rows[1][:4] == ["mlp", "The body system of a diagnosis", "seed 1", "failed"]
    assert "the loss is not a number" in rows[1][4]


def test_a_study_without_any_result_says_so_everywhere() -> None:
    page = read_page(make_page(Material.of(bare_study(), NO_FINDINGS)))
    assert NO_FINDINGS.headline in page.at("verdict").text
    silent = {"arms", "failures", "parity", "provenance", "data", "verdict", "circuit"}
    for section in page.all("section"):
        if section.attributes["id"] not in silent:
            absent = [e for e in section.all("p") if e.attributes.get("class") == "absent"]
            assert len(absent) == 1, section.attributes["id"]
            assert not section.all("svg")
    assert len(page.at("failures").table("Unfinished runs")) == 1 + len(ARMS)


def test_one_seed_has_no_bars_where_it_has_no_interval() -> None:
    page = read_page(page_of(synthetic_results(**{**SMALL, "n_seeds": 1})))
    assert not re.search(r"\binf\b|\bnan\b", page.text)
    rows = page.at("forgetting").table("Forgetting")
    assert all(re.fullmatch(r"\d\.\d{3}", row[1]) for row in rows[1:])
    assert "luck of the examples alone" in page.at("arms").text
    assert len(page.at("forgetting").all("svg")) >= 1


def test_only_a_quick_study_has_the_banner(page: Element) -> None:
    assert "mean little" not in page.text
    quick = synthetic_results(is_quick=True, **SMALL)
    banner = [
        e for e in read_page(page_of(quick)).all("p") if e.attributes.get("class") == "banner"
    ]
    assert "numbers mean little" in banner[0].text


def test_names_and_errors_cannot_become_markup() -> None:
    evil = "<script>alert(1)</script>$x_1$\"'&"
    arms = (*ARMS[:4], replace(ARMS[4], name=evil))
    results = synthetic_results(**{**SMALL, "arms": arms, "failed": (("arithmetic", evil, 1),)})
    results = replace(
        results,
        title=evil,
        model=evil,
        name=evil,
        tasks=tuple(replace(task, title=evil) for task in results.tasks),
        rows=tuple(replace(r, error=evil) if r.error else r for r in results.rows),
        provenance={evil: [evil], "study_file": evil},
    )
    findings = replace(find(results), headline=evil)
    text = make_page(Material.of(results, findings))
    page = read_page(text)
    assert not page.all("script")
    assert "<script" not in text
    assert page.all("h1")[0].text == evil
    assert evil in page.at("failures").text
    labels = [e.text for e in page.at("controls").all("text")]
    assert any(label.startswith("<script>") for label in labels)


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    results = synthetic_results(**SMALL)
    findings = find(results)
    first, second = (write_report(results, findings, tmp_path / name) for name in ("a", "b"))
    assert first.page is not None
    assert second.page is not None
    assert first.page.read_bytes() == second.page.read_bytes()
    assert {file.name for file in first.rows} == {
        "rows.csv",
        "scores.csv",
        "losses.csv",
        "trials.csv",
        "published.json",
    }
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == sorted(
        ["report.html", "report.md", *(f.name for f in first.rows)]
    )


def test_an_arm_keeps_sign_and_colour_in_pictures_and_tables(
    page: Element, study: StudyResults
) -> None:
    styles = arm_styles(study)
    assert styles["qtha"].index == 0
    assert styles["lora"].index == 1
    assert len({(s.colour, s.marker) for s in styles.values()}) == len(styles)
    for row in page.at("arms").all("tbody")[0].all("tr"):
        head = row.all("th")[0]
        if head.text in styles:
            assert f"--arm-{styles[head.text].colour})" in head.all("path")[0].attributes["style"]
    drawn = page.at("controls-0-title")
    assert drawn.text == "All tasks"


@pytest.mark.parametrize(("scheme", "colours"), [(0, LIGHT_COLOURS), (1, DARK_COLOURS)])
def test_colours_have_the_contrast_of_wcag_aa(scheme: int, colours: tuple[str, ...]) -> None:
    css = (resources.files("qpeft.reports") / "templates" / "page.css").read_text("utf-8")
    block = css.split("--paper:")[1 + scheme]
    named = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", f"--paper:{block}"))
    for text in ("ink", "muted", "link", "good", "bad", "open"):
        assert _contrast(named[text], named["paper"]) >= 4.5, text
    assert _contrast(named["ink"], named["raised"]) >= 4.5
    assert _contrast(named["banner-ink"], named["banner"]) >= 4.5
    for colour in colours:
        for ground in ("paper", "band"):
            assert _contrast(colour, named[ground]) >= 3.0, (colour, ground)


def test_a_missing_extra_is_named_and_markdown_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = synthetic_results(**SMALL)
    findings = find(results)
    for package in ("jinja2", "matplotlib"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(MissingExtraError, match=r"qpeft\[study\]"):
            write_report(results, findings, tmp_path)
        assert write_report(results, findings, tmp_path, ("md",)).markdown is not None
        monkeypatch.undo()


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    results = synthetic_results(**SMALL)
    with pytest.raises(StudyError, match="Did you mean 'html'"):
        write_report(results, NO_FINDINGS, tmp_path, ("htm",))  # type: ignore[arg-type]


def test_a_study_without_a_run_is_refused_and_rows_alone_need_no_findings(tmp_path: Path) -> None:
    for write in (
        lambda: write_report(bare_study(), NO_FINDINGS, tmp_path / "page"),
        lambda: write_csv(bare_study(), tmp_path / "page"),
    ):
        with pytest.raises(StudyError, match="has succeeded yet"):
            write()
    assert not (tmp_path / "page").exists()
    files = write_csv(synthetic_results(**SMALL), tmp_path / "rows")
    names = ["rows.csv", "scores.csv", "losses.csv", "trials.csv", "published.json"]
    assert files == tuple(tmp_path / "rows" / name for name in names)
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == sorted(names)


def test_provenance_has_each_command_once_and_all_machines() -> None:
    results = synthetic_results(**SMALL)
    provenance = {
        "versions": {"torch": "2.13.0", "peft": "0.21.2"},
        "commands": ["qpeft study 'a b.yaml'", "qpeft study 'a b.yaml'", "qpeft study c.yaml"],
        "data_hashes": {"arithmetic": {"arithmetic/test": "12ab"}},
    }
    rows = tuple(replace(row, machine=f"CPU {row.seed}") for row in results.rows)
    found = replace(results, provenance=provenance, rows=rows)
    section = read_page(page_of(found)).at("provenance").text
    assert "qpeft study 'a b.yaml'" in section
    assert section.count("qpeft study") == 2
    assert "runs on CPU 0" in section
    alone = replace(found, rows=tuple(replace(row, machine="CPU 0") for row in rows))
    assert "runs on" not in read_page(page_of(alone)).at("provenance").text
    assert "torch 2.13.0, peft 0.21.2" in section
    assert "SHA-256 of arithmetic/test" in section


def test_a_long_table_of_modules_is_counted() -> None:
    pattern = {f"layers.{i}.q_proj": 1 + (i % 3 == 0) for i in range(9)}
    arms = (replace(ARMS[0], options={"r": 1, "rank_pattern": pattern}), *ARMS[1:4])
    section = read_page(page_of(synthetic_results(**{**SMALL, "arms": arms}))).at("parity").text
    assert "r=1, rank_pattern=1 for 6 modules, 2 for 3 modules" in section


def test_a_rate_chosen_at_an_end_of_the_grid_is_pointed_out(page: Element) -> None:
    assert "end of the grid" not in page.at("tuning").text
    results = synthetic_results(**SMALL)
    arm, task = ARMS[0].name, results.tasks[0]
    trials = tuple(
        TrialRow(task.name, arm, rate, "succeeded", 1 - rate, rate == 0.3)
        for rate in (0.1, 0.2, 0.3)
    )
    section = read_page(page_of(replace(results, trials=trials))).at("tuning").text
    assert f"might do better: {arm} ({task.title}, 0.3)." in section


def test_work_of_a_machine_is_among_the_cost_only_where_there_was_one(page: Element) -> None:
    assert "Jobs sent" not in page.at("cost").text
    results = synthetic_results(**SMALL)
    rows = tuple(replace(row, circuits=90, programs=6, jobs=2, shots=6000) for row in results.rows)
    section = read_page(page_of(replace(results, rows=rows))).at("cost").text
    assert "Jobs sent" in section
    assert "12,000" in section  # shots of two seeds


def test_runs_that_took_over_a_trials_adapter_are_told_among_the_cost(page: Element) -> None:
    assert "took over" not in page.at("cost").text
    results = synthetic_results(**SMALL)
    rows = (replace(results.rows[0], trained_in="lr0.01"), *results.rows[1:])
    section = read_page(page_of(replace(results, rows=rows))).at("cost").text
    assert f"the very same training: 1 of {len(rows)}." in section


def _contrast(first: str, second: str) -> float:
    """Return WCAG's contrast ratio of two colours."""
    lights = sorted((_luminance(first), _luminance(second)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_step_times_of_two_machines_are_not_compared() -> None:
    results = synthetic_results(**SMALL)
    material = Material.of(results, NO_FINDINGS)
    assert len(step_ratios(material, "qtha")) == 2
    rows = tuple(
        replace(row, machine="another") if (row.arm, row.seed) == ("qtha", 0) else row
        for row in results.rows
    )
    assert len(step_ratios(Material.of(replace(results, rows=rows), NO_FINDINGS), "qtha")) == 1
