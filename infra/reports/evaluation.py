"""The page of one evaluation of one bank version: one HTML file, made like `report.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.reports.data import EvaluationReportData, MetricRow
from infra.reports.editing import (
    Tile,
    format_duration,
    format_percent,
    page_environment,
    write_page,
)
from infra.reports.metrics import (
    BY_CONSTRUCTION,
    METRIC_NOTES,
    PROTOCOL_NOTES,
    metric_plots,
    metric_tables,
    rows_by_protocol,
    spell,
)
from liveedit_core.schema import PAPER_METRICS, ProbeKind

MAX_EXAMPLES = 30
MAX_WORST_CASES = 24

_TEMPLATE = "evaluation_report.html.j2"


@dataclass(frozen=True, kw_only=True)
class ProtocolTable:
    """The metrics of one protocol; never two protocols in one."""

    protocol: str
    note: str
    rows: Sequence[MetricRow]

    @property
    def has_exact(self) -> bool:
        """Whether the share of answers right as a whole says more than the mean."""
        return self.protocol != "free_generation" and any(
            row.exact_mean is not None for row in self.rows
        )


def write_evaluation_report(path: Path, data: EvaluationReportData) -> None:
    """Write the page; a reader never sees half of one."""
    write_page(path, render_evaluation_report(data))


def render_evaluation_report(data: EvaluationReportData) -> str:
    """The page as HTML text."""
    curve = data.curve if len({row.num_edits for row in data.curve}) > 1 else ()
    return (
        page_environment()
        .get_template(_TEMPLATE)
        .render(
            data=data,
            tiles=headline_tiles(data),
            tables=protocol_tables(data.metrics),
            fixed=BY_CONSTRUCTION,
            metric_notes=METRIC_NOTES,
            curve_tables=metric_tables(curve),
            plots=metric_plots(curve or data.metrics, seed=data.seed),
            examples=data.examples[:MAX_EXAMPLES],
            worst_cases=data.worst_cases[:MAX_WORST_CASES],
        )
    )


def protocol_tables(metrics: Sequence[MetricRow]) -> list[ProtocolTable]:
    """One table for each protocol that was measured."""
    return [
        ProtocolTable(protocol=protocol, note=PROTOCOL_NOTES.get(protocol, ""), rows=rows)
        for protocol, rows in rows_by_protocol(metrics)
    ]


def headline_tiles(data: EvaluationReportData) -> list[Tile]:
    """The numbers of the first screen; each states its protocol and sample count."""
    state = "complete" if data.is_complete else "not complete: some probes have no result"
    tiles = [
        Tile(
            label=f"version of bank {data.bank}",
            value=f"{data.bank_version:,}",
            note=f"holds {data.num_edits:,} edits",
        ),
        Tile(
            label="cases examined",
            value=f"{data.num_cases:,}",
            note=state,
            is_alert=not data.is_complete,
        ),
    ]
    by_key = {(row.protocol, row.kind): row for row in data.metrics}
    for protocol, kind in (
        ("teacher_forced", ProbeKind.RELIABILITY),
        ("free_generation", ProbeKind.RELIABILITY),
        ("teacher_forced", ProbeKind.MODAL_GENERALITY),
        ("teacher_forced", ProbeKind.MODAL_LOCALITY),
    ):
        if row := by_key.get((protocol, kind)):
            count = f"n = {row.num_samples:,}".replace(" ", "\N{NO-BREAK SPACE}")
            note = f"{spell(protocol)}{format_interval(row, ', 95 %: ')}, {count}"
            tiles.append(Tile(label=spell(kind), value=format_percent(row.mean), note=note))
    five = [row for kind in PAPER_METRICS if (row := by_key.get(("teacher_forced", kind)))]
    if len(five) == len(PAPER_METRICS):
        average = sum(row.mean for row in five) / len(five)
        note = f"{spell('teacher_forced')}; one is by construction"
        tiles.append(
            Tile(label="average of five metrics", value=format_percent(average), note=note)
        )
    if data.duration_s > 0:
        tiles.append(Tile(label="time to score", value=format_duration(data.duration_s)))
    return tiles


def format_interval(row: MetricRow, before: str = "") -> str:
    """ "95.1 to 98.2" in per cent; empty where there is no interval."""
    if row.low is None or row.high is None:
        return ""
    return f"{before}{100 * row.low:.1f} to {100 * row.high:.1f}"
