"""The report in a real browser, at the width of a desk and of a phone, in light and in dark.

The browser tells of every request, console message and error from before the page starts to load (``browser.py``).
Nothing may be asked of a network, nothing may go wrong, nothing may be wider than the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import Browser, find_chromium
from compare_folders import write_activations
from report_documents import full_document, wrong_texts
from strataprobe.compare.report import report_html
from strataprobe.compare.run import compare
from strataprobe.probes.run import train

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium on PATH: apt-get install chromium")
WINDOWS = [(1280, 900, False), (360, 740, False), (1280, 900, True), (360, 740, True)]
TOO_WIDE = """[...document.querySelectorAll("main *")].filter(part => !part.closest(".scroll, pre, .js-plotly-plot")
    && part.getBoundingClientRect().right > innerWidth + 1).map(part => part.tagName + " " + part.className).slice(0, 5)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of 34 layers with every part, and that of a real comparison of a few layers."""
    folder = tmp_path_factory.mktemp("pages")
    document = full_document(34)
    (folder / "full.html").write_text(report_html(document, wrong_texts(document), {"n_texts": 1400}), "utf-8")
    train(
        write_activations(folder / "activations", n_layers=2, starts_at=2, n_groups=50, readouts=("last",)),
        folder / "probes",
    )
    compare([folder / "probes"], folder)
    return {"full": folder / "full.html", "real": folder / "report.html"}


@pytest.mark.parametrize("name", ["full", "real"])
@pytest.mark.parametrize(("width", "height", "dark"), WINDOWS)
def test_the_report_asks_for_nothing_fails_at_nothing_and_fits(
    name: str, width: int, height: int, dark: bool, browser: Browser, pages: dict[str, Path]
) -> None:
    seen = browser.open(pages[name], width=width, height=height, dark=dark)
    assert seen.requests == []
    assert seen.problems == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(TOO_WIDE) == []
    assert browser.value("document.querySelectorAll('#curve svg .scatterlayer .trace').length") >= 4
    red = int(browser.value("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]"))
    assert (red < 60) == dark


def test_opened_tables_fit_as_well(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["full"], width=360, height=740)
    assert browser.value("document.querySelectorAll('details').forEach(d => d.open = true) || innerWidth") == 360
    assert browser.value("document.documentElement.scrollWidth") <= 360
    assert browser.value(TOO_WIDE) == []


def test_a_cell_of_a_heat_map_is_read_out(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["full"], width=1280, height=900)
    browser.value("document.querySelector('#geometry').scrollIntoView()")
    box = browser.value(
        "JSON.parse(JSON.stringify(document.querySelectorAll('svg[data-heat]')[1].getBoundingClientRect()))"
    )
    where = {"x": box["x"] + 0.5 * box["width"], "y": box["y"] + 0.3 * box["height"]}
    browser.call("Input.dispatchMouseEvent", {"type": "mouseMoved", **where})
    said = browser.value("document.querySelectorAll('#geometry output')[1].textContent")
    transfer = full_document(34)["geometry"]["transfer_auc"]
    numbers = said.removeprefix("probe of layer ").replace(", tested on layer ", " ").replace(":", "").split()
    assert float(numbers[2]) == pytest.approx(transfer[int(numbers[0]) - 1][int(numbers[1]) - 1], abs=6e-4)


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("<img src='http://127.0.0.1:9/x.png' alt=''>", "requests"),
        ("<script>console.error('planted')</script>", "problems"),
        ("<script>null.x</script>", "problems"),
        ("<div style='width: 2000px'>wide</div>", "width"),
    ],
)
def test_what_is_planted_is_found(
    planted: str, found: str, browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    html = pages["real"].read_text("utf-8")
    start = html.index('<meta http-equiv="Content-Security-Policy"')
    page = tmp_path / "planted.html"
    page.write_text((html[:start] + html[html.index(">", start) + 1 :]).replace("<header>", planted, 1), "utf-8")
    seen = browser.open(page, width=360, height=740)
    assert bool(seen.requests) == (found == "requests")
    assert bool(seen.problems) == (found in ("problems", "requests"))
    assert (browser.value("document.documentElement.scrollWidth") > 360) == (found == "width")
    assert bool(browser.value(TOO_WIDE)) == (found == "width")


def test_the_page_forbids_what_it_does_not_hold(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "planted.html"
    planted = "<header><img src='http://127.0.0.1:9/x.png' alt=''>"
    page.write_text(pages["real"].read_text("utf-8").replace("<header>", planted, 1), "utf-8")
    seen = browser.open(page, width=1280, height=900)
    assert any("Content Security Policy" in problem for problem in seen.problems)
