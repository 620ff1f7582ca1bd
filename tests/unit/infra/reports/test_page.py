"""Every page stands alone, is safe, and is the same every time."""

import base64
import functools
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from infra.reports.comparison import render_comparison_report
from infra.reports.data import (
    ComparisonReportData,
    EditorsReportData,
    EvaluationReportData,
    ReportData,
)
from infra.reports.editing import render_report
from infra.reports.editors import render_editors_report
from infra.reports.evaluation import render_evaluation_report
from infra.reports.page import thumbnail_uri, write_page
from tests.html_page import HtmlPage, words
from tests.report_examples import (
    HOSTILE,
    comparison_example,
    editors_example,
    evaluation_example,
    image,
    run_example,
    version,
)

PAGES: dict[str, Callable[[], str]] = {
    "run": lambda: render_report(run_example()),
    "evaluation": lambda: render_evaluation_report(evaluation_example()),
    "comparison": lambda: render_comparison_report(comparison_example()),
    "editors": lambda: render_editors_report(editors_example()),
}


@functools.cache
def drawn_once(name: str) -> str:
    """Drawing the figures of a page takes a second."""
    return PAGES[name]()


@pytest.mark.parametrize("name", PAGES)
def test_text_from_outside_stays_text(name: str) -> None:
    html = drawn_once(name)
    page = HtmlPage(html)
    assert page.text.count(HOSTILE) >= 2
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [item for item, _ in page.attributes if item.startswith("on")]
    assert "default-src 'none'" in html
    assert "script-src" not in html


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_loaded_from_anywhere(name: str) -> None:
    html = drawn_once(name)
    for item, value in HtmlPage(html).attributes:
        if item in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            assert value.startswith(("data:", "#")), (item, value)
    css = "".join(re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL))
    assert "url(" not in css
    assert "@import" not in css


@pytest.mark.parametrize("name", PAGES)
def test_ids_are_unique_and_references_have_a_target(name: str) -> None:
    page = HtmlPage(drawn_once(name))
    assert len(page.ids) == len(set(page.ids))
    assert page.references <= set(page.ids)


@pytest.mark.parametrize("name", PAGES)
def test_the_same_data_gives_the_same_page(name: str) -> None:
    assert PAGES[name]() == drawn_once(name)


def test_pages_of_nothing_say_so(tmp_path: Path) -> None:
    nothing = version("champion", 1, 0)
    texts = {
        "run": render_report(ReportData(title="Nothing", seed=0, num_edits=0, duration_s=0.0)),
        "evaluation": render_evaluation_report(
            EvaluationReportData(version=nothing, summary={}, seed=0)
        ),
        "comparison": render_comparison_report(
            ComparisonReportData(old=nothing, new=nothing, seed=0)
        ),
        "editors": render_editors_report(EditorsReportData(title="Nothing", seed=0)),
    }
    assert "Not measured." in words(texts["editors"])
    assert "Nothing was evaluated." in words(texts["run"])
    assert "Nothing was rejected." in words(texts["run"])
    assert "Nothing was evaluated." in words(texts["evaluation"])
    assert "Nothing was compared." in words(texts["comparison"])


def test_a_page_is_written_whole_into_a_new_folder(tmp_path: Path) -> None:
    path = write_page(tmp_path / "new" / "page.html", "Zürich")
    assert path.read_text(encoding="utf-8") == "Zürich"
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_thumbnails_are_small_and_missing_ones_empty() -> None:
    uri = thumbnail_uri(image("green", side=900))
    shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert shown.size == (160, 160)
    assert thumbnail_uri(None) == thumbnail_uri(b"no image") == ""
