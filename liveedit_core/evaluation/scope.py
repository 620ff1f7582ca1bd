"""The scope of each edit in four classes, from the exact results of its case's probes.

    proper              every probe that should change is right, every one that should stay stays
    under-generalised   some probe that should change is wrong
    over-generalised    some probe that should stay changed
    both                the last two together

Portability and the generality of neighbours are left out: no expert is written for their questions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.statistics import Interval, share_interval
from liveedit_core.schema import ProbeKind

_OTHER_FACTS = (ProbeKind.PORTABILITY, ProbeKind.NEIGHBOUR_GENERALITY)


class Scope(StrEnum):
    PROPER = "proper"
    UNDER = "under-generalised"
    OVER = "over-generalised"
    BOTH = "both"


@dataclass(frozen=True, kw_only=True)
class ScopeShare:
    """How many cases are of one class under one protocol."""

    num_in_class: int
    num_cases: int
    """Cases with probes of both sorts; the others have no class."""
    fraction: float
    interval: Interval
    """95 %, over entities."""


ScopeSummary = Mapping[tuple[Scope, str], ScopeShare]
"""By class and protocol."""


def scope_classes(
    results: Iterable[ProbeResult], entities: Mapping[str, str], *, seed: int = 0
) -> dict[tuple[Scope, str], ScopeShare]:
    """Shares of the four classes; `entities` names the entity by case_id."""
    found: dict[str, dict[str, dict[bool, bool]]] = {}
    for result in results:
        if result.kind not in _OTHER_FACTS:
            is_right = found.setdefault(result.protocol, {}).setdefault(result.case_id, {})
            side = result.kind.is_locality
            is_right[side] = is_right.get(side, True) and result.is_exact
    shares = {}
    for protocol in sorted(found):
        classes = {
            case_id: _class_of(changes=is_right[False], stays=is_right[True])
            for case_id, is_right in sorted(found[protocol].items())
            if len(is_right) == 2
        }
        groups = [entities.get(case_id, case_id) for case_id in classes]
        for scope in Scope if classes else ():
            members = [float(one is scope) for one in classes.values()]
            shares[scope, protocol] = ScopeShare(
                num_in_class=int(sum(members)),
                num_cases=len(members),
                fraction=sum(members) / len(members),
                interval=share_interval(members, groups=groups, seed=seed),
            )
    return shares


def _class_of(*, changes: bool, stays: bool) -> Scope:
    if changes:
        return Scope.PROPER if stays else Scope.OVER
    return Scope.UNDER if stays else Scope.BOTH
