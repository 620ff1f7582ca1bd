"""The page of editors, its figures and its files hold the measures that they were given."""

import csv
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from infra.reports.data import EditorsReportData, Measure
from infra.reports.editors import editor_tables, editor_tiles, write_editors_report
from infra.reports.exports import escape, latex_table, to_csv
from infra.reports.figures import Bars, Panel, bar_figure, line_figure
from infra.reports.measures import GROUPS, MEASURES
from infra.reports.plots import Line
from liveedit_core.evaluation.statistics import Interval
from tests.html_page import words
from tests.report_examples import editors_example


def measure(editor: str, value: float, name: str = "reliability", size: int = 10) -> Measure:
    return Measure(
        editor=editor,
        num_edits=size,
        name=name,
        protocol="teacher_forced",
        value=value,
        interval=Interval(low=value - 0.1, high=value + 0.05),
        num_samples=40,
    )


def page_of(*measures: Measure) -> EditorsReportData:
    return EditorsReportData(title="Editors", seed=0, measures=measures)


def test_page_and_files_lie_beside_each_other(tmp_path: Path) -> None:
    files = write_editors_report(tmp_path / "run", "comparison", editors_example())
    assert sorted(file.name for file in files) == sorted(p.name for p in files[0].parent.iterdir())
    figures = [file for file in files if file.suffix == ".svg"]
    assert [file.stem for file in figures] == [
        "comparison-metrics-of-the-paper-teacher-forced",
        "comparison-further-metrics-teacher-forced",
        "comparison-retention-teacher-forced",
        "comparison-retention-free-generation",
        "comparison-scope-teacher-forced",
        "comparison-unrelated-questions-teacher-forced",
    ]
    for file in figures:
        assert ElementTree.parse(file).getroot().tag.endswith("svg")
        assert "currentColor" not in file.read_text()
    text = words(files[0].read_text())
    assert "75.0 % 71.0 to 78.0 n = 100" in text  # the fourth editor after one edit
    assert "\N{MINUS SIGN}2.0 \N{MINUS SIGN}6.0 to +1.0 n = 20" in text  # backward transfer


def test_tiles_name_the_best_editor_and_never_the_reference() -> None:
    data = page_of(
        measure("a", 0.5, "average"),
        measure("b", 0.75, "average"),
        measure("unedited", 0.9, "average"),
        measure("a", 0.25, "unrelated.changed"),
        measure("unedited", 0.0, "unrelated.changed"),
    )
    _, average, changed = editor_tiles(data)
    assert (average.value, average.note[:18]) == ("75.0 %", "b after 10 edits, ")
    assert (changed.label, changed.value) == ("lowest answer changed", "25.0 %")


def test_the_csv_holds_every_measure() -> None:
    data = editors_example()
    rows = [*csv.DictReader(to_csv(data.measures).splitlines())]
    assert len(rows) == len(data.measures)
    for row, item in zip(rows, data.measures, strict=True):
        assert (row["editor"], int(row["num_edits"]), row["measure"]) == (
            item.editor,
            item.num_edits,
            item.name,
        )
        assert float(row["value"]) == pytest.approx(item.value)
        bounds = (row["low"], row["high"])
        if item.interval is None:
            assert (*bounds, row["num_samples"], row["protocol"]) == ("", "", "", "")
        else:
            assert [*map(float, bounds)] == pytest.approx([item.interval.low, item.interval.high])


def test_latex_tables_are_complete_and_mark_the_best() -> None:
    data = page_of(
        measure("a_1", 0.9),
        measure("b", 0.8),
        measure("unedited", 1.0),
        measure("a_1", 0.5, "scope.both"),
        measure("b", 0.25, "scope.both"),
        measure("b", 0.7, size=1000),
    )
    names = ("reliability", "scope.both", "portability")
    text = latex_table(data, names, "teacher_forced", caption="50 %", label="tab:x")
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert lines == [
        r"$N$ & editor & reliability & both \\",
        r"10 & a\_1 & \textbf{90.0} {\scriptsize [80, 95]} & 50.0 {\scriptsize [40, 55]} \\",
        r" & b & 80.0 {\scriptsize [70, 85]} & \textbf{25.0} {\scriptsize [15, 30]} \\",
        r" & unedited & 100.0 {\scriptsize [90, 105]} & -- \\",
        r"1{,}000 & b & \textbf{70.0} {\scriptsize [60, 75]} & -- \\",
    ]
    assert r"\caption{50 \%}" in text
    assert re.findall(r"\\(\w+rule)", text) == ["toprule", "midrule", "midrule", "bottomrule"]
    assert text.count("{") == text.count("}")
    assert latex_table(data, names, "free_generation", caption="", label="") == ""


def test_a_loss_is_written_with_a_minus_and_no_zero_is_negative() -> None:
    lost = replace(measure("a", -0.02, "backward_transfer"), interval=Interval(-0.04, -0.001))
    text = latex_table(page_of(lost), [lost.name], "teacher_forced", caption="", label="")
    assert r"\textbf{$-$2.0} {\scriptsize [$-$4, 0]}" in text


def test_texts_have_no_meaning_for_latex() -> None:
    assert escape(r"a_b & 5% \x") == r"a\_b \& 5\% \textbackslash{}x"
    for letter in "&%$#_{}~^\\<":
        assert escape(letter) != letter


def test_every_editor_can_be_told_from_the_others() -> None:
    lines = [Line(label=f"e{n}", x=[1, 10], y=[0.1, 0.2]) for n in range(24)]
    (axes,) = line_figure([Panel(title="average", lines=lines)]).axes
    drawn = [item.lines[0] for item in axes.containers if isinstance(item, ErrorbarContainer)]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in drawn}
    assert len(looks) == 24


def test_points_have_their_values_and_intervals() -> None:
    line = Line(
        label="a", x=[1, 100], y=[0.5, 0.25], intervals=[Interval(0.25, 1), Interval(0, 0.5)]
    )
    other = Line(label="b", x=[100], y=[0.75])
    (axes,) = line_figure([Panel(title="average", lines=[line, other])]).axes
    first, _ = (item for item in axes.containers if isinstance(item, ErrorbarContainer))
    data_line, _, (bars,) = first.lines
    assert data_line is not None
    drawn_P2 = np.asarray(data_line.get_xydata())
    assert drawn_P2[:, 1].tolist() == [0.5, 0.25]
    ends = [[float(y) for _, y in path] for path in bars.get_segments()]
    assert ends == [[0.25, 1.0], [0.0, 0.5]]
    places = drawn_P2[:, 0].tolist()
    assert places != [1.0, 100.0]  # beside the points of the other editor
    assert places == pytest.approx([1.0, 100.0], rel=0.5)


def test_bars_of_an_editor_add_up() -> None:
    parts = [("proper", [0.5, 0.25]), ("both", [0.5, 0.75])]
    (axes,) = bar_figure([Bars(title="10 edits", labels=["a", "b"], parts=parts)]).axes
    widths = [[bar.get_width() for bar in container] for container in axes.containers]
    assert [sum(column) for column in zip(*widths, strict=True)] == [1.0, 1.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_every_measure_is_shown_in_one_place() -> None:
    shown = [name for names in GROUPS.values() for name in names]
    assert len(set(shown)) == len(shown)
    assert set(shown) == set(MEASURES)


def test_gaps_stay_gaps() -> None:
    data = page_of(measure("a", 0.5), measure("b", 0.5, "text_locality"))
    (table,) = editor_tables(data, "Metrics of the paper")
    assert [[bool(cell) for cell in cells] for _, _, cells in table.rows] == [
        [True, False],
        [False, True],
    ]
