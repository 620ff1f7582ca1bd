"""The report of an editing run."""

from collections import Counter
from collections.abc import Sequence

from infra.reports.data import CurvePoint, ReportData
from infra.reports.formats import count, duration, percent, spell
from infra.reports.metrics import CURVE_HEADING, metric_plots, metric_tables, tag_tables
from infra.reports.page import (
    HEADLINE_METRICS,
    Tile,
    average_tiles,
    false_activation_tiles,
    render_page,
)
from liveedit_core.evaluation.probes import TEACHER_FORCED
from liveedit_core.schema import ProbeKind

MAX_EXAMPLES = 60
MAX_WORST_CASES = 24
MAX_REJECTS = 200
MAX_PAIRS = 40


def render_report(data: ReportData) -> str:
    last = max(data.metrics, key=lambda point: point.num_edits, default=None)
    return render_page(
        "report.html.j2",
        title=data.title,
        subtitle=data.subtitle,
        data=data,
        tiles=report_tiles(data),
        tables=metric_tables(data.metrics),
        last=last,
        tag_tables=tag_tables(last) if last else [],
        plots=metric_plots(data.metrics, seed=data.seed),
        curve_tables=metric_tables(data.curve),
        curve_plots=metric_plots(data.curve, seed=data.seed, heading=CURVE_HEADING),
        retention=[
            (protocol, point.num_edits, item)
            for point in data.curve
            for protocol, item in point.retention.items()
        ],
        examples=data.examples[:MAX_EXAMPLES],
        worst_cases=data.worst_cases[:MAX_WORST_CASES],
        rejects=data.rejects[:MAX_REJECTS],
        reject_counts=Counter(reject.error_type for reject in data.rejects).most_common(),
        pairs=data.similar_pairs[:MAX_PAIRS],
        longest_stage_s=max((stage.duration_s for stage in data.stages), default=0.0),
    )


def report_tiles(data: ReportData) -> list[Tile]:
    """The numbers of the first screen; each metric states its protocol and sample count."""
    num_new = data.num_edits - data.num_edits_before
    held = f"{num_new:,} new, {data.num_edits_before:,} already in the bank"
    speed = f"{num_new / data.duration_s:.1f} new edits per second" if data.duration_s > 0 else ""
    return [
        Tile(
            label="edits in the bank",
            value=count(data.num_edits),
            note=held if data.num_edits_before else "all added in this run",
        ),
        *_metric_tiles(data.metrics),
        Tile(
            label="rejects",
            value=count(data.num_rejects),
            note="listed below, with reasons" if data.num_rejects else "nothing was rejected",
            is_alert=data.num_rejects > 0,
        ),
        Tile(label="wall time", value=duration(data.duration_s), note=speed),
    ]


def _metric_tiles(metrics: Sequence[CurvePoint]) -> list[Tile]:
    """Metrics at the largest number of edits that has them, and the paper's average at the end."""
    points = sorted(metrics, key=lambda point: point.num_edits)
    tiles = []
    for kind, protocol in HEADLINE_METRICS:
        if point := _last_with(points, kind, protocol):
            item = point.summary[kind, protocol]
            note = f"{spell(protocol)}, n = {item.num_samples:,} at {point.num_edits:,} edits"
            tiles.append(Tile(label=spell(kind), value=percent(item.mean), note=note))
    if points:
        tiles += false_activation_tiles(points[-1].summary, points[-1].budget)
        note = f"{spell(TEACHER_FORCED)}, {points[-1].num_edits:,} edits"
        tiles += average_tiles(points[-1].summary, note)
    return tiles


def _last_with(points: Sequence[CurvePoint], kind: ProbeKind, protocol: str) -> CurvePoint | None:
    return next((p for p in reversed(points) if (kind, protocol) in p.summary), None)
