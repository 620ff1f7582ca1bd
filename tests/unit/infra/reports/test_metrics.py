"""Metrics by number of edits: tables with their gaps, plots with their sample counts."""

from pathlib import Path

from PIL import Image

from infra.reports.data import CurvePoint
from infra.reports.metrics import CURVE_HEADING, draw_metric_plots, metric_plots, metric_tables
from infra.reports.plots import Line, plot_by_num_edits
from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED
from liveedit_core.schema import ProbeKind
from tests.report_examples import metric, run_example


def point(kind: ProbeKind, num_edits: int, mean: float) -> CurvePoint:
    summary = {(kind, TEACHER_FORCED): metric(kind, num_edits, mean)}
    return CurvePoint(num_edits=num_edits, summary=summary)


def test_tables_mark_gaps() -> None:
    points = [point(ProbeKind.TEXT_LOCALITY, 10, 1.0), point(ProbeKind.RELIABILITY, 1, 0.5)]
    (table,) = metric_tables(points)
    assert table.points == points[::-1]
    (text_locality,), (reliability,) = (point.summary.values() for point in points)
    assert table.rows == [
        (ProbeKind.RELIABILITY, "", [reliability, None]),
        (ProbeKind.TEXT_LOCALITY, "", [None, text_locality]),
    ]


def test_protocols_never_share_a_table_or_a_plot() -> None:
    data = run_example()
    forced, free = metric_tables(data.curve)
    assert [forced.protocol, free.protocol] == [TEACHER_FORCED, FREE_GENERATION]
    for table in (forced, free):
        for kind, _, cells in table.rows:
            assert cells == [p.summary[kind, table.protocol] for p in data.curve]
    assert (forced.num_cases, free.num_cases) == ([1000] * 4, [100] * 4)
    for plot in metric_plots(data.metrics, seed=0):
        assert ("teacher-forced" in plot.title) != ("free generation" in plot.title)


def test_metrics_before_the_first_edit_are_in_the_table_only() -> None:
    points = [point(ProbeKind.RELIABILITY, 0, 0.1), point(ProbeKind.RELIABILITY, 1, 1.0)]
    assert metric_tables(points)[0].points == points
    assert "reliability 3." in metric_plots(points, seed=0)[0].caption


def test_plots_are_drawn_as_images_with_names_of_their_own(tmp_path: Path) -> None:
    data = run_example()
    drawn = draw_metric_plots(tmp_path, data.metrics)
    drawn += draw_metric_plots(tmp_path, data.curve, heading=CURVE_HEADING)
    names = [
        "what-was-taught-teacher-forced",
        "what-must-stay-teacher-forced",
        "own-expert-kept-by-the-filter-teacher-forced",
        "what-was-taught-free-generation",
        "what-must-stay-free-generation",
    ]
    assert [path.stem for path in drawn] == [*names, *(f"lifelong-curve-{name}" for name in names)]
    for path in drawn:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.width > 600
            colours = image.convert("RGB").getcolors(maxcolors=1 << 20)
        assert colours is not None
        assert len(colours) > 50  # something was drawn


def test_plots_take_the_colour_of_the_page_and_escape_text() -> None:
    svg = plot_by_num_edits([Line(label="<b>&", x=(1, 10), y=(1.0, 0.5))], '"<i>')
    assert "currentColor" in svg
    assert "&lt;b&gt;&amp;" in svg
    assert "<i>" not in svg
    assert svg.startswith("<svg role=")
