"""Retention: what is left of an edit once others followed it.

Each edit is asked (its own image and prompt) when it was the last one taught, and again after all N
of its group. With R_ij the reliability of edit j after i edits, the mean difference is the backward
transfer of Lopez-Paz and Ranzato (2017): mean over j < N of R_Nj - R_jj.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.statistics import (
    Interval,
    PairedDifference,
    change_interval,
    paired_difference,
    share_interval,
)
from liveedit_core.schema import ProbeKind


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Reliability right after an edit and after N edits, under one protocol."""

    right_after: float
    right_after_interval: Interval
    """95 %, over entities."""
    after_all: float
    after_all_interval: Interval
    difference: PairedDifference
    """After all minus right after, over the same edits: the backward transfer."""


def retention(
    right_after: Iterable[ProbeResult],
    after_all: Iterable[ProbeResult],
    entities: Mapping[str, str],
    *,
    seed: int,
    last: Collection[str] = (),
) -> dict[str, Retention]:
    """Retention by protocol, over the edits that were scored at both times; `entities` names the
    entity of each case (`schema.entity_of`). The cases in `last`, which no edit followed, are left
    out: they cannot have lost anything yet."""
    earlier, later = _by_protocol(right_after), _by_protocol(after_all)
    found = {}
    for protocol in earlier:
        both = earlier[protocol].keys() & later.get(protocol, {}).keys()
        cases = sorted(both - set(last))
        if not cases:
            continue
        old = [earlier[protocol][case] for case in cases]
        new = [later[protocol][case] for case in cases]
        groups = [entities.get(case, case) for case in cases]
        difference = paired_difference(new, old, groups=groups, seed=seed)
        bounds = change_interval(new, old, groups=groups, seed=seed)
        found[protocol] = Retention(
            right_after=sum(old) / len(old),
            right_after_interval=share_interval(old, groups=groups, seed=seed),
            after_all=sum(new) / len(new),
            after_all_interval=share_interval(new, groups=groups, seed=seed),
            difference=replace(difference, low=bounds.low, high=bounds.high),
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
