"""Metrics of a report, arranged: one table and its plots for each protocol, never two in one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from infra.reports.data import CurvePoint, MetricRow
from infra.reports.plots import Line, draw_by_num_edits, plot_by_num_edits
from liveedit_core.schema import ProbeKind

BY_CONSTRUCTION = frozenset({ProbeKind.TEXT_LOCALITY.value})
"""Without an image there are no image rows to compare, so no expert can ever be kept."""

PROTOCOL_NOTES = {
    "teacher_forced": "share of the target's tokens that come first when the tokens before them "
    "are given",
    "free_generation": "greedy answer equals the target after normalisation",
}

METRIC_NOTES = {
    "reliability": "the taught fact itself: its image and its question",
    "text_generality": "the taught image, the question in other words",
    "modal_generality": "another image of the same entity, the same question",
    "text_locality": "an unrelated question without an image: the answer must stay",
    "modal_locality": "an unrelated image and question: the answer must stay",
    "image_swap_locality": "the taught question on another image: the answer must stay",
    "prompt_swap_locality": "another question on the taught image: the answer must stay",
    "portability": "a question whose answer follows from the taught fact",
}
"""What each kind of probe asks."""

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


def rows_by_protocol(metrics: Sequence[MetricRow]) -> list[tuple[str, list[MetricRow]]]:
    """Rows of each protocol, in the order of a page."""
    order = ordered_kinds({row.kind for row in metrics})
    return [
        (
            protocol,
            sorted(
                (row for row in metrics if row.protocol == protocol),
                key=lambda row: (row.num_edits, order.index(row.kind)),
            ),
        )
        for protocol in _ordered({row.protocol for row in metrics}, _PROTOCOL_ORDER)
    ]


def metric_plots(metrics: Sequence[MetricRow], *, seed: int, heading: str = "") -> list[MetricPlot]:
    """What was taught, what must not change, and the filter, each by number of edits.

    Args:
        metrics: What to draw.
        seed: Of samples and intervals.
        heading: Begins each title; tells plots of one page apart that show different rows.
    """
    return [
        MetricPlot(
            title=curves.title,
            svg=Markup(plot_by_num_edits(curves.lines, name=curves.name, description=curves.title)),
            caption=f"Protocol: {spell(curves.protocol)}. Seed {seed}. Samples at each point: "
            f"{curves.samples}." + (" Bands: 95 % intervals." if curves.has_intervals else ""),
        )
        for curves in _curves(metrics, heading)
    ]


def draw_metric_plots(
    folder: Path, metrics: Sequence[MetricRow], *, heading: str = ""
) -> list[Path]:
    """Draw the same plots as PNG files, named by their titles; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for curves in _curves(metrics, heading):
        paths.append(folder / f"{curves.name}.png")
        draw_by_num_edits(paths[-1], curves.lines, title=curves.title)
    return paths


def ordered_kinds(kinds: set[str]) -> list[str]:
    """Kinds of probes in the order of a page."""
    return _ordered(kinds, _KIND_ORDER)


def spell(name: str) -> str:
    """An identifier as a reader writes it: "text_locality" -> "text locality"."""
    return "teacher-forced" if name == "teacher_forced" else name.replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class _Curves:
    """The lines of one plot."""

    title: str
    protocol: str
    lines: Sequence[Line]
    samples: str

    @property
    def name(self) -> str:
        """Names a file, and tells ids of one plot from those of another."""
        return "-".join(self.title.replace(",", "").replace(":", "").lower().split())

    @property
    def has_intervals(self) -> bool:
        return any(line.intervals for line in self.lines)


def _curves(metrics: Sequence[MetricRow], heading: str) -> list[_Curves]:
    found = []
    protocols = _ordered({row.protocol for row in metrics}, _PROTOCOL_ORDER)
    for protocol in protocols:
        # The axis is logarithmic: an examination before the first edit is in the table only.
        rows = [row for row in metrics if row.protocol == protocol and row.num_edits > 0]
        for title, kinds in (("What was taught", _TAUGHT), ("What must stay", _UNCHANGED)):
            chosen = [row for row in rows if row.kind in kinds]
            if chosen:
                found.append(_curves_of(heading + title, protocol, chosen, _mean))
        kept = [row for row in rows if row.kind in _TAUGHT and row.own_kept_fraction is not None]
        if kept and protocol == protocols[0]:  # routing does not depend on how answers are scored
            title = f"{heading}Own expert kept by the filter"
            found.append(_curves_of(title, protocol, kept, _own_kept))
    return found


def _mean(row: MetricRow) -> float:
    return row.mean


def _own_kept(row: MetricRow) -> float:
    return row.own_kept_fraction or 0.0


def _curves_of(
    title: str, protocol: str, rows: Sequence[MetricRow], value: Callable[[MetricRow], float]
) -> _Curves:
    lines, samples = [], []
    for kind in _ordered({row.kind for row in rows}, _KIND_ORDER):
        points = sorted((row for row in rows if row.kind == kind), key=lambda row: row.num_edits)
        is_fixed = kind in BY_CONSTRUCTION
        intervals = [(row.low, row.high) for row in points if row.low is not None]
        has_all = value is _mean and len(intervals) == len(points)
        lines.append(
            Line(
                label=spell(kind) + (" (by construction)" if is_fixed else ""),
                num_edits=[row.num_edits for row in points],
                fractions=[value(row) for row in points],
                is_dashed=is_fixed,
                intervals=[(low or 0.0, high or 0.0) for low, high in intervals] if has_all else (),
            )
        )
        samples.append(f"{spell(kind)} {' / '.join(f'{row.num_samples:,}' for row in points)}")
    return _Curves(
        title=f"{title}, {spell(protocol)}",
        protocol=protocol,
        lines=lines,
        samples="; ".join(samples),
    )


def _ordered(names: set[str], order: Sequence[str]) -> list[str]:
    """Known names in their order, then the others by the alphabet."""
    return sorted(names, key=lambda name: (order.index(name) if name in order else 999, name))


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
