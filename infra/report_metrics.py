"""Metrics of a report, arranged: one table and its plots for each protocol, never two in one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from infra.plots import Line, plot_by_num_edits
from infra.report_data import MetricRow
from liveedit_core.schema import ProbeKind

BY_CONSTRUCTION = frozenset({ProbeKind.TEXT_LOCALITY.value})
"""Without a picture there are no image rows to compare, so no expert can ever be kept."""

PROTOCOL_NOTES = {
    "teacher_forced": "share of the target's tokens that come first when the tokens before them "
    "are given",
    "free_generation": "greedy answer equals the target after normalisation",
}

_TAUGHT = [kind.value for kind in ProbeKind if not kind.is_locality]
_UNCHANGED = [kind.value for kind in ProbeKind if kind.is_locality]
_KIND_ORDER = [kind.value for kind in ProbeKind]
_PROTOCOL_ORDER = list(PROTOCOL_NOTES)


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """Means of one protocol: a row for each kind, a column for each number of edits."""

    protocol: str
    note: str
    num_edits: Sequence[int]
    kinds: Sequence[tuple[str, bool, Sequence[MetricRow | None]]]
    """Kind, whether its value is fixed by construction, and its cells."""


@dataclass(frozen=True, kw_only=True)
class MetricPlot:
    """One plot with what a reader must know to trust it."""

    title: str
    svg: Markup
    caption: str


def metric_tables(metrics: Sequence[MetricRow]) -> list[MetricTable]:
    """One table for each protocol that was measured."""
    tables = []
    for protocol in _ordered({row.protocol for row in metrics}, _PROTOCOL_ORDER):
        rows = {(row.kind, row.num_edits): row for row in metrics if row.protocol == protocol}
        counts = sorted({num_edits for _, num_edits in rows})
        kinds = _ordered({kind for kind, _ in rows}, _KIND_ORDER)
        tables.append(
            MetricTable(
                protocol=protocol,
                note=PROTOCOL_NOTES.get(protocol, ""),
                num_edits=counts,
                kinds=[
                    (kind, kind in BY_CONSTRUCTION, [rows.get((kind, n)) for n in counts])
                    for kind in kinds
                ],
            )
        )
    return tables


def metric_plots(metrics: Sequence[MetricRow], *, seed: int) -> list[MetricPlot]:
    """What was taught, what must not change, and the filter, each by number of edits."""
    plots = []
    protocols = _ordered({row.protocol for row in metrics}, _PROTOCOL_ORDER)
    for protocol in protocols:
        # The axis is logarithmic: an examination before the first edit is in the table only.
        rows = [row for row in metrics if row.protocol == protocol and row.num_edits > 0]
        for title, kinds in (("What was taught", _TAUGHT), ("What must stay", _UNCHANGED)):
            chosen = [row for row in rows if row.kind in kinds]
            if chosen:
                plots.append(_plot(title, protocol, chosen, seed, _mean))
        kept = [row for row in rows if row.kind in _TAUGHT and row.own_kept_fraction is not None]
        if kept and protocol == protocols[0]:  # routing does not depend on how answers are scored
            plots.append(_plot("Own expert kept by the filter", protocol, kept, seed, _own_kept))
    return plots


def spell(name: str) -> str:
    """An identifier as a reader writes it: "text_locality" -> "text locality"."""
    return "teacher-forced" if name == "teacher_forced" else name.replace("_", " ")


def _mean(row: MetricRow) -> float:
    return row.mean


def _own_kept(row: MetricRow) -> float:
    return row.own_kept_fraction or 0.0


def _plot(
    title: str,
    protocol: str,
    rows: Sequence[MetricRow],
    seed: int,
    value: Callable[[MetricRow], float],
) -> MetricPlot:
    lines, samples = [], []
    for kind in _ordered({row.kind for row in rows}, _KIND_ORDER):
        points = sorted((row for row in rows if row.kind == kind), key=lambda row: row.num_edits)
        is_fixed = kind in BY_CONSTRUCTION
        lines.append(
            Line(
                label=spell(kind) + (" (by construction)" if is_fixed else ""),
                num_edits=[row.num_edits for row in points],
                fractions=[value(row) for row in points],
                is_dashed=is_fixed,
            )
        )
        samples.append(f"{spell(kind)} {' / '.join(f'{row.num_samples:,}' for row in points)}")
    heading = f"{title}, {spell(protocol)}"
    name = "-".join(heading.replace(",", "").lower().split())
    return MetricPlot(
        title=heading,
        svg=Markup(plot_by_num_edits(lines, name=name, description=heading)),
        caption=f"Protocol: {spell(protocol)}. Seed {seed}. Samples at each point: "
        f"{'; '.join(samples)}.",
    )


def _ordered(names: set[str], order: Sequence[str]) -> list[str]:
    """Known names in their order, then the others by the alphabet."""
    return sorted(names, key=lambda name: (order.index(name) if name in order else 999, name))
