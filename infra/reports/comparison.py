"""The page that compares two versions of a bank."""

from collections.abc import Sequence

from infra.reports.data import MAX_FLIPS, ComparisonReportData
from infra.reports.formats import count, percent, points, spell
from infra.reports.metrics import PROTOCOL_NOTES
from infra.reports.page import AVERAGES, Tile, render_page
from liveedit_core.evaluation.comparison import (
    GAINED,
    IMPROVEMENT,
    LOST,
    REGRESSION,
    MetricComparison,
    flip_counts,
    flips_of,
)
from liveedit_core.evaluation.probes import TEACHER_FORCED
from liveedit_core.evaluation.summaries import average_of
from liveedit_core.schema import ProbeKind

TEST_NOTE = (
    "Test: one-sided sign flips over whole entities. Intervals: paired bootstrap over entities. "
    "p-values are corrected after Holm for all metrics of both protocols together."
)
_LEAST_SCALE = 0.01
"""Differences are drawn on a scale of at least one percentage point."""
_KIND_ORDER = list(ProbeKind)


def render_comparison_report(data: ComparisonReportData) -> str:
    old, new = data.old, data.new
    differences = [item.difference for item in data.comparisons]
    reach = [max(abs(d.low), abs(d.high), abs(d.mean)) for d in differences]
    return render_page(
        "comparison_report.html.j2",
        title=f"{new.bank}: version {new.bank_version} against version {old.bank_version}",
        subtitle=f"{new.label} against {old.label}",
        data=data,
        tiles=comparison_tiles(data),
        tables=[
            (name, note, rows)
            for name, note in PROTOCOL_NOTES.items()
            if (rows := _rows(data.comparisons, name))
        ],
        counts=flip_counts(data.pairs),
        scale=max([_LEAST_SCALE, *reach]),
        test_note=TEST_NOTE,
        directions=[
            (
                direction,
                [flip for flip in data.flips if flip.direction == direction][:MAX_FLIPS],
                len(flips_of(data.pairs, direction)),
            )
            for direction in (LOST, GAINED)
        ],
    )


def comparison_tiles(data: ComparisonReportData) -> list[Tile]:
    """The numbers of the first screen."""
    tiles = [
        Tile(
            label=f"{age}: {version.label}",
            value=f"version {version.bank_version:,}",
            note=f"bank {version.bank}, {version.num_edits:,} edits",
        )
        for age, version in (("older", data.old), ("newer", data.new))
    ]
    if data.comparisons:
        tiles.append(_regressions_tile(data.comparisons))
    tiles += _average_tiles(data.comparisons)
    for direction, note in ((LOST, "right before, wrong now"), (GAINED, "wrong before, right now")):
        tiles.append(
            Tile(
                label=f"answers {direction}",
                value=count(len(flips_of(data.pairs, direction))),
                note=f"{note}; under at least one protocol",
            )
        )
    num_cases = len({older.case_id for older, _ in data.pairs})
    note = "the same for both versions"
    return [*tiles, Tile(label="cases compared", value=count(num_cases), note=note)]


def _regressions_tile(comparisons: Sequence[MetricComparison]) -> Tile:
    worse = [item for item in comparisons if item.verdict == REGRESSION]
    num_better = sum(item.verdict == IMPROVEMENT for item in comparisons)
    names = ", ".join(f"{spell(item.kind)} ({spell(item.protocol)})" for item in worse[:3])
    more = f" and {len(worse) - 3} more" if len(worse) > 3 else ""
    return Tile(
        label="regressions",
        value=f"{len(worse)} of {len(comparisons)}",
        note=names + more if worse else f"none; {num_better} improved",
        is_alert=bool(worse),
    )


def _average_tiles(comparisons: Sequence[MetricComparison]) -> list[Tile]:
    forced = [item for item in comparisons if item.protocol == TEACHER_FORCED]
    tiles = []
    for label, kinds, remark in AVERAGES:
        old = average_of({item.kind: item.old_mean for item in forced}, kinds)
        new = average_of({item.kind: item.new_mean for item in forced}, kinds)
        if old is not None and new is not None:
            note = f"{percent(old)} to {percent(new)}, {spell(TEACHER_FORCED)}; {remark}"
            tiles.append(Tile(label=label, value=f"{points(new - old)} points", note=note))
    return tiles


def _rows(comparisons: Sequence[MetricComparison], protocol: str) -> list[MetricComparison]:
    chosen = [item for item in comparisons if item.protocol == protocol]
    return sorted(chosen, key=lambda item: _KIND_ORDER.index(item.kind))
