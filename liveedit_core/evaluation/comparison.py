"""Two bank versions compared on the same probes: which metrics are worse, which answers changed.

For each metric and protocol, a **regression** is a mean difference (newer minus older, over paired
probes) below minus the tolerance whose one-sided sign-flip p-value over whole entities, adjusted
after Holm for all metrics compared, is below alpha. An improvement is the mirror image.

Accuracy is compared only on cases whose edit the older version holds and the newer one did not
replace, locality on all.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from liveedit_core.errors import IntegrityError
from liveedit_core.evaluation.probes import FREE_GENERATION, ProbeResult
from liveedit_core.evaluation.statistics import PairedDifference, holm_adjusted, paired_difference
from liveedit_core.schema import Case, ProbeKind

REGRESSION = "regression"
IMPROVEMENT = "improvement"
NO_DIFFERENCE = "no difference"
WITHIN_TOLERANCE = "within tolerance"
NOT_SIGNIFICANT = "not significant"

LOST = "lost"
"""Right under the older version, wrong under the newer one."""
GAINED = "gained"
"""Wrong under the older version, right under the newer one."""

Pair = tuple[ProbeResult, ProbeResult]
"""One probe under one protocol: older result, newer result."""


@dataclass(frozen=True, kw_only=True)
class MetricComparison:
    """One metric of two versions under one protocol."""

    kind: ProbeKind
    protocol: str
    new_mean: float
    old_mean: float
    difference: PairedDifference
    adjusted_p_value: float
    """After Holm, over all metrics compared."""
    tolerance: float
    is_regression: bool
    is_improvement: bool

    @property
    def name(self) -> str:
        """ "metric.protocol", as in MLflow."""
        return f"{self.kind}.{self.protocol}"

    @property
    def verdict(self) -> str:
        """`REGRESSION`, `IMPROVEMENT`, `NO_DIFFERENCE`, `WITHIN_TOLERANCE` or `NOT_SIGNIFICANT`."""
        if self.is_regression:
            return REGRESSION
        if self.is_improvement:
            return IMPROVEMENT
        if self.difference.mean == 0.0:
            return NO_DIFFERENCE
        is_small = abs(self.difference.mean) <= self.tolerance
        return WITHIN_TOLERANCE if is_small else NOT_SIGNIFICANT

    def sentence(self) -> str:
        found = self.difference
        return (
            f"{self.name}: {self.old_mean:.3f} -> {self.new_mean:.3f} "
            f"({found.mean:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f}, "
            f"tolerance {self.tolerance:g}, adjusted p {self.adjusted_p_value:.2g}, "
            f"{found.num_samples} probes of {found.num_entities} entities)"
        )


def cases_held(cases: Iterable[Case], edit_ids: Collection[str]) -> frozenset[str]:
    """case_ids of the cases whose edit a version holds."""
    held = set(edit_ids)
    return frozenset(case.case_id for case in cases if case.edit.edit_id in held)


def not_replaced(held: Mapping[str, str], newer: Mapping[str, str]) -> set[str]:
    """The edits of a version that a newer one holds or dropped; both are edits by subject_id. What
    was corrected on purpose is left out."""
    return {edit for subject, edit in held.items() if newer.get(subject, edit) == edit}


def in_scope(results: Iterable[ProbeResult], held: Collection[str]) -> list[ProbeResult]:
    """Locality results of all cases, accuracy results of the cases in `held`."""
    return [item for item in results if item.kind.is_locality or item.case_id in held]


def paired_results(old: Iterable[ProbeResult], new: Iterable[ProbeResult]) -> list[Pair]:
    """Results of the probes that both versions were scored on, sorted by their keys."""
    older, newer = ({item.key: item for item in results} for results in (old, new))
    return [(older[key], newer[key]) for key in sorted(older.keys() & newer.keys())]


def compare_results(
    new: Iterable[ProbeResult],
    old: Iterable[ProbeResult],
    *,
    held: Collection[str],
    entities: Mapping[str, str],
    alpha: float,
    num_resamples: int,
    tolerance_of: Callable[[ProbeKind], float],
    seed: int,
) -> list[MetricComparison]:
    """Compare two complete evaluations of the same cases, by metric and protocol. `entities` names
    the entity by case_id (see `schema.entity_of`). `alpha` is the accepted chance of a false alarm
    over all metrics together; results of a probe that was scored for one version only are an
    IntegrityError."""
    new, old = in_scope(new, held), in_scope(old, held)
    _check_paired(new, old)
    groups = _by_metric(paired_results(old, new))
    metrics = sorted(groups)
    found = [
        paired_difference(
            [newer.score for _, newer in groups[metric]],
            [older.score for older, _ in groups[metric]],
            groups=[entities.get(older.case_id, older.case_id) for older, _ in groups[metric]],
            seed=seed,
            num_resamples=num_resamples,
        )
        for metric in metrics
    ]
    worse = holm_adjusted([item.p_value for item in found])
    better = holm_adjusted([item.p_value_better for item in found])
    comparisons = []
    for index, (kind, protocol) in enumerate(metrics):
        pairs = groups[kind, protocol]
        tolerance, mean = tolerance_of(kind), found[index].mean
        comparisons.append(
            MetricComparison(
                kind=kind,
                protocol=protocol,
                new_mean=sum(newer.score for _, newer in pairs) / len(pairs),
                old_mean=sum(older.score for older, _ in pairs) / len(pairs),
                difference=found[index],
                adjusted_p_value=worse[index],
                tolerance=tolerance,
                is_regression=mean < -tolerance and worse[index] < alpha,
                is_improvement=mean > tolerance and better[index] < alpha,
            )
        )
    return comparisons


def direction_of(pair: Pair) -> str:
    """`LOST`, `GAINED`, or empty if both versions are right or both wrong."""
    older, newer = pair
    if older.is_exact == newer.is_exact:
        return ""
    return LOST if older.is_exact else GAINED


def flips_of(pairs: Iterable[Pair], direction: str) -> list[Pair]:
    """Pairs that flipped in one direction: each probe once, preferably its free answer."""
    found: dict[tuple[str, int], Pair] = {}
    for pair in pairs:
        key = pair[0].case_id, pair[0].probe_index
        if direction_of(pair) == direction and (
            key not in found or pair[0].protocol == FREE_GENERATION
        ):
            found[key] = pair
    return list(found.values())


def flip_counts(pairs: Sequence[Pair]) -> dict[tuple[ProbeKind, str], tuple[int, int]]:
    """Number of probes lost and gained, by metric and protocol."""
    return {
        metric: (
            sum(direction_of(pair) == LOST for pair in group),
            sum(direction_of(pair) == GAINED for pair in group),
        )
        for metric, group in _by_metric(pairs).items()
    }


def _by_metric(pairs: Iterable[Pair]) -> dict[tuple[ProbeKind, str], list[Pair]]:
    groups: dict[tuple[ProbeKind, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair[0].kind, pair[0].protocol), []).append(pair)
    return groups


def _check_paired(new: Iterable[ProbeResult], old: Iterable[ProbeResult]) -> None:
    newer, older = (
        {(item.kind, item.protocol, *item.key) for item in items} for items in (new, old)
    )
    unpaired = sorted(newer ^ older)
    if unpaired:
        kind, protocol, case_id, probe_index, _ = unpaired[0]
        num_unpaired = sum(item[:2] == (kind, protocol) for item in unpaired)
        raise IntegrityError(
            f"{num_unpaired} probes of {kind}.{protocol} were scored for one of the two versions "
            f"only, the first is probe {probe_index} of case {case_id!r}: evaluate both on the "
            "same cases"
        )
