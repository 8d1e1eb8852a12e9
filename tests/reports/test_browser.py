"""The page as a browser shows it: nothing is loaded, nothing overflows, everything can be reached."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

from qpeft.reports import ReportFiles

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

PICTURES = "[...document.querySelectorAll('.panel svg, figure img')]"
SHOWN = f"{PICTURES}.map(e => e.getBoundingClientRect()).filter(r => r.width > 0)"


@pytest.fixture(scope="module")
def page(report: ReportFiles) -> Path:
    assert report.page is not None
    return report.page


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile"), seconds=120) as opened:
        yield opened


@pytest.mark.parametrize(("width", "is_dark"), [(1280, False), (1280, True), (360, False)])
def test_it_opens_without_an_error_a_request_or_an_overflow(
    browser: Browser, page: Path, width: int, is_dark: bool
) -> None:
    browser.open(page, width=width, is_dark=is_dark)
    kinds = [event.get("method") for event in browser.events]
    assert "Runtime.exceptionThrown" not in kinds
    assert "Runtime.consoleAPICalled" not in kinds
    logged = [e["params"] for e in browser.events if e.get("method") == "Log.entryAdded"]
    assert not logged
    asked = [
        e["params"]["request"]["url"]
        for e in browser.events
        if e.get("method") == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert browser.ask("document.documentElement.scrollWidth") <= width
    ground = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(21, 23, 27)" if is_dark else "rgb(252, 251, 248)")


@pytest.mark.parametrize("width", [1280, 360])
def test_all_pictures_are_there_and_legible(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    n_panels = browser.ask("document.querySelectorAll('.panel, .drawing').length")
    sizes = browser.ask(f"{SHOWN}.map(r => [r.width, r.height])")
    assert len(sizes) == n_panels > 15
    assert all(w > 250 and h > 90 for w, h in sizes)
    # Pixels of the smallest letters in pictures: their size in the picture times its scale.
    smallest = browser.ask(
        "Math.min(...[...document.querySelectorAll('.panel svg')].filter(s => s.clientWidth)"
        ".map(s => 11 * s.clientWidth / s.viewBox.baseVal.width))"
    )
    assert smallest > 9.5
    assert browser.ask("[...document.images].every(i => i.naturalWidth > 100)")


def test_no_letter_of_a_picture_is_cut_off(browser: Browser, page: Path) -> None:
    browser.open(page)
    outside = browser.ask(
        """[...document.querySelectorAll('.panel svg')].filter(s => s.clientWidth).flatMap(s => {
          const frame = s.getBoundingClientRect();
          return [...s.querySelectorAll('text')].filter(t => {
            const r = t.getBoundingClientRect();
            return r.left < frame.left - 8 || r.right > frame.right + 8;
          }).map(t => t.textContent)})"""
    )
    assert outside == []


def test_the_tab_key_reaches_the_links_in_order_and_shows_where_it_is(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    reached = []
    for _ in range(5):
        browser.press("Tab", 9)
        reached.append(browser.ask("document.activeElement.getAttribute('href')"))
    assert reached == ["#verdict", "#verdict", "#claims", "#pareto", "#arms"]
    assert browser.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("Enter", 13)
    assert browser.ask("location.hash") == "#arms"


def test_a_download_holds_the_rows(browser: Browser, page: Path) -> None:
    browser.open(page)
    links = browser.ask(
        "[...document.querySelectorAll('a[download]')].map(a => [a.download, a.href.slice(0, 26)])"
    )
    tables = ["rows.csv", "scores.csv", "losses.csv", "trials.csv"]
    assert [name for name, _ in links] == [*tables, "published.json"]
    *addresses, last = (address for _, address in links)
    assert all(address == "data:text/csv;charset=utf-8"[:26] for address in addresses)
    assert last == "data:application/json;charset=utf-8"[:26]
    assert browser.ask(
        """(() => { const address = document.querySelector('a[download="trials.csv"]').href;
          const [head, body] = [address.slice(0, address.indexOf(',')), address.slice(address.indexOf(',') + 1)];
          const text = head.endsWith('base64') ? atob(body) : decodeURIComponent(body);
          return text.split('\\n')[0] })()"""
    ).startswith("task,arm,learning_rate")


def test_tables_open_and_scroll_in_their_own_box_on_a_phone(browser: Browser, page: Path) -> None:
    browser.open(page, width=360)
    browser.ask("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert browser.ask("document.documentElement.scrollWidth") <= 360
    wide = browser.ask(
        "[...document.querySelectorAll('.box')].filter(b => b.scrollWidth > b.clientWidth)"
        ".map(b => getComputedStyle(b).overflowX + b.tabIndex)"
    )
    assert wide
    assert set(wide) == {"auto0"}
