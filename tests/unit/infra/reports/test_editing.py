"""The report of a run shows what it was given, with the conditions of every number."""

import base64
import dataclasses
import io

import pytest
from PIL import Image

from infra.reports.data import CurvePoint, KeptExpert, ReportData, SimilarPair, StageTime
from infra.reports.editing import MAX_REJECTS, render_report, report_tiles
from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import PAPER_METRICS, EditRequest, ProbeKind
from tests.html_page import HtmlPage, words
from tests.report_examples import HOSTILE, edit, example, metric, run_example


@pytest.fixture
def data() -> ReportData:
    first = edit("Tom", "red", HOSTILE)
    other = EditRequest(image_bytes=b"broken", prompt="Who?", target="Ann")
    own = KeptExpert(edit_id=first.edit_id, edit=first, weight=0.8125, is_own=True)
    lost = KeptExpert(edit_id="f" * 64, edit=None, weight=0.25)
    shown = dataclasses.replace(example(ProbeKind.RELIABILITY, 0.5, HOSTILE), kept=(own, lost))
    empty = dataclasses.replace(
        shown, result=dataclasses.replace(shown.result, answer_before=""), kept=()
    )
    means = dict.fromkeys(PAPER_METRICS, 0.9) | {ProbeKind.MODAL_LOCALITY: 0.4}
    summaries = {
        n: {(kind, TEACHER_FORCED): metric(kind, n, mean) for kind, mean in means.items()}
        for n in (1, 10)
    }
    free = (ProbeKind.RELIABILITY, FREE_GENERATION)
    summaries[10][free] = metric(ProbeKind.RELIABILITY, 10, 0.321)
    return ReportData(
        title="Run " + HOSTILE,
        seed=41,
        facts={"recipe": HOSTILE, "git commit": "0123abc"},
        num_edits=10,
        num_edits_before=4,
        num_rejects=1,
        duration_s=75.0,
        metrics=[CurvePoint(num_edits=n, summary=summary) for n, summary in summaries.items()],
        examples=(shown,),
        worst_cases=(empty,),
        rejects=(
            Rejected(line_number=7, error_type="NotJson", message=HOSTILE, raw="{" + HOSTILE),
        ),
        similar_pairs=(
            SimilarPair(relation="conflict", similarity=0.9876, first=first, second=other),
        ),
        stages=(StageTime(stage="generate", num_items=10, unit="edits", duration_s=4.0),),
        warnings=(HOSTILE,),
    )


def test_every_image_is_in_the_page_and_decodes(data: ReportData) -> None:
    page = HtmlPage(render_report(data))
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == 4  # two examples, one expert, one side of a pair
    for source in sources:
        head, _, body = source.partition(",")
        assert head == "data:image/webp;base64"
        Image.open(io.BytesIO(base64.b64decode(body, validate=True))).load()
    assert page.text.count("no image") == 2  # the unknown expert, and the broken side of the pair


def test_text_from_outside_stays_text_everywhere(data: ReportData) -> None:
    page = HtmlPage(render_report(data))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 8


def test_what_was_measured_is_shown_with_its_conditions(data: ReportData) -> None:
    text = words(render_report(data))
    for expected in (
        "by construction",
        "32.1 %",
        "Protocol: teacher-forced. Seed 41.",
        "reliability 3 / 30",
        "2.5 edits/s",
        "0.81 own",
        "not in the request log",
        "similarity 0.988",
        "no expert kept: identical to the unedited model",
        "no answer",
        "git commit 0123abc",
        "reliability 10 30 93.1 % 3.1 %",  # own expert kept, no expert kept
        "as submitted",
    ):
        assert expected in text


def test_a_lifelong_curve_has_its_table_and_figures_beside_those_of_the_run() -> None:
    html = render_report(run_example())
    section = html[html.index('<section id="curve">') : html.index('<section id="examples">')]
    text = words(section)
    forced, free = text[text.index("teacher-forced") :].split("free generation", 1)
    for part, num_cases in ((forced, "1,000"), (free, "100")):
        assert "edits 1 10 100 1,000 groups 1,000 100 10 1 cases evaluated" in part
        assert f"cases evaluated {' '.join([num_cases] * 4)} reliability" in part
        assert "reliability 99.0 % 95.0 to 100.0" in part
        for kind in PAPER_METRICS:
            assert kind.replace("_", " ") in part
    assert "Retention" in text
    assert "teacher-forced 1,000 99.0 % 95.0 % \N{MINUS SIGN}4.0 -6.0 to -2.0 1,000" in text
    assert section.count("<svg") == 5
    assert "Lifelong curve: what was taught, free generation" in section


def test_a_run_without_a_curve_does_not_mention_one(data: ReportData) -> None:
    assert 'id="curve"' not in render_report(data)
    assert 'href="#curve"' not in render_report(data)


def test_headline_numbers_are_those_of_the_last_point(data: ReportData) -> None:
    tiles = report_tiles(data)
    assert {
        ("edits in the bank", "10"),
        ("modal locality", "40.0 %"),
        ("reliability", "90.0 %"),
        ("reliability", "32.1 %"),
        ("average of five metrics", "80.0 %"),
        ("rejects", "1"),
        ("wall time", "1 min 15 s"),
    } <= {(tile.label, tile.value) for tile in tiles}
    assert next(tile.note for tile in tiles if tile.label == "edits in the bank").startswith(
        "6 new"
    )


def test_false_activations_stand_beside_the_budget_of_the_last_point() -> None:
    data = run_example()
    last = dataclasses.replace(data.metrics[-1], budget=0.02)
    tiles = report_tiles(dataclasses.replace(data, metrics=[*data.metrics[:-1], last]))
    (tile,) = [tile for tile in tiles if tile.label == "false activations"]
    assert (tile.value, tile.note.split(",")[0], tile.is_alert) == ("28.0 %", "budget 2 %", True)


def test_long_lists_are_cut_and_say_so(data: ReportData) -> None:
    rejects = tuple(
        Rejected(line_number=n, error_type="NotJson", message=f"reason <{n}>")
        for n in range(1, MAX_REJECTS + 31)
    )
    html = render_report(dataclasses.replace(data, rejects=rejects, num_rejects=1_000))
    assert f"reason &lt;{MAX_REJECTS}&gt;" in html
    assert f"reason &lt;{MAX_REJECTS + 1}&gt;" not in html
    assert "800 more are not shown" in html


def test_variants_strata_and_scope_are_shown_with_their_samples() -> None:
    text = words(render_report(run_example()))
    assert "50.0 % 46.0 to 53.0 n = 21" in text  # the mirrored images of 7 cases
    assert "of these, any expert kept 96.9 % n = 3" in text
    assert "unedited backbone's answer by the structure of the method" in text
    assert (
        "length modal generality 3-5 50.0 % 46.0 to 53.0 n = 27 11-24 50.0 % 46.0 to 53.0 n = 6"
        in text
    )
    assert "under-generalised 25.0 % 10.0 to 40.0 n = 100 25.0 % 10.0 to 40.0 n = 100" in text
