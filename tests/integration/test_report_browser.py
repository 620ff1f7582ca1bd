"""The pages of an evaluation and of a comparison, looked at in a real browser."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.reports.comparison import render_comparison_report
from infra.reports.editing import render_report
from infra.reports.editors import render_editors_report
from infra.reports.evaluation import render_evaluation_report
from infra.reports.page import write_page
from tests.browser import NAMES, Browser, find_browser
from tests.report_examples import (
    comparison_example,
    editors_example,
    evaluation_example,
    run_example,
)

NUM_PLOTS = {"run": 10, "evaluation": 5, "comparison": 0, "editors": 6}
"""Of the run: five over its evaluations and five of its lifelong curve."""
PAGES: dict[str, Callable[[], str]] = {
    "run": lambda: render_report(run_example()),
    "evaluation": lambda: render_evaluation_report(evaluation_example()),
    "comparison": lambda: render_comparison_report(comparison_example()),
    "editors": lambda: render_editors_report(editors_example()),
}
NUM_IMAGES = {
    # Images of probes, and two experts on each card that shows some.
    "run": 12 + 2 * 7,
    "evaluation": 12 + 2 * 7,
    # An image on each of five cards; three lost with two experts, two gained with one.
    "comparison": 5 + 3 * 2 + 2,
    "editors": 0,
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        pytest.skip(
            f"NO PAGE WAS LOOKED AT: there is no browser ({', '.join(NAMES)}); "
            "`make browser` installs one where apt-get may"
        )
    with Browser.started(path, tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [1240, 390])
def test_a_page_shows_everything_and_asks_nobody(
    browser: Browser, tmp_path: Path, name: str, width: int
) -> None:
    page = write_page(tmp_path / f"{name}.html", PAGES[name]())
    visit = browser.open(page, width=width)
    assert visit.problems == []
    assert [url for url in visit.requests if not url.startswith("data:image/")] == [page.as_uri()]
    widths = browser.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == NUM_IMAGES[name]
    assert min(widths, default=1) > 0
    assert browser.evaluate("document.scripts.length") == 0
    # Wide tables scroll in a frame of their own; the page as a whole never does.
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    drawn = browser.evaluate("[...document.querySelectorAll('figure svg')].map(s => s.clientWidth)")
    assert len(drawn) == NUM_PLOTS[name]
    assert all(value > 250 for value in drawn)


def test_text_from_outside_is_read_and_never_run(browser: Browser, tmp_path: Path) -> None:
    page = write_page(tmp_path / "evaluation.html", PAGES["evaluation"]())
    browser.open(page)
    text = browser.evaluate("document.querySelector('#worst .question').innerText")
    assert text.startswith("<script>alert(1)</script>")


def test_the_browser_would_tell(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text(
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
        "<img src='http://127.0.0.1:9/x.png'><script>alert(1)</script>"
    )
    visit = browser.open(page)
    assert any("Content Security Policy" in problem for problem in visit.problems)
    assert browser.evaluate("document.images[0].naturalWidth") == 0
