"""The page of an evaluation: complete, with both protocols, each by itself."""

import dataclasses

from infra.reports.evaluation import evaluation_tiles, render_evaluation_report
from infra.reports.page import Tile
from tests.html_page import words
from tests.report_examples import evaluation_example, with_labels


def test_both_protocols_are_shown_each_by_itself() -> None:
    html = render_evaluation_report(evaluation_example())
    text = words(html)
    assert "92.0 % 88.0 to 95.0" in text  # reliability with its interval
    assert "82.0 % 77.0 to 87.0" in text  # of it, entirely right
    assert text.count("entire answer right") == 1  # under free generation it equals the mean
    assert text.count("by construction") >= 5  # beside each number of text locality, and explained
    assert "1.85 3 3.1 % 93.1 % 87.4 % 1.07 0.83" in text  # candidate set of reliability
    assert "n = 3 n = 30 n = 300" not in text  # a number stands above each count
    assert "Seed 7." in text
    section = html[html.index('id="curve"') : html.index('id="worst"')]
    assert "edits in the bank 1 10 100" in words(section)


def test_one_number_of_edits_has_plots_but_no_curve() -> None:
    data = dataclasses.replace(evaluation_example(), curve=())
    html = render_evaluation_report(data)
    assert "Only one number of edits was evaluated." in html
    assert html.count("<svg") == 5


def test_what_is_missing_is_said_on_top() -> None:
    data = evaluation_example()
    (tile,) = [tile for tile in evaluation_tiles(data) if tile.label == "cases evaluated"]
    assert tile.is_alert
    assert tile.value == "100"
    assert "3 of 2,400 probes have no result." in words(render_evaluation_report(data))
    version = dataclasses.replace(data.version, is_complete=True)
    complete = dataclasses.replace(data, version=version)
    assert not any(tile.is_alert for tile in evaluation_tiles(complete))


def test_false_activations_stand_beside_their_budget() -> None:
    data = evaluation_example()  # of 300 questions about other images 28 % keep an edit

    def tile(budget: float | None) -> Tile:
        version = dataclasses.replace(data.version, budget=budget)
        tiles = evaluation_tiles(dataclasses.replace(data, version=version))
        return next(tile for tile in tiles if tile.label == "false activations")

    assert (tile(0.02).value, tile(0.02).is_alert) == ("28.0 %", True)
    assert tile(0.02).note == "budget 2 %, measured 28.0 % (n = 300), 95 %: 19.5 to 37.9"
    assert not tile(0.2).is_alert
    assert (tile(None).note.split(",")[0], tile(None).is_alert) == ("no budget", False)


def test_headlines_state_protocol_interval_and_samples() -> None:
    tiles = {
        (tile.label, tile.note.split(",")[0].split(";")[0]): tile
        for tile in evaluation_tiles(evaluation_example())
    }
    note = "teacher-forced, 95 %: 88.0 to 95.0, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}300"
    assert tiles["reliability", "teacher-forced"].note == note
    assert ("reliability", "free generation") in tiles
    average = tiles["average of five metrics", "teacher-forced"]
    assert (average.value, average.note) == ("90.2 %", "teacher-forced; one is by construction")
    assert tiles["time to score", ""].value == "1 min 23 s"


def test_variants_strata_and_scope_stand_beside_the_metrics() -> None:
    point = with_labels(evaluation_example().curve[-1])
    data = dataclasses.replace(
        evaluation_example(),
        by_variant=point.by_variant,
        by_tag=point.by_tag,
        scope=point.scope,
    )
    html = render_evaluation_report(data)
    text = words(html[html.index('id="metrics"') : html.index('id="candidates"')])
    assert "onerror=alert(2)> 50.0 % 46.0 to 53.0 n = 21 40.0 % 35.0 to 45.0 n = 21 7 7" in text
    assert "3-5 50.0 % 46.0 to 53.0 n = 27" in text
    assert "over-generalised 25.0 % 10.0 to 40.0 n = 100" in text
    candidates = words(html[html.index('id="candidates"') : html.index('id="curve"')])
    assert "mirrored" not in candidates
