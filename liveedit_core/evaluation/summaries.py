"""Probe results summarized by metric and protocol: means, 95 % intervals, sample counts.

No number depends on the order of the results. Protocols are never mixed. Intervals are over
entities, which the cases know and the results do not (`schema.entity_of`). Where they are not
given, each case counts as an entity: intervals are too narrow if several edits are about one.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from liveedit_core.evaluation.probes import TEACHER_FORCED, ProbeResult
from liveedit_core.evaluation.statistics import Interval, average_interval, share_interval
from liveedit_core.schema import PAPER_METRICS, Case, ProbeKind, entity_of

BY_CONSTRUCTION = frozenset({ProbeKind.TEXT_LOCALITY})
"""Without an image no visual edit is kept, so this metric is 1 where no edit is textual."""

EARNED_METRICS = tuple(kind for kind in PAPER_METRICS if kind not in BY_CONSTRUCTION)
"""The paper's metrics without those that are 1 by construction."""


@dataclass(frozen=True, kw_only=True)
class MetricSummary:
    """One metric under one protocol, with 95 % intervals over entities."""

    mean: float
    interval: Interval
    exact_mean: float
    """Share of probes with every token right; under free_generation equal to `mean`."""
    exact_interval: Interval
    num_samples: int
    """Probes."""
    num_cases: int
    num_entities: int
    """What the intervals are over; `num_cases` where the entities are not known."""
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

TABLE_TAGS = ("domain", "length", "content", "family")
"""Tags of cases by which tables are made."""
_NO_ENTITIES: Mapping[str, str] = {}

LabelKey = tuple[ProbeKind, str, str]
"""Metric, variant of the probe or value of a tag of the case, and protocol."""
LabelSummary = Mapping[LabelKey, MetricSummary]


def summarize(
    results: Iterable[ProbeResult], entities: Mapping[str, str] = _NO_ENTITIES, *, seed: int = 0
) -> dict[tuple[ProbeKind, str], MetricSummary]:
    """Summaries by metric and protocol; `entities` names the entity by case_id, the seed is that of
    the intervals."""
    groups: dict[tuple[ProbeKind, str], list[ProbeResult]] = {}
    for result in results:
        groups.setdefault((result.kind, result.protocol), []).append(result)
    return {key: summary_of(group, entities, seed=seed) for key, group in groups.items()}


def summary_of(
    results: Sequence[ProbeResult], entities: Mapping[str, str], *, seed: int
) -> MetricSummary:
    """Summary of the results of one metric under one protocol, at least one; `entities` names the
    entity by case_id."""
    cases = {result.case_id for result in results}
    groups = [entities.get(result.case_id, result.case_id) for result in results]
    scores = [result.score for result in results]
    exact = [float(result.is_exact) for result in results]
    interval = share_interval(scores, groups=groups, seed=seed)
    num_kept = [len(result.kept) for result in results]
    own = [result for result in results if result.own_expert_kept]
    return MetricSummary(
        mean=_mean(scores),
        interval=interval,
        exact_mean=_mean(exact),
        exact_interval=(
            interval if exact == scores else share_interval(exact, groups=groups, seed=seed)
        ),
        num_samples=len(results),
        num_cases=len(cases),
        num_entities=len(set(groups)),
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
) -> dict[LabelKey, MetricSummary]:
    """Summaries by metric, variant and protocol; probes without a variant are left out. The cases
    are those that were scored: they know the variant of each probe."""
    cases = list(cases)
    variants = {
        (case.case_id, index): probe.variant
        for case in cases
        for index, probe in enumerate(case.all_probes())
    }

    def label(result: ProbeResult) -> str:
        return variants.get((result.case_id, result.probe_index), "")

    return _summarize_by(label, results, cases, seed)


def summarize_tags(
    results: Iterable[ProbeResult], cases: Iterable[Case], tag: str, *, seed: int = 0
) -> dict[LabelKey, MetricSummary]:
    """Summaries by metric, value of a tag of the case and protocol; cases without the tag are left
    out."""
    cases = list(cases)
    values = {case.case_id: case.tags.get(tag, "") for case in cases}
    return _summarize_by(lambda result: values.get(result.case_id, ""), results, cases, seed)


def summarize_all_tags(
    results: Sequence[ProbeResult], cases: Sequence[Case], *, seed: int = 0
) -> dict[str, LabelSummary]:
    """`summarize_tags` for each of `TABLE_TAGS` that cases have."""
    by_tag = {tag: summarize_tags(results, cases, tag, seed=seed) for tag in TABLE_TAGS}
    return {tag: summary for tag, summary in by_tag.items() if summary}


def _summarize_by(
    label_of: Callable[[ProbeResult], str],
    results: Iterable[ProbeResult],
    cases: Iterable[Case],
    seed: int,
) -> dict[LabelKey, MetricSummary]:
    entities = entity_of(cases)
    groups: dict[LabelKey, list[ProbeResult]] = {}
    for result in results:
        if label := label_of(result):
            groups.setdefault((result.kind, label, result.protocol), []).append(result)
    return {key: summary_of(groups[key], entities, seed=seed) for key in sorted(groups)}


def average_of(
    means: Mapping[ProbeKind, float], kinds: Sequence[ProbeKind] = PAPER_METRICS
) -> float | None:
    """Mean of the paper's five metrics, or of other ones; None unless all were measured."""
    if not all(kind in means for kind in kinds):
        return None
    return sum(means[kind] for kind in kinds) / len(kinds)


def paper_average(summary: Summary, kinds: Sequence[ProbeKind] = PAPER_METRICS) -> float | None:
    """`average_of` the teacher-forced means."""
    return average_of(
        {kind: item.mean for (kind, name), item in summary.items() if name == TEACHER_FORCED},
        kinds,
    )


@dataclass(frozen=True, kw_only=True)
class AverageMetric:
    """The mean of several metrics under teacher forcing, with its 95 % interval over entities."""

    mean: float
    interval: Interval
    num_samples: int
    """Probes of all of them."""
    num_entities: int


def average_metric(
    results: Iterable[ProbeResult],
    entities: Mapping[str, str],
    kinds: Sequence[ProbeKind] = PAPER_METRICS,
    *,
    seed: int,
) -> AverageMetric | None:
    """`paper_average` of some results with an interval; None unless all metrics were measured."""
    parts: dict[ProbeKind, tuple[list[float], list[str]]] = {kind: ([], []) for kind in kinds}
    for result in results:
        if result.protocol == TEACHER_FORCED and result.kind in parts:
            scores, groups = parts[result.kind]
            scores.append(result.score)
            groups.append(entities.get(result.case_id, result.case_id))
    if not all(scores for scores, _ in parts.values()):
        return None
    return AverageMetric(
        mean=sum(_mean(scores) for scores, _ in parts.values()) / len(parts),
        interval=average_interval([*parts.values()], seed=seed),
        num_samples=sum(len(scores) for scores, _ in parts.values()),
        num_entities=len({name for _, groups in parts.values() for name in groups}),
    )


def metric_values(summary: Summary) -> dict[str, float]:
    """Means by "metric.protocol", exact match and the paper's average with and without the metric
    that is 1 by construction, as logged to MLflow."""
    values = {f"{kind}.{protocol}": item.mean for (kind, protocol), item in summary.items()}
    for (kind, protocol), item in summary.items():
        if protocol == TEACHER_FORCED:  # under free generation the mean is exact match already
            values[f"{kind}.{protocol}.exact"] = item.exact_mean
    return values | average_values(summary)


def average_values(summary: Summary) -> dict[str, float]:
    """The paper's average with and without text_locality, where measured, as logged to MLflow."""
    averages = {
        f"paper_average.{TEACHER_FORCED}": paper_average(summary),
        f"paper_average_without_text_locality.{TEACHER_FORCED}": paper_average(
            summary, EARNED_METRICS
        ),
    }
    return {name: value for name, value in averages.items() if value is not None}


def variant_values(by_variant: LabelSummary) -> dict[str, float]:
    """Means by "portability.2_hops.teacher_forced", as logged to MLflow."""
    return {
        f"{kind}.{re.sub('[^0-9A-Za-z]+', '_', variant).strip('_')}.{protocol}": item.mean
        for (kind, variant, protocol), item in by_variant.items()
    }


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)
