"""The lifelong curve of a report: all cases after N edits each, both protocols side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.reports.data import CurvePoint, MetricRow
from infra.reports.metrics import (
    MetricPlot,
    MetricTable,
    draw_metric_plots,
    metric_plots,
    metric_tables,
)

CURVE_HEADING = "Lifelong curve: "
"""Begins the titles of its plots, and so their file names and the ids inside them."""


@dataclass(frozen=True, kw_only=True)
class CurveTable:
    """The curve under one protocol: a row for each metric, a column for each number of edits."""

    metrics: MetricTable
    num_groups: Sequence[int]
    """Groups that the cases were taken in, for each column."""
    num_cases: Sequence[int | None]
    """Cases that were asked under this protocol, for each column; None: unknown."""


def curve_tables(curve: Sequence[CurvePoint]) -> list[CurveTable]:
    """One table for each protocol that was measured."""
    num_groups = {point.num_edits: point.num_groups for point in curve}
    return [
        CurveTable(
            metrics=table,
            num_groups=[num_groups[count] for count in table.num_edits],
            num_cases=[
                max((row.num_cases for row in column if row and row.num_cases), default=None)
                for column in zip(*(cells for _, _, cells in table.kinds), strict=True)
            ],
        )
        for table in metric_tables(curve_rows(curve))
    ]


def curve_plots(curve: Sequence[CurvePoint], *, seed: int) -> list[MetricPlot]:
    """The figures of a page."""
    return metric_plots(curve_rows(curve), seed=seed, heading=CURVE_HEADING)


def draw_curve_plots(folder: Path, curve: Sequence[CurvePoint]) -> list[Path]:
    """Draw the same figures as PNG files, for MLflow; returns their paths."""
    return draw_metric_plots(folder, curve_rows(curve), heading=CURVE_HEADING)


def curve_rows(curve: Sequence[CurvePoint]) -> list[MetricRow]:
    """The rows of all points."""
    return [row for point in curve for row in point.metrics]
