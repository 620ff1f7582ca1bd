"""Probe results summarized by metric and protocol: means, 95 % intervals, sample counts.

No number depends on the order of the results. Protocols are never mixed.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from liveedit_core.evaluation.probes import TEACHER_FORCED, ProbeResult
from liveedit_core.evaluation.statistics import Interval, bootstrap_interval
from liveedit_core.schema import PAPER_METRICS, Case, ProbeKind

BY_CONSTRUCTION = frozenset({ProbeKind.TEXT_LOCALITY})
"""Without an image no expert can pass the hard filter, so this metric is 1 whatever was edited."""


@dataclass(frozen=True, kw_only=True)
class MetricSummary:
    """One metric under one protocol, with 95 % bootstrap intervals over cases."""

    mean: float
    interval: Interval
    exact_mean: float
    """Share of probes with every token right; under free_generation equal to `mean`."""
    exact_interval: Interval
    num_samples: int
    num_cases: int
    empty_fraction: float
    """Share of probes for which no expert was kept."""
    kept_mean: float
    """Mean number of experts kept for a probe."""
    kept_p95: float
    """95th percentile of that number."""
    own_kept_fraction: float
    """Share of probes for which the expert of their own edit was kept."""
    own_first_fraction: float
    """Share of probes for which that expert had the largest weight."""
    own_rank_mean: float | None
    """Its mean rank where it was kept, 0 for the largest weight; None if it never was."""
    own_weight_mean: float | None
    """Its mean weight where it was kept; None if it never was."""


Summary = Mapping[tuple[ProbeKind, str], MetricSummary]
"""By metric and protocol."""

VariantKey = tuple[ProbeKind, str, str]
"""Metric, variant and protocol."""
VariantSummary = Mapping[VariantKey, MetricSummary]


def summarize(
    results: Iterable[ProbeResult], *, seed: int = 0
) -> dict[tuple[ProbeKind, str], MetricSummary]:
    """Summaries by metric and protocol; the seed is that of the intervals."""
    groups: dict[tuple[ProbeKind, str], list[ProbeResult]] = {}
    for result in results:
        groups.setdefault((result.kind, result.protocol), []).append(result)
    return {key: summary_of(group, seed=seed) for key, group in groups.items()}


def summary_of(results: Sequence[ProbeResult], *, seed: int) -> MetricSummary:
    """Summary of the results of one metric under one protocol; at least one."""
    cases = [result.case_id for result in results]
    scores = [result.score for result in results]
    exact = [float(result.is_exact) for result in results]
    num_kept = [len(result.kept) for result in results]
    own = [result for result in results if result.own_expert_kept]
    return MetricSummary(
        mean=_mean(scores),
        interval=bootstrap_interval(scores, groups=cases, seed=seed),
        exact_mean=_mean(exact),
        exact_interval=bootstrap_interval(exact, groups=cases, seed=seed),
        num_samples=len(results),
        num_cases=len(set(cases)),
        empty_fraction=_mean([float(count == 0) for count in num_kept]),
        kept_mean=_mean(num_kept),
        kept_p95=float(np.quantile(num_kept, 0.95, method="inverted_cdf")),
        own_kept_fraction=len(own) / len(results),
        own_first_fraction=sum(result.own_rank == 0 for result in own) / len(results),
        own_rank_mean=_mean([result.own_rank for result in own]) if own else None,
        own_weight_mean=_mean([result.own_weight for result in own]) if own else None,
    )


def summarize_variants(
    results: Iterable[ProbeResult], cases: Iterable[Case], *, seed: int = 0
) -> dict[VariantKey, MetricSummary]:
    """Summaries by metric, variant and protocol; probes without a variant are left out. The cases
    are those that were scored: they know the variant of each probe."""
    variant_of = {
        (case.case_id, index): probe.variant
        for case in cases
        for index, probe in enumerate(case.all_probes())
        if probe.variant
    }
    groups: dict[VariantKey, list[ProbeResult]] = {}
    for result in results:
        variant = variant_of.get((result.case_id, result.probe_index))
        if variant is not None:
            groups.setdefault((result.kind, variant, result.protocol), []).append(result)
    return {key: summary_of(groups[key], seed=seed) for key in sorted(groups)}


def average_of_five(means: Mapping[ProbeKind, float]) -> float | None:
    """Mean of the paper's five metrics; None unless all five were measured."""
    if not all(kind in means for kind in PAPER_METRICS):
        return None
    return sum(means[kind] for kind in PAPER_METRICS) / len(PAPER_METRICS)


def paper_average(summary: Summary) -> float | None:
    """`average_of_five` of the teacher-forced means."""
    return average_of_five(
        {kind: item.mean for (kind, name), item in summary.items() if name == TEACHER_FORCED}
    )


def metric_values(summary: Summary) -> dict[str, float]:
    """Means by "metric.protocol", exact match and the paper's average, as logged to MLflow."""
    values = {f"{kind}.{protocol}": item.mean for (kind, protocol), item in summary.items()}
    for (kind, protocol), item in summary.items():
        if protocol == TEACHER_FORCED:  # under free generation the mean is exact match already
            values[f"{kind}.{protocol}.exact"] = item.exact_mean
    average = paper_average(summary)
    return values if average is None else {**values, "paper_average.teacher_forced": average}


def variant_values(by_variant: VariantSummary) -> dict[str, float]:
    """Means by "portability.2_hops.teacher_forced", as logged to MLflow."""
    return {
        f"{kind}.{re.sub('[^0-9A-Za-z]+', '_', variant).strip('_')}.{protocol}": item.mean
        for (kind, variant, protocol), item in by_variant.items()
    }


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)
