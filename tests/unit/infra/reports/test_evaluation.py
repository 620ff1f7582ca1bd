"""The pages of an evaluation and of a comparison: complete, self-contained, safe, and honest."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.reports.comparison import (
    MAX_FLIPS,
    format_p_value,
    format_points,
    render_comparison_report,
    write_comparison_report,
)
from infra.reports.comparison import headline_tiles as comparison_tiles
from infra.reports.data import LOST, ComparisonReportData, EvaluationReportData, VersionView
from infra.reports.evaluation import (
    headline_tiles,
    protocol_tables,
    render_evaluation_report,
    write_evaluation_report,
)
from tests.html_page import HtmlPage
from tests.report_examples import HOSTILE, comparison_example, evaluation_example, flip

PAGES: dict[str, Callable[[], str]] = {
    "evaluation": lambda: render_evaluation_report(evaluation_example()),
    "comparison": lambda: render_comparison_report(comparison_example()),
}


def words(html: str) -> str:
    return " ".join(HtmlPage(html).text.split())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_safe_stands_alone_and_is_the_same_every_time(name: str) -> None:
    html = PAGES[name]()
    page = HtmlPage(html)
    assert page.text.count(HOSTILE) >= 2
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [item for item, _ in page.attributes if item.startswith("on")]
    for item, value in page.attributes:
        if item in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            assert value.startswith(("data:", "#")), (item, value)
    assert "default-src 'none'" in html
    assert len(page.ids) == len(set(page.ids))
    assert page.references <= set(page.ids)
    assert html == PAGES[name]()


def test_an_evaluation_shows_both_protocols_each_by_itself() -> None:
    data = evaluation_example()
    tables = protocol_tables(data.metrics)
    assert [table.protocol for table in tables] == ["teacher_forced", "free_generation"]
    for table in tables:
        assert {row.protocol for row in table.rows} == {table.protocol}
    assert [table.has_exact for table in tables] == [True, False]
    text = words(render_evaluation_report(data))
    assert "92.0 % 88.0 to 95.0" in text  # reliability with its interval
    assert "82.0 % 77.0 to 87.0" in text  # of it, right as a whole
    assert text.count("by construction") >= 5  # beside each number of text locality, and explained
    assert "1.85 3 3.1 % 93.1 % 87.4 % 1.07 0.83" in text  # candidate set of reliability
    assert "n = 3 n = 30 n = 300" not in text  # a number stands above each count
    assert "Seed 7." in text


def test_what_is_missing_is_said_on_top() -> None:
    data = evaluation_example()
    (tile,) = [tile for tile in headline_tiles(data) if tile.label == "cases examined"]
    assert tile.is_alert
    assert "3 of 2,400 probes have no result." in words(render_evaluation_report(data))
    complete = dataclasses.replace(data, is_complete=True)
    assert not any(tile.is_alert for tile in headline_tiles(complete))


def test_a_comparison_leads_with_its_regressions() -> None:
    data = comparison_example()
    tiles = {tile.label: tile for tile in comparison_tiles(data)}
    assert tiles["regressions"].is_alert
    assert tiles["regressions"].value == "4 of 16"
    assert "reliability (teacher-forced)" in tiles["regressions"].note
    text = words(render_comparison_report(data))
    minus = "\N{MINUS SIGN}"
    assert f"90.0 % 78.0 % {minus}12.0 {minus}15.0 to {minus}10.0 regression" in text
    assert "accepted loss 1.0 0.001 alone < 0.001" in text
    assert "90 / 2" in text
    assert "Sign-flip permutation test over cases" in text


def test_a_comparison_without_regressions_alarms_nobody() -> None:
    data = comparison_example()
    fine = [dataclasses.replace(item, verdict="no difference") for item in data.differences]
    tiles = {t.label: t for t in comparison_tiles(dataclasses.replace(data, differences=fine))}
    assert tiles["regressions"].value == "0 of 16"
    assert not any(tile.is_alert for tile in tiles.values())


def test_more_flips_than_there_is_room_for_are_counted() -> None:
    flips = [flip(LOST, "reliability", f"question <{i}>") for i in range(MAX_FLIPS + 5)]
    data = dataclasses.replace(comparison_example(), flips=flips, num_lost=100)
    text = words(render_comparison_report(data))
    assert f"question <{MAX_FLIPS - 1}>" in text
    assert f"question <{MAX_FLIPS}>" not in text
    assert f"{100 - MAX_FLIPS} more are not shown." in text


def test_an_examination_of_nothing_still_has_its_pages(tmp_path: Path) -> None:
    write_evaluation_report(
        tmp_path / "new" / "evaluation.html",
        EvaluationReportData(
            title="E", seed=0, bank="b", bank_version=1, num_edits=0, num_cases=0, is_complete=True
        ),
    )
    view = VersionView(label="champion", bank="b", bank_version=1, num_edits=0)
    write_comparison_report(
        tmp_path / "new" / "comparison.html",
        ComparisonReportData(title="C", seed=0, old=view, new=view, num_cases=0),
    )
    texts = [words(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.glob("new/*"))]
    assert "Nothing was compared." in texts[0]
    assert "Nothing was evaluated." in texts[1]


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0004, "0.0"), (-0.0004, "0.0"), (0.0123, "+1.2"), (-0.0123, "\N{MINUS SIGN}1.2")],
)
def test_differences_have_a_sign(fraction: float, text: str) -> None:
    assert format_points(fraction) == text


@pytest.mark.parametrize(
    ("p_value", "text"), [(None, "-"), (0.0, "< 0.001"), (0.001, "0.001"), (1.0, "1.000")]
)
def test_small_p_values_are_bounds(p_value: float | None, text: str) -> None:
    assert format_p_value(p_value) == text
