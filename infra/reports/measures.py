"""What is measured about editors: names, titles, and which are shown together."""

from collections.abc import Mapping
from typing import NamedTuple

from infra.reports.formats import spell
from infra.reports.metrics import METRIC_NOTES
from liveedit_core.evaluation.scope import Scope
from liveedit_core.schema import PAPER_METRICS, ProbeKind

TRANSFER = "backward_transfer"
"""The only measure that is a difference, and may be below zero."""


class MeasureKind(NamedTuple):
    title: str
    note: str
    is_better_low: bool = False


_SCOPE_NOTES = {
    Scope.PROPER: "edits whose probes all answer as they should",
    Scope.UNDER: "edits with a probe of the edit, its generality or a correction that is not "
    "entirely right",
    Scope.OVER: "edits with an answer that must not change and did",
    Scope.BOTH: "edits that are under- and over-generalised",
}

MEASURES: Mapping[str, MeasureKind] = {
    "average": MeasureKind("average", "mean of the paper's five metrics"),
    "average_without_text_locality": MeasureKind(
        "without text locality", "the same without the metric that many editors cannot lose"
    ),
    **{str(kind): MeasureKind(spell(kind), METRIC_NOTES[kind]) for kind in ProbeKind},
    "right_after": MeasureKind(
        "right after", "reliability of each edit when it was the last one taught"
    ),
    "after_all": MeasureKind("after all N", "reliability of the same edits after all N"),
    TRANSFER: MeasureKind(
        "backward transfer",
        "after all N minus right after, in points: what later edits cost or give earlier ones",
    ),
    **{
        f"scope.{scope}": MeasureKind(scope, _SCOPE_NOTES[scope], scope is not Scope.PROPER)
        for scope in Scope
    },
    "unrelated.changed": MeasureKind(
        "answer changed",
        "questions about entities of which nothing was taught that get another answer than the "
        "unedited model's",
        True,
    ),
    "unrelated.kept": MeasureKind(
        "expert kept",
        "the same questions with any expert kept, for editors that have experts; where none is "
        "kept the answer is the unedited one, bit for bit",
        True,
    ),
}
"""Every measure that has a protocol, by name."""

COSTS = ("edit_s", "cold_edit_s", "fixed_bytes", "stored_bytes")
"""Measures that no protocol changes."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Metrics of the paper": ("average", *map(str, PAPER_METRICS)),
    "Further metrics": (
        "average_without_text_locality",
        *(str(kind) for kind in ProbeKind if kind not in PAPER_METRICS),
    ),
    "Retention": ("right_after", "after_all", TRANSFER),
    "Scope": tuple(f"scope.{scope}" for scope in Scope),
    "Unrelated questions": ("unrelated.changed", "unrelated.kept"),
}
"""Measures that one figure and one table show."""
