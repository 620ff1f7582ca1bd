"""The page that compares two versions of a bank: one HTML file, made like `report.py`."""

from collections.abc import Sequence
from pathlib import Path

from infra.reports.data import (
    GAINED,
    IMPROVEMENT,
    LOST,
    REGRESSION,
    ComparisonReportData,
    MetricDifference,
)
from infra.reports.editing import Tile, page_environment, write_page
from infra.reports.metrics import (
    BY_CONSTRUCTION,
    METRIC_NOTES,
    PROTOCOL_NOTES,
    ordered_kinds,
    spell,
)
from liveedit_core.schema import PAPER_METRICS

MAX_FLIPS = 40
"""Cards shown in each direction."""

_TEMPLATE = "comparison_report.html.j2"
_LEAST_SCALE = 0.01
"""Differences are drawn on a scale that reaches one point at least."""


def write_comparison_report(path: Path, data: ComparisonReportData) -> None:
    """Write the page; a reader never sees half of one."""
    write_page(path, render_comparison_report(data))


def render_comparison_report(data: ComparisonReportData) -> str:
    """The page as HTML text."""
    protocols = [
        name for name in PROTOCOL_NOTES if any(d.protocol == name for d in data.differences)
    ]
    environment = page_environment()
    environment.filters |= {"points": format_points, "p_value": format_p_value}
    reach = [max(abs(d.low), abs(d.high), abs(d.difference)) for d in data.differences]
    return environment.get_template(_TEMPLATE).render(
        data=data,
        tiles=headline_tiles(data),
        tables=[
            (name, PROTOCOL_NOTES[name], _sorted(data.differences, name)) for name in protocols
        ],
        counts={(count.kind, count.protocol): count for count in data.flip_counts},
        fixed=BY_CONSTRUCTION,
        metric_notes=METRIC_NOTES,
        scale=max([_LEAST_SCALE, *reach]),
        directions=[
            (
                direction,
                [flip for flip in data.flips if flip.direction == direction][:MAX_FLIPS],
                num_flips,
            )
            for direction, num_flips in ((LOST, data.num_lost), (GAINED, data.num_gained))
        ],
    )


def headline_tiles(data: ComparisonReportData) -> list[Tile]:
    """The numbers of the first screen."""
    tiles = [
        Tile(
            label=f"older: {version.label}" if version is data.old else f"newer: {version.label}",
            value=f"version {version.bank_version:,}",
            note=f"bank {version.bank}, {version.num_edits:,} edits",
        )
        for version in (data.old, data.new)
    ]
    judged = [d for d in data.differences if d.verdict]
    worse = [d for d in judged if d.verdict == REGRESSION]
    better = sum(d.verdict == IMPROVEMENT for d in judged)
    if judged:
        names = ", ".join(f"{spell(d.kind)} ({spell(d.protocol)})" for d in worse[:3])
        more = f" and {len(worse) - 3} more" if len(worse) > 3 else ""
        tiles.append(
            Tile(
                label="regressions",
                value=f"{len(worse)} of {len(judged)}",
                note=names + more if worse else f"none; {better} improved",
                is_alert=bool(worse),
            )
        )
    if average := _average_difference(data.differences):
        tiles.append(average)
    for direction, num_flips, note in (
        (LOST, data.num_lost, "right before, wrong now"),
        (GAINED, data.num_gained, "wrong before, right now"),
    ):
        note += "; under one protocol at least"
        tiles.append(Tile(label=f"answers {direction}", value=f"{num_flips:,}", note=note))
    tiles.append(
        Tile(label="cases compared", value=f"{data.num_cases:,}", note="the same for both versions")
    )
    return tiles


def format_points(fraction: float) -> str:
    """-0.0123 -> "-1.2": percentage points, with a sign."""
    points = round(100 * fraction, 1)
    return "0.0" if points == 0 else f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


def format_p_value(p_value: float | None) -> str:
    """0.00004 -> "< 0.001"; a dash where there is none."""
    if p_value is None:
        return "-"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _average_difference(differences: Sequence[MetricDifference]) -> Tile | None:
    by_kind = {d.kind: d for d in differences if d.protocol == "teacher_forced"}
    five = [by_kind[kind] for kind in PAPER_METRICS if kind in by_kind]
    if len(five) < len(PAPER_METRICS):
        return None
    old = sum(d.old_mean for d in five) / len(five)
    new = sum(d.new_mean for d in five) / len(five)
    return Tile(
        label="average of five metrics",
        value=f"{format_points(new - old)} points",
        note=f"{100 * old:.1f} % to {100 * new:.1f} %, {spell('teacher_forced')}",
    )


def _sorted(differences: Sequence[MetricDifference], protocol: str) -> list[MetricDifference]:
    chosen = {d.kind: d for d in differences if d.protocol == protocol}
    return [chosen[kind] for kind in ordered_kinds(set(chosen))]
