"""Retention: what is left of an edit once others followed it.

Each edit is asked (its own image and prompt) when it was the last one taught, and again after all N
of its group.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.statistics import PairedDifference, paired_difference
from liveedit_core.schema import ProbeKind


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Reliability right after an edit and after N edits, under one protocol."""

    right_after: float
    after_all: float
    difference: PairedDifference
    """After all minus right after, over the same edits."""


def retention(
    right_after: Iterable[ProbeResult],
    after_all: Iterable[ProbeResult],
    entities: Mapping[str, str],
    *,
    seed: int,
) -> dict[str, Retention]:
    """Retention by protocol, over the edits that were scored at both times; `entities` names the
    entity of each case (`schema.entity_of`)."""
    earlier, later = _by_protocol(right_after), _by_protocol(after_all)
    found = {}
    for protocol in earlier:
        cases = sorted(earlier[protocol].keys() & later.get(protocol, {}).keys())
        if not cases:
            continue
        old = [earlier[protocol][case] for case in cases]
        new = [later[protocol][case] for case in cases]
        found[protocol] = Retention(
            right_after=sum(old) / len(old),
            after_all=sum(new) / len(new),
            difference=paired_difference(
                new, old, groups=[entities.get(case, case) for case in cases], seed=seed
            ),
        )
    return found


def retention_values(by_protocol: Mapping[str, Retention]) -> dict[str, float]:
    """ "retention.right_after.teacher_forced" and so on, as logged to MLflow."""
    return {
        f"retention.{name}.{protocol}": value
        for protocol, item in by_protocol.items()
        for name, value in (
            ("right_after", item.right_after),
            ("after_all", item.after_all),
            ("difference", item.difference.mean),
        )
    }


def _by_protocol(results: Iterable[ProbeResult]) -> dict[str, dict[str, float]]:
    """Reliability by protocol and case."""
    scores: dict[str, dict[str, float]] = {}
    for item in results:
        if item.kind is ProbeKind.RELIABILITY:
            scores.setdefault(item.protocol, {})[item.case_id] = item.score
    return scores
