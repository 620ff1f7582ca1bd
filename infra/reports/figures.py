"""Figures of several panels, with a line or bar for each editor."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from infra.reports.plots import COLOURS, INK, MARKERS, Line, plain_style

_PANEL_INCHES = (2.4, 1.9)
_MAX_COLUMNS = 3
_LEGEND_COLUMNS = 5
_LINE_STYLES = ("-", "-.", ":")
_SIZE = 8
"""Of letters, in points."""
_MAX_NAME = 18
"""Letters of an editor's name."""
_BAR_COLOURS = (COLOURS[2], COLOURS[0], COLOURS[1], COLOURS[4])
_DODGE = 0.35
"""Share of the gap between two numbers of edits over which the points of editors are spread."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One measure of all editors over the number of edits."""

    title: str
    lines: Sequence[Line]
    is_difference: bool = False
    """Around zero, in percentage points; otherwise a share."""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Shares that add up to one, for each editor."""

    title: str
    labels: Sequence[str]
    """Editors."""
    parts: Sequence[tuple[str, Sequence[float]]]
    """Name of a share, and its value for each editor."""


def line_figure(panels: Sequence[Panel]) -> Figure:
    """Panels side by side, with one legend; the points of several editors stand beside each other,
    each with its interval."""
    names = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    figure, grid = _grid(len(panels), legend_rows=math.ceil(len(names) / _LEGEND_COLUMNS))
    for axes, panel in zip(grid, panels, strict=True):
        sizes = sorted({count for line in panel.lines for count in line.x})
        for line in panel.lines:
            _draw(axes, line, names.index(line.label), len(names), _gap(sizes))
        _style(axes, panel, sizes)
    handles: dict[str, Artist] = {}
    for axes in grid:
        drawn, labels = axes.get_legend_handles_labels()
        handles |= {str(label): item for label, item in zip(labels, drawn, strict=True)}
    _legend(figure, [handles[name] for name in names], names)
    return figure


def bar_figure(panels: Sequence[Bars]) -> Figure:
    """Stacked bars, a panel beside the other."""
    names = [name for name, _ in panels[0].parts]
    tallest = max(len(panel.labels) for panel in panels)
    figure, grid = _grid(len(panels), legend_rows=1, height=0.6 + 0.19 * tallest)
    for number, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
        left = [0.0] * len(panel.labels)
        rows = range(len(panel.labels), 0, -1)
        for index, (name, values) in enumerate(panel.parts):
            axes.barh(rows, values, left=left, height=0.72, color=_BAR_COLOURS[index], label=name)
            left = [start + value for start, value in zip(left, values, strict=True)]
        plain_style(axes, "share of edits")
        axes.grid(visible=False)
        is_named = number % _MAX_COLUMNS == 0 or panel.labels != panels[number - 1].labels
        axes.set_yticks(list(rows), [_short(name) if is_named else "" for name in panel.labels])
        axes.set_xlim(0.0, 1.0)
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
        _small(axes, panel.title)
    handles, labels = grid[0].get_legend_handles_labels()
    _legend(figure, handles[: len(names)], labels[: len(names)])
    return figure


def _grid(
    count: int, *, legend_rows: int, height: float = _PANEL_INCHES[1]
) -> tuple[Figure, list[Axes]]:
    columns = min(count, _MAX_COLUMNS)
    rows = math.ceil(count / columns)
    size = (_PANEL_INCHES[0] * max(columns, 2), height * rows + 0.2 * legend_rows + 0.1)
    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_visible(False)
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(count)]


def _gap(sizes: Sequence[int]) -> float:
    """Least distance of two numbers of edits, in decades."""
    places = [math.log10(size) for size in sizes]
    return min((b - a for a, b in itertools.pairwise(places)), default=1.0)


def _draw(axes: Axes, line: Line, index: int, count: int, gap: float) -> None:
    """A line whose points stand a little beside their number of edits."""
    shift = 10 ** (_DODGE * gap * ((index + 0.5) / count - 0.5))
    below, above = [], []
    for number, value in enumerate(line.y):
        bounds = line.intervals[number] if line.intervals else None
        below.append(max(0.0, value - bounds.low) if bounds else 0.0)
        above.append(max(0.0, bounds.high - value) if bounds else 0.0)
    axes.errorbar(
        [size * shift for size in line.x],
        line.y,
        yerr=[below, above],
        label=line.label,
        color=COLOURS[index % len(COLOURS)],
        marker=MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],
        markersize=3.5,
        linewidth=1.1,
        elinewidth=0.8,
        linestyle="--" if line.is_dashed else _LINE_STYLES[index // len(COLOURS) % 3],
        clip_on=False,
        zorder=3,
    )


def _style(axes: Axes, panel: Panel, sizes: Sequence[int]) -> None:
    plain_style(axes, "number of edits")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    edge = 10 ** (0.5 * _gap(sizes))
    axes.set_xlim(sizes[0] / edge, sizes[-1] * edge)
    if panel.is_difference:
        axes.axhline(0.0, color=INK, alpha=0.4, linewidth=0.8)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.0f}"))
    else:
        axes.set_ylim(0.0, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    _small(axes, panel.title)


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _small(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=_SIZE + 1, color=INK)
    axes.tick_params(labelsize=_SIZE)
    axes.xaxis.label.set_fontsize(_SIZE)


def _legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    figure.legend(
        handles,
        [_short(label) for label in labels],
        loc="outside lower center",
        ncols=min(_LEGEND_COLUMNS, len(labels)),
        frameon=False,
        labelcolor=INK,
        fontsize=_SIZE,
    )
