"""Plots of a report as inline SVG: no files, no network, readable on light and dark pages."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

_INK = "#010203"
"""Stands for the page's own text colour; replaced by `currentColor` in the SVG."""
_COLOURS = ("#3b82c4", "#dd8328", "#2a9d73", "#b5589f", "#c94a4a", "#7d79c9", "#8a8a3c", "#4aa3a8")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SIZE_INCHES = (5.2, 3.1)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a plot."""

    label: str
    num_edits: Sequence[int]
    fractions: Sequence[float]
    is_dashed: bool = False


def plot_by_num_edits(lines: Sequence[Line], *, name: str, description: str) -> str:
    """Draw fractions over the number of edits (logarithmic) as an inline `<svg>` element.

    Args:
        lines: What to draw; each has as many fractions (0 to 1) as numbers of edits.
        name: Makes the ids inside this SVG differ from those of other plots on the page.
        description: What a screen reader says; no markup.
    """
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    for index, line in enumerate(lines):
        axes.plot(
            line.num_edits,
            line.fractions,
            label=line.label,
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=5.5,
            linewidth=2,
            linestyle="--" if line.is_dashed else "-",
            clip_on=False,
            zorder=3,
        )
    _style(axes, sorted({count for line in lines for count in line.num_edits}))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=_INK, fontsize=9)
    return _inline_svg(figure, name, description)


def _style(axes: Axes, counts: Sequence[int]) -> None:
    # A white page behind the plot would be a white box on a dark page.
    axes.patch.set_visible(False)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("number of edits", color=_INK, fontsize=9)
    axes.grid(axis="y", color=_INK, alpha=0.13, linewidth=0.8)
    axes.tick_params(colors=_INK, labelsize=9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_INK)
        spine.set_alpha(0.4)


def _inline_svg(figure: Figure, name: str, description: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name}
    with mpl.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # Inside a page, a style element, fixed ids and a fixed size would leak into everything else.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font-family: [^;]+;", "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
