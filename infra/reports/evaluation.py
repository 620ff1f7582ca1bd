"""The page of one evaluation of one bank version."""

from infra.reports.data import CurvePoint, EvaluationReportData
from infra.reports.formats import count, duration, interval, percent, spell
from infra.reports.metrics import metric_plots, metric_tables, tag_tables
from infra.reports.page import (
    HEADLINE_METRICS,
    Tile,
    average_tiles,
    false_activation_tiles,
    render_page,
)
from liveedit_core.evaluation.probes import TEACHER_FORCED

MAX_EXAMPLES = 30
MAX_WORST_CASES = 24


def render_evaluation_report(data: EvaluationReportData) -> str:
    this = CurvePoint(
        num_edits=data.version.num_edits,
        summary=data.summary,
        by_variant=data.by_variant,
        by_tag=data.by_tag,
        scope=data.scope,
    )
    others = [point for point in data.curve if point.num_edits != this.num_edits]
    points = [this, *others]
    return render_page(
        "evaluation_report.html.j2",
        title=f"Evaluation of {data.version.bank}, version {data.version.bank_version}",
        subtitle=data.version.label,
        data=data,
        tiles=evaluation_tiles(data),
        tables=metric_tables([this]),
        this=this,
        tag_tables=tag_tables(this),
        curve_tables=metric_tables(points) if others else [],
        plots=metric_plots(points, seed=data.seed),
        examples=data.examples[:MAX_EXAMPLES],
        worst_cases=data.worst_cases[:MAX_WORST_CASES],
    )


def evaluation_tiles(data: EvaluationReportData) -> list[Tile]:
    """The numbers of the first screen; each metric states its protocol and sample count."""
    version = data.version
    state = "complete" if version.is_complete else "not complete: some probes have no result"
    tiles = [
        Tile(
            label=f"version of bank {version.bank}",
            value=count(version.bank_version),
            note=f"holds {version.num_edits:,} edits",
        ),
        Tile(
            label="cases evaluated",
            value=count(len({result.case_id for result in version.results})),
            note=state,
            is_alert=not version.is_complete,
        ),
    ]
    for kind, protocol in HEADLINE_METRICS:
        if item := data.summary.get((kind, protocol)):
            num_samples = f"n = {item.num_samples:,}".replace(" ", "\N{NO-BREAK SPACE}")
            note = f"{spell(protocol)}, 95 %: {interval(item.interval)}, {num_samples}"
            tiles.append(Tile(label=spell(kind), value=percent(item.mean), note=note))
    tiles += false_activation_tiles(data.summary, version.budget)
    tiles += average_tiles(data.summary, spell(TEACHER_FORCED))
    if data.duration_s > 0:
        tiles.append(Tile(label="time to score", value=duration(data.duration_s)))
    return tiles
