"""Which metrics of a bank version are worse than those of an older one, on the same cases.

The rule, for each metric and protocol: a **regression** is a mean difference (newer minus older,
over paired probes) that lies below minus the tolerance, and whose one-sided sign-flip p-value over
whole cases, adjusted after Holm for all metrics compared, is below alpha. An improvement is the
mirror image. The tolerance keeps a large number of cases from turning a trifle into an alarm; the
test keeps a small number of cases from turning chance into one.

What is compared: probes that have a right answer (accuracy) only on cases whose edit the older
version holds and the newer one should still hold; a case that neither holds would only dilute the
mean, one that a newer edit of the same subject replaced has another answer now. Locality on all.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from liveedit_core.errors import IntegrityError
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.statistics import PairedDifference, holm_adjusted, paired_difference
from liveedit_core.schema import Case, ProbeKind
from pipelines.evaluation.sections import RegressionSection, TolerancesSection

_Scores = dict[tuple[str, int], float]


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

    def sentence(self) -> str:
        """What was found, for people."""
        found = self.difference
        return (
            f"{self.name}: {self.old_mean:.3f} -> {self.new_mean:.3f} "
            f"({found.mean:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f}, "
            f"tolerance {self.tolerance:g}, adjusted p {self.adjusted_p_value:.2g}, "
            f"{found.num_samples} probes of {found.num_cases} cases)"
        )


def cases_held(
    cases: Iterable[Case], edit_ids: Collection[str], newer: Mapping[str, str] | None = None
) -> frozenset[str]:
    """Names of the cases whose edit a version holds.

    Args:
        cases: The fixed cases.
        edit_ids: Edits of the version.
        newer: Of each subject, the edit that a newer version holds: cases are left out whose edit
            that version has replaced on purpose.
    """
    held = set(edit_ids)
    return frozenset(
        case.case_id
        for case in cases
        if case.edit.edit_id in held
        and (newer or {}).get(case.edit.subject_id, case.edit.edit_id) == case.edit.edit_id
    )


def in_scope(results: Iterable[ProbeResult], held: Collection[str]) -> list[ProbeResult]:
    """Locality results of all cases, accuracy results of the cases named."""
    return [item for item in results if item.kind.is_locality or item.case_id in held]


def compare_results(
    new: Iterable[ProbeResult],
    old: Iterable[ProbeResult],
    *,
    held: Collection[str],
    regression: RegressionSection,
    tolerances: TolerancesSection,
    seed: int,
) -> list[MetricComparison]:
    """Compare two complete evaluations of the same cases.

    Args:
        new: Results of the newer version.
        old: Results of the older version, in any order.
        held: Names of the cases whose accuracy counts; see `cases_held`.
        regression: The test.
        tolerances: Of each metric.
        seed: Of the test.

    Returns:
        One comparison for each metric and protocol, sorted by name.

    Raises:
        IntegrityError: A probe was scored for one of them only.
    """
    new_scores, old_scores = _by_metric(in_scope(new, held)), _by_metric(in_scope(old, held))
    _check_paired(new_scores, old_scores)
    metrics = sorted(new_scores)
    pairs = [_pairs(new_scores[metric], old_scores[metric]) for metric in metrics]
    found = [
        paired_difference(
            newer, older, groups=groups, seed=seed, num_resamples=regression.num_resamples
        )
        for newer, older, groups in pairs
    ]
    mirrored = [
        paired_difference(
            older, newer, groups=groups, seed=seed, num_resamples=regression.num_resamples
        )
        for newer, older, groups in pairs
    ]
    worse = holm_adjusted([item.p_value for item in found])
    better = holm_adjusted([item.p_value for item in mirrored])
    comparisons = []
    for index, (kind, protocol) in enumerate(metrics):
        newer, older, _ = pairs[index]
        tolerance = tolerances.of(kind)
        mean = found[index].mean
        comparisons.append(
            MetricComparison(
                kind=kind,
                protocol=protocol,
                new_mean=sum(newer) / len(newer),
                old_mean=sum(older) / len(older),
                difference=found[index],
                adjusted_p_value=worse[index],
                tolerance=tolerance,
                is_regression=mean < -tolerance and worse[index] < regression.alpha,
                is_improvement=mean > tolerance and better[index] < regression.alpha,
            )
        )
    return comparisons


def _by_metric(results: Iterable[ProbeResult]) -> dict[tuple[ProbeKind, str], _Scores]:
    scores: dict[tuple[ProbeKind, str], _Scores] = {}
    for item in results:
        metric = scores.setdefault((item.kind, item.protocol), {})
        metric[item.case_id, item.probe_index] = item.score
    return scores


def _check_paired(
    new: Mapping[tuple[ProbeKind, str], _Scores], old: Mapping[tuple[ProbeKind, str], _Scores]
) -> None:
    for metric in sorted({*new, *old}):
        unpaired = new.get(metric, {}).keys() ^ old.get(metric, {}).keys()
        if unpaired:
            case_id, probe_index = min(unpaired)
            raise IntegrityError(
                f"{len(unpaired)} probes of {metric[0]}.{metric[1]} were scored for one of the two "
                f"versions only, the first is probe {probe_index} of case {case_id!r}: evaluate "
                "both on the same cases"
            )


def _pairs(new: _Scores, old: _Scores) -> tuple[list[float], list[float], Sequence[str]]:
    keys = sorted(new)
    return [new[key] for key in keys], [old[key] for key in keys], [key[0] for key in keys]
