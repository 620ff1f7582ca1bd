"""The page of a comparison leads with its regressions and shows the answers that changed."""

import dataclasses

from infra.reports.comparison import comparison_tiles, render_comparison_report
from infra.reports.data import MAX_FLIPS
from liveedit_core.evaluation.comparison import LOST
from liveedit_core.schema import ProbeKind
from tests.html_page import words
from tests.report_examples import comparison_example, flip


def test_a_comparison_leads_with_its_regressions() -> None:
    data = comparison_example()
    tiles = {tile.label: tile for tile in comparison_tiles(data)}
    assert tiles["regressions"].is_alert
    assert tiles["regressions"].value == "6 of 22"
    assert "reliability (teacher-forced)" in tiles["regressions"].note
    assert (tiles["answers lost"].value, tiles["answers gained"].value) == ("90", "2")
    assert tiles["cases compared"].value == "100"
    minus = "\N{MINUS SIGN}"
    assert tiles["average of five metrics"].value == f"{minus}1.3 points"
    text = words(render_comparison_report(data))
    assert f"90.0 % 78.0 % {minus}12.0 {minus}15.0 to {minus}10.0 regression" in text
    assert "accepted loss 1.0 0.001 uncorrected < 0.001" in text
    assert "90 / 2" in text
    assert "one-sided sign flips over whole entities" in text


def test_a_comparison_without_regressions_alarms_nobody() -> None:
    data = comparison_example()
    fine = [dataclasses.replace(item, is_regression=False) for item in data.comparisons]
    tiles = {t.label: t for t in comparison_tiles(dataclasses.replace(data, comparisons=fine))}
    assert tiles["regressions"].value == "0 of 22"
    assert not any(tile.is_alert for tile in tiles.values())


def test_more_flips_than_there_is_room_for_are_counted() -> None:
    flips = [flip(LOST, ProbeKind.RELIABILITY, f"question <{i}>") for i in range(MAX_FLIPS + 5)]
    data = dataclasses.replace(comparison_example(), flips=flips)
    text = words(render_comparison_report(data))
    assert f"question <{MAX_FLIPS - 1}>" in text
    assert f"question <{MAX_FLIPS}>" not in text
    assert f"{90 - MAX_FLIPS} more are not shown." in text
