"""Metrics arranged for a page: one table and its plots for each protocol, never two in one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.reports.data import CurvePoint
from infra.reports.formats import spell
from infra.reports.plots import Line, Plot, draw_by_num_edits, plot_by_num_edits, plot_name
from liveedit_core.evaluation.probes import FREE_GENERATION, PROTOCOLS, TEACHER_FORCED
from liveedit_core.evaluation.summaries import BY_CONSTRUCTION, MetricSummary
from liveedit_core.schema import ProbeKind

PROTOCOL_NOTES = {
    TEACHER_FORCED: "share of the target's tokens that are the model's first choice when the "
    "target's earlier tokens are given",
    FREE_GENERATION: "greedy answer equals the target after normalisation",
}

METRIC_NOTES = {
    ProbeKind.RELIABILITY: "the edit itself: its image and its prompt",
    ProbeKind.TEXT_GENERALITY: "the image of the edit, its prompt rephrased",
    ProbeKind.MODAL_GENERALITY: "another image of the same entity, the same prompt",
    ProbeKind.TEXT_LOCALITY: "an unrelated question without an image: the answer must not change",
    ProbeKind.MODAL_LOCALITY: "an unrelated image and question: the answer must not change",
    ProbeKind.IMAGE_SWAP_LOCALITY: "the prompt on another image: the answer must not change",
    ProbeKind.PROMPT_SWAP_LOCALITY: "another question on the image: the answer must not change",
    ProbeKind.PORTABILITY: "a question whose answer follows from the edit",
}
"""What each kind of probe asks."""

CURVE_HEADING = "Lifelong curve: "
"""Start of the titles of the lifelong curve's plots, and so of their file names and ids."""


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """Metrics of one protocol: a row for each kind of probe, a column for each number of edits."""

    protocol: str
    points: Sequence[CurvePoint]
    rows: Sequence[tuple[ProbeKind, Sequence[MetricSummary | None]]]

    @property
    def note(self) -> str:
        """How the protocol scores."""
        return PROTOCOL_NOTES[self.protocol]

    @property
    def num_cases(self) -> list[int]:
        """Cases scored under this protocol, for each column."""
        columns = zip(*(cells for _, cells in self.rows), strict=True)
        return [max(cell.num_cases for cell in column if cell) for column in columns]


def metric_tables(points: Sequence[CurvePoint]) -> list[MetricTable]:
    """One table for each protocol that was scored."""
    tables = []
    for protocol in PROTOCOLS:
        by_edits = {
            point.num_edits: point
            for point in points
            if any(name == protocol for _, name in point.summary)
        }
        columns = [by_edits[count] for count in sorted(by_edits)]
        rows = [
            (kind, [point.summary.get((kind, protocol)) for point in columns]) for kind in ProbeKind
        ]
        if columns:
            shown = [(kind, cells) for kind, cells in rows if any(cells)]
            tables.append(MetricTable(protocol=protocol, points=columns, rows=shown))
    return tables


def metric_plots(points: Sequence[CurvePoint], *, seed: int, heading: str = "") -> list[Plot]:
    """Accuracy, locality and the filter by number of edits; `heading` starts each title."""
    return [
        Plot(
            title=curves.title,
            svg=plot_by_num_edits(curves.lines, curves.title),
            caption=f"Protocol: {spell(curves.protocol)}. Seed {seed}. Samples at each point: "
            f"{curves.samples}." + (" Bands: 95 % intervals." if curves.has_intervals else ""),
        )
        for curves in _curves(points, heading)
    ]


def draw_metric_plots(
    folder: Path, points: Sequence[CurvePoint], *, heading: str = ""
) -> list[Path]:
    """Draw the same plots as PNG files, named by their titles; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for curves in _curves(points, heading):
        paths.append(folder / f"{plot_name(curves.title)}.png")
        draw_by_num_edits(paths[-1], curves.lines, title=curves.title)
    return paths


@dataclass(frozen=True, kw_only=True)
class _Curves:
    """The lines of one plot."""

    title: str
    protocol: str
    lines: Sequence[Line]
    samples: str

    @property
    def has_intervals(self) -> bool:
        return any(line.intervals for line in self.lines)


_Samples = Sequence[tuple[int, MetricSummary]]
"""Number of edits, and the metric there."""


def _curves(points: Sequence[CurvePoint], heading: str) -> list[_Curves]:
    # The axis is logarithmic: an evaluation before the first edit is in the table only.
    ordered = sorted((p for p in points if p.num_edits > 0), key=lambda point: point.num_edits)
    protocols = [
        name for name in PROTOCOLS if any(key[1] == name for p in points for key in p.summary)
    ]
    found = []
    for protocol in protocols:
        series = {
            kind: [
                (point.num_edits, item)
                for point in ordered
                if (item := point.summary.get((kind, protocol)))
            ]
            for kind in ProbeKind
        }
        taught = {kind: rows for kind, rows in series.items() if rows and not kind.is_locality}
        unchanged = {kind: rows for kind, rows in series.items() if rows and kind.is_locality}
        for title, chosen in (("What was taught", taught), ("What must stay", unchanged)):
            if chosen:
                found.append(_curves_of(heading + title, protocol, chosen, _mean_line))
        if taught and protocol == protocols[0]:  # routing does not depend on the protocol
            title = f"{heading}Own expert kept by the filter"
            found.append(_curves_of(title, protocol, taught, _own_kept_line))
    return found


def _mean_line(label: str, samples: _Samples, is_dashed: bool) -> Line:
    return Line(
        label=label,
        x=[num_edits for num_edits, _ in samples],
        y=[item.mean for _, item in samples],
        is_dashed=is_dashed,
        intervals=[(item.interval.low, item.interval.high) for _, item in samples],
    )


def _own_kept_line(label: str, samples: _Samples, is_dashed: bool) -> Line:
    return Line(
        label=label,
        x=[num_edits for num_edits, _ in samples],
        y=[item.own_kept_fraction for _, item in samples],
        is_dashed=is_dashed,
    )


def _curves_of(
    title: str,
    protocol: str,
    series: Mapping[ProbeKind, _Samples],
    line: Callable[[str, _Samples, bool], Line],
) -> _Curves:
    lines, samples = [], []
    for kind, items in series.items():
        is_fixed = kind in BY_CONSTRUCTION
        label = spell(kind) + (" (by construction)" if is_fixed else "")
        lines.append(line(label, items, is_fixed))
        samples.append(f"{spell(kind)} {' / '.join(f'{item.num_samples:,}' for _, item in items)}")
    return _Curves(
        title=f"{title}, {spell(protocol)}",
        protocol=protocol,
        lines=lines,
        samples="; ".join(samples),
    )
