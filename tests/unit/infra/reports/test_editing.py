"""The report: stands alone, shows what it was given, and lets nothing from outside act."""

import base64
import dataclasses
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from infra.reports.data import (
    EditView,
    Example,
    KeptExpert,
    MetricRow,
    ReportData,
    SimilarPair,
    StageTime,
)
from infra.reports.editing import (
    MAX_REJECTS,
    format_duration,
    headline_tiles,
    render_report,
    thumbnail_uri,
    write_report,
)
from infra.reports.metrics import draw_curve_plots, draw_metric_plots, metric_plots, metric_tables
from infra.reports.plots import Line, plot_by_num_edits
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import PAPER_METRICS
from tests.html_page import HtmlPage
from tests.report_examples import run_example

HOSTILE = '<script>alert(1)</script><img src="http://evil.example/x.png" onerror=alert(2)>'


def _png(colour: str, side: int = 24) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def _metric(kind: str, num_edits: int, mean: float, protocol: str = "teacher_forced") -> MetricRow:
    return MetricRow(
        num_edits=num_edits,
        kind=kind,
        protocol=protocol,
        mean=mean,
        num_samples=2 * num_edits,
        own_kept_fraction=0.75,
        empty_kept_fraction=0.125,
    )


@pytest.fixture
def data() -> ReportData:
    edit = EditView(edit_id="e" * 64, prompt=HOSTILE, target="Tom", image_bytes=_png("red"))
    other = EditView(edit_id="f" * 64, prompt="Who?", target="Ann", image_bytes=b"broken")
    example = Example(
        case_id="c" * 64,
        num_edits=10,
        kind="reliability",
        protocol="teacher_forced",
        score=0.5,
        prompt=HOSTILE,
        target=HOSTILE,
        answer_before="",
        answer_after=HOSTILE,
        image_bytes=_png("blue"),
        kept=(KeptExpert(edit=edit, weight=0.8125, is_own=True),),
    )
    return ReportData(
        title="Run " + HOSTILE,
        seed=41,
        facts={"recipe": HOSTILE, "git commit": "0123abc"},
        num_edits=10,
        num_edits_before=4,
        num_rejects=1,
        duration_s=75.0,
        metrics=[
            *(_metric(kind, n, 0.9) for kind in PAPER_METRICS for n in (1, 10)),
            _metric("reliability", 10, 0.321, "free_generation"),
        ],
        examples=(example,),
        worst_cases=(dataclasses.replace(example, kept=(), kind="text_locality"),),
        rejects=(
            Rejected(line_number=7, error_type="NotJson", message=HOSTILE, raw="{" + HOSTILE),
        ),
        similar_pairs=(
            SimilarPair(relation="conflict", similarity=0.9876, first=edit, second=other),
        ),
        stages=(StageTime(stage="generate", num_items=10, unit="edits", duration_s=4.0),),
        warnings=(HOSTILE,),
    )


def test_every_image_is_in_the_page_and_decodes(data: ReportData) -> None:
    page = HtmlPage(render_report(data))
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == 4  # two examples, one expert, one side of a pair; the other is broken
    for source in sources:
        head, _, body = source.partition(",")
        assert head == "data:image/webp;base64"
        Image.open(io.BytesIO(base64.b64decode(body, validate=True))).load()
    assert page.text.count("no image") == 1


def test_texts_from_outside_stay_texts(data: ReportData) -> None:
    html = render_report(data)
    page = HtmlPage(html)
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 8
    assert "script-src" not in html
    assert "default-src 'none'" in html


def test_nothing_is_loaded_from_anywhere(data: ReportData) -> None:
    html = render_report(data)
    page = HtmlPage(html)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            assert value.startswith(("data:", "#")), (name, value)
    css = "".join(re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL))
    assert "url(" not in css
    assert "@import" not in css


def test_references_inside_the_page_have_a_target(data: ReportData) -> None:
    page = HtmlPage(render_report(data))
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {value[1:] for name, value in page.attributes if name.endswith("href")}
    used |= {m[1] for _, value in page.attributes if (m := re.match(r"url\(#(.*)\)", value))}
    assert used <= set(ids)


def test_what_was_measured_is_shown_with_its_conditions(data: ReportData) -> None:
    text = " ".join(HtmlPage(render_report(data)).text.split())
    assert "by construction" in text
    assert "32.1 %" in text
    assert "Protocol: teacher-forced. Seed 41." in text
    assert "reliability 2 / 20" in text
    assert "2.5 edits/s" in text
    assert "0.81 own" in text
    assert "similarity 0.988" in text
    assert "no expert kept: exactly the unedited model" in text
    assert "no answer" in text
    assert "git commit 0123abc" in text


def test_protocols_never_share_a_table_or_a_plot(data: ReportData) -> None:
    tables = metric_tables(data.metrics)
    assert [table.protocol for table in tables] == ["teacher_forced", "free_generation"]
    for table in tables:
        cells = [cell for _, _, row in table.kinds for cell in row if cell]
        assert {cell.protocol for cell in cells} == {table.protocol}
    for plot in metric_plots(data.metrics, seed=0):
        assert ("teacher-forced" in plot.title) != ("free generation" in plot.title)


def test_a_lifelong_curve_has_its_table_and_figures_beside_those_of_the_run() -> None:
    html = render_report(run_example())
    section = html[html.index('<section id="curve">') : html.index('<section id="examples">')]
    text = " ".join(HtmlPage(section).text.split())
    forced, free = text[text.index("teacher-forced") :].split("free generation", 1)
    for part, num_cases in ((forced, "1,000"), (free, "100")):
        assert "edits 1 10 100 1,000 groups 1,000 100 10 1 cases asked" in part
        assert f"cases asked {' '.join([num_cases] * 4)} reliability" in part
        assert "reliability 99.0 % 95.0 to 100.0" in part
        for kind in PAPER_METRICS:
            assert kind.replace("_", " ") in part
    assert section.count("<svg") == 5
    assert "Lifelong curve: what was taught, free generation" in section
    ids = [value for name, value in HtmlPage(html).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_a_run_without_a_curve_does_not_speak_of_one(data: ReportData) -> None:
    assert 'id="curve"' not in render_report(data)
    assert 'href="#curve"' not in render_report(data)


def test_figures_of_the_curve_never_replace_those_of_the_run(tmp_path: Path) -> None:
    data = run_example()
    drawn = draw_metric_plots(tmp_path, data.metrics) + draw_curve_plots(tmp_path, data.curve)
    assert len({path.name for path in drawn}) == len(drawn) == 10
    assert all(path.stat().st_size > 5_000 for path in drawn)
    assert tmp_path / "lifelong-curve-what-was-taught-teacher-forced.png" in drawn


def test_tables_mark_gaps_and_what_is_fixed_by_construction() -> None:
    rows = [_metric("text_locality", 10, 1.0), _metric("reliability", 1, 0.5)]
    (table,) = metric_tables(rows)
    assert table.num_edits == [1, 10]
    assert [(kind, is_fixed) for kind, is_fixed, _ in table.kinds] == [
        ("reliability", False),
        ("text_locality", True),
    ]
    assert [cells for _, _, cells in table.kinds] == [[rows[1], None], [None, rows[0]]]


def test_headline_numbers_are_those_of_the_last_point(data: ReportData) -> None:
    metrics = [*data.metrics, _metric("modal_locality", 10, 0.4)]
    tiles = headline_tiles(dataclasses.replace(data, metrics=metrics))
    values = {(tile.label, tile.value) for tile in tiles}
    assert {
        ("edits in the bank", "10"),
        ("modal locality", "40.0 %"),
        ("reliability", "90.0 %"),
        ("reliability", "32.1 %"),
        ("average of five metrics", "80.0 %"),
        ("rejects", "1"),
        ("wall time", "1 min 15 s"),
    } <= values
    assert next(tile.note for tile in tiles if tile.label == "edits in the bank").startswith(
        "6 new"
    )


def test_no_average_without_all_five_metrics(data: ReportData) -> None:
    metrics = [row for row in data.metrics if row.kind != "modal_generality"]
    labels = [tile.label for tile in headline_tiles(dataclasses.replace(data, metrics=metrics))]
    assert "average of five metrics" not in labels


def test_a_run_that_did_nothing_still_has_a_report(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(path, ReportData(title="Nothing", seed=0, num_edits=0, duration_s=0.0))
    text = HtmlPage(path.read_text(encoding="utf-8")).text
    assert "Nothing was evaluated." in text
    assert "Nothing was refused." in text
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_long_lists_are_cut_and_say_so(data: ReportData) -> None:
    rejects = tuple(
        Rejected(line_number=n, error_type="NotJson", message=f"reason <{n}>")
        for n in range(1, MAX_REJECTS + 31)
    )
    html = render_report(dataclasses.replace(data, rejects=rejects, num_rejects=1_000))
    assert f"reason &lt;{MAX_REJECTS}&gt;" in html
    assert f"reason &lt;{MAX_REJECTS + 1}&gt;" not in html
    assert "800 more are not shown" in html


def test_the_same_data_gives_the_same_page(data: ReportData) -> None:
    assert render_report(data) == render_report(data)


def test_thumbnails_are_small_and_missing_ones_empty() -> None:
    uri = thumbnail_uri(_png("green", side=900))
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert image.size == (160, 160)
    assert thumbnail_uri(None) == thumbnail_uri(b"no image") == ""


def test_plots_take_the_colour_of_the_page_and_escape_labels() -> None:
    line = Line(label="<b>&", num_edits=(1, 10), fractions=(1.0, 0.5))
    svg = plot_by_num_edits([line], name="p", description='"<i>')
    assert "currentColor" in svg
    assert "&lt;b&gt;&amp;" in svg
    assert "<i>" not in svg
    assert svg.startswith("<svg role=")


def test_metrics_before_the_first_edit_are_in_the_table_only() -> None:
    rows = [_metric("reliability", 0, 0.1), _metric("reliability", 1, 1.0)]
    assert metric_tables(rows)[0].num_edits == [0, 1]
    assert "reliability 2." in metric_plots(rows, seed=0)[0].caption


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.6, "1 min 0 s"), (3_725, "1 h 2 min")],
)
def test_durations(duration_s: float, text: str) -> None:
    assert format_duration(duration_s) == text
