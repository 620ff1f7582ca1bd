"""Metrics arranged for a page: one table and its plots for each protocol, never two in one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from infra.reports.data import CurvePoint
from infra.reports.formats import spell
from infra.reports.plots import Line, Plot, draw_by_num_edits, plot_by_num_edits, plot_name
from liveedit_core.evaluation.probes import FREE_GENERATION, PROTOCOLS, TEACHER_FORCED
from liveedit_core.evaluation.summaries import BY_CONSTRUCTION, LabelSummary, MetricSummary
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
    ProbeKind.NEIGHBOUR_LOCALITY: "a similar sample that is not taught and was answered rightly: "
    "the answer must not change",
    ProbeKind.NEIGHBOUR_GENERALITY: "a similar sample, scored against its own answer",
    ProbeKind.PORTABILITY: "a question whose answer follows from the edit; where no expert is kept "
    "for it, this is the unedited backbone's answer by the structure of the method",
    ProbeKind.CORRECTION: "a fact taught earlier in other words: the correction must answer",
}
"""What each kind of probe asks."""

CURVE_HEADING = "Lifelong curve: "
"""Start of the titles of the lifelong curve's plots, and so of their file names and ids."""


class MetricRow(NamedTuple):
    """One metric, or one variant of its probes, with a cell for each column."""

    kind: ProbeKind
    variant: str
    """Empty: all probes of the kind."""
    cells: Sequence[MetricSummary | None]


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """Metrics of one protocol: a row for each kind of probe and each variant, a column for each
    number of edits."""

    protocol: str
    points: Sequence[CurvePoint]
    rows: Sequence[MetricRow]

    @property
    def note(self) -> str:
        return PROTOCOL_NOTES[self.protocol]

    @property
    def num_cases(self) -> list[int]:
        """Cases scored under this protocol, for each column."""
        columns = zip(*(row.cells for row in self.rows), strict=True)
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
        if columns:
            rows = _rows(columns, protocol)
            tables.append(MetricTable(protocol=protocol, points=columns, rows=rows))
    return tables


def _rows(columns: Sequence[CurvePoint], protocol: str) -> list[MetricRow]:
    rows = []
    for kind in ProbeKind:
        rows.append(MetricRow(kind, "", [point.summary.get((kind, protocol)) for point in columns]))
        for variant in sorted({v for p in columns for k, v, _ in p.by_variant if k == kind}):
            key = kind, variant, protocol
            rows.append(MetricRow(kind, variant, [p.by_variant.get(key) for p in columns]))
    return [row for row in rows if any(row.cells)]


@dataclass(frozen=True, kw_only=True)
class TagTable:
    """Metrics of one protocol: a row for each value of a tag of the cases, a column for each kind
    of probe."""

    tag: str
    protocol: str
    kinds: Sequence[ProbeKind]
    rows: Sequence[tuple[str, Sequence[MetricSummary | None]]]


def tag_tables(point: CurvePoint) -> list[TagTable]:
    """A table for each tag and protocol; without the metrics that are 1 by construction."""
    tables = []
    for tag, by_value in point.by_tag.items():
        for protocol in PROTOCOLS:
            found = {kind for kind, _, name in by_value if name == protocol} - BY_CONSTRUCTION
            kinds = [kind for kind in ProbeKind if kind in found]
            rows = [
                (value, [by_value.get((kind, value, protocol)) for kind in kinds])
                for value in tag_values(by_value)
            ]
            if kinds:
                tables.append(TagTable(tag=tag, protocol=protocol, kinds=kinds, rows=rows))
    return tables


def tag_values(by_value: LabelSummary) -> list[str]:
    """Values of a tag, in order: "3-5" before "11-24" before "photo"."""

    def rank(value: str) -> tuple[float, str]:
        start = value.partition("-")[0]
        return (float(start) if start.isdecimal() else math.inf, value)

    return sorted({value for _, value, _ in by_value}, key=rank)


def metric_plots(points: Sequence[CurvePoint], *, seed: int, heading: str = "") -> list[Plot]:
    """Accuracy, locality and the filter by number of edits; `heading` starts each title."""
    return [
        Plot(title=title, svg=plot_by_num_edits(lines, title), caption=caption)
        for title, lines, caption in _curves(points, heading, seed)
    ]


def draw_metric_plots(
    folder: Path, points: Sequence[CurvePoint], *, heading: str = ""
) -> list[Path]:
    """Draw the same plots as PNG files, named by their titles; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for title, lines, _ in _curves(points, heading, seed=0):
        paths.append(folder / f"{plot_name(title)}.png")
        draw_by_num_edits(paths[-1], lines, title=title)
    return paths


_Curves = tuple[str, Sequence[Line], str]
"""Title, lines and caption of one plot."""


def _curves(points: Sequence[CurvePoint], heading: str, seed: int) -> list[_Curves]:
    # The axis is logarithmic: an evaluation before the first edit is in the table only.
    ordered = sorted((p for p in points if p.num_edits > 0), key=lambda point: point.num_edits)
    scored = {protocol for point in points for _, protocol in point.summary}
    protocols = [name for name in PROTOCOLS if name in scored]
    accuracy = [kind for kind in ProbeKind if not kind.is_locality]
    locality = [kind for kind in ProbeKind if kind.is_locality]
    found = []
    for protocol in protocols:
        found.append(_curves_of(f"{heading}What was taught", ordered, protocol, accuracy, seed))
        found.append(_curves_of(f"{heading}What must stay", ordered, protocol, locality, seed))
        if protocol == protocols[0]:  # routing does not depend on the protocol
            title = f"{heading}Own expert kept by the filter"
            found.append(_curves_of(title, ordered, protocol, accuracy, seed, is_mean=False))
    return [curves for curves in found if curves[1]]


def _curves_of(
    title: str,
    points: Sequence[CurvePoint],
    protocol: str,
    kinds: Sequence[ProbeKind],
    seed: int,
    *,
    is_mean: bool = True,
) -> _Curves:
    """Means with their intervals, or how often the own expert was kept."""
    lines, samples = [], []
    for kind in kinds:
        rows = [
            (point.num_edits, item)
            for point in points
            if (item := point.summary.get((kind, protocol)))
        ]
        if not rows:
            continue
        is_fixed = kind in BY_CONSTRUCTION
        lines.append(
            Line(
                label=spell(kind) + (" (by construction)" if is_fixed else ""),
                x=[num_edits for num_edits, _ in rows],
                y=[item.mean if is_mean else item.own_kept_fraction for _, item in rows],
                is_dashed=is_fixed,
                intervals=[item.interval for _, item in rows] if is_mean else (),
            )
        )
        samples.append(f"{spell(kind)} {' / '.join(f'{item.num_samples:,}' for _, item in rows)}")
    caption = f"Protocol: {spell(protocol)}. Seed {seed}. Samples at each point: "
    bands = " Bands: 95 % intervals." if is_mean else ""
    return f"{title}, {spell(protocol)}", lines, f"{caption}{'; '.join(samples)}.{bands}"
