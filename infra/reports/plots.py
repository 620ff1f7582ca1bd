"""Plots of a report as inline SVG, readable on light and dark pages, or as PNG files for MLflow."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from liveedit_core.evaluation.statistics import Interval

INK = "#010203"
"""Stands for the page's own text colour; replaced by `currentColor` in the SVG."""
COLOURS = ("#3b82c4", "#dd8328", "#2a9d73", "#b5589f", "#c94a4a", "#7d79c9", "#8a8a3c", "#4aa3a8")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SIZE_INCHES = (5.2, 3.1)
_MAX_BINS = 32


@dataclass(frozen=True, kw_only=True)
class Plot:
    title: str
    svg: Markup
    caption: str
    """How its numbers were measured."""


@dataclass(frozen=True, kw_only=True)
class Line:
    label: str
    x: Sequence[int]
    """Numbers of edits, or training steps."""
    y: Sequence[float]
    is_dashed: bool = False
    intervals: Sequence[Interval] = ()
    """One for each point, drawn as a band; empty: none."""


def plot_by_num_edits(lines: Sequence[Line], title: str) -> Markup:
    """Fractions over the number of edits (logarithmic) as an inline `<svg>` element."""
    return inline_svg(_figure_by_num_edits(lines), title)


def draw_by_num_edits(path: Path, lines: Sequence[Line], *, title: str) -> None:
    """The same as a PNG file on white; its folder exists."""
    figure = _figure_by_num_edits(lines)
    figure.suptitle(title, fontsize=11)
    figure.patch.set_visible(True)
    figure.set_facecolor("white")
    figure.savefig(path, format="png", dpi=160, metadata={"Software": None})


def _figure_by_num_edits(lines: Sequence[Line]) -> Figure:
    figure, axes = _empty_plot()
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        if line.intervals:
            lows = [interval.low for interval in line.intervals]
            highs = [interval.high for interval in line.intervals]
            axes.fill_between(line.x, lows, highs, color=colour, alpha=0.15, linewidth=0)
            if len(line.x) == 1:  # a band of one point has no width
                axes.vlines(line.x, lows, highs, color=colour, alpha=0.5, linewidth=2)
        axes.plot(
            line.x,
            line.y,
            label=line.label,
            color=colour,
            marker=MARKERS[index % len(MARKERS)],
            markersize=5.5,
            linewidth=2,
            linestyle="--" if line.is_dashed else "-",
            clip_on=False,
            zorder=3,
        )
    _style(axes, sorted({count for line in lines for count in line.x}))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, fontsize=9)
    return figure


def plot_by_step(curves: Sequence[Line], title: str, *, is_fraction: bool) -> Markup:
    """Quantities over training steps as an inline `<svg>` element."""
    figure, axes = _empty_plot()
    for index, curve in enumerate(curves):
        axes.plot(
            curve.x,
            curve.y,
            label=curve.label,
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)] if len(curve.x) < 15 else None,
            markersize=4.5,
            linewidth=1.8,
        )
    plain_style(axes, "training step")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if is_fraction:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
        axes.set_ylim(0.0, 1.02)
    else:
        axes.set_ylim(bottom=min(0.0, *(value for curve in curves for value in curve.y)))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, fontsize=9)
    return inline_svg(figure, title)


def plot_histogram(
    samples: Mapping[str, Sequence[float]],
    title: str,
    *,
    x_label: str,
    threshold: float | None = None,
) -> Markup:
    """Distributions by label as an inline `<svg>`, each as shares of its own samples."""
    figure, axes = _empty_plot()
    values = [value for sample in samples.values() for value in sample]
    edges = histogram_edges(values)
    for index, (label, sample) in enumerate(samples.items()):
        axes.hist(
            sample,
            bins=edges,
            weights=[1 / len(sample)] * len(sample),
            label=f"{label} (n = {len(sample):,})",
            color=COLOURS[index % len(COLOURS)],
            alpha=0.55,
            histtype="stepfilled",
        )
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle="--")
    plain_style(axes, x_label)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    if edges[0] == min(values) - 0.5:  # a bar for each whole number
        step = 1 + len(edges) // 12
        axes.xaxis.set_major_locator(FixedLocator([edge + 0.5 for edge in edges[:-1]][::step]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, fontsize=9)
    return inline_svg(figure, title)


def histogram_edges(values: Sequence[float]) -> list[float]:
    """Borders of bins: one for each whole number where there are few, else 32 of equal width."""
    low, high = min(values), max(values)
    if all(float(value).is_integer() for value in values) and high - low < _MAX_BINS:
        return [low - 0.5 + step for step in range(int(high - low) + 2)]
    if high == low:
        return [low - 0.5, high + 0.5]
    width = (high - low) / _MAX_BINS
    return [low + width * step for step in range(_MAX_BINS)] + [high]


def _empty_plot() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    figure.patch.set_visible(False)
    return figure, figure.add_subplot()


def plain_style(axes: Axes, x_label: str) -> None:
    # A white page behind the plot would be a white box on a dark page.
    axes.patch.set_visible(False)
    axes.set_xlabel(x_label, color=INK, fontsize=9)
    axes.grid(axis="y", color=INK, alpha=0.13, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.yaxis.get_offset_text().set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(INK)
        spine.set_alpha(0.4)


def _style(axes: Axes, counts: Sequence[int]) -> None:
    plain_style(axes, "number of edits")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
    axes.set_ylim(0.0, 1.02)


def plot_name(title: str) -> str:
    """A title as a file name without suffix; also keeps the ids of plots on one page apart."""
    return "-".join(title.replace(",", "").replace(":", "").lower().split())


def _svg(figure: Figure, title: str, fonttype: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    settings: Any = {"svg.fonttype": fonttype, "svg.hashsalt": plot_name(title)}
    with mpl.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata=nothing)
    return buffer.getvalue()


def svg_file(figure: Figure, title: str) -> str:
    """A figure as the text of an SVG file of its own, black on nothing, letters as outlines."""
    return _svg(figure, title, "path").replace(INK, "#000000")


def inline_svg(figure: Figure, title: str) -> Markup:
    """A figure as an `<svg>` element of a page."""
    svg = _svg(figure, title, "none")
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # Inside a page, a style element, fixed ids and a fixed size would affect everything else.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font-family: [^;]+;", "", svg)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1))
