"""The gates of a promotion: pure functions from evidence to a verdict with a reason.

    digests  shards  evaluation_complete  freshness  min_samples  thresholds  false_activations
    no_regression

All gates are checked, so that a refusal lists everything that is wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from liveedit_core.evaluation.comparison import MetricComparison
from liveedit_core.evaluation.false_activations import (
    false_activation_values,
    false_activations,
)
from liveedit_core.evaluation.probes import TEACHER_FORCED
from liveedit_core.evaluation.summaries import Summary, metric_values
from liveedit_core.schema import ProbeKind
from pipelines.operations.recipe import GatesSection, ThresholdsSection

_NEED_EVALUATION = ("freshness", "min_samples", "thresholds", "false_activations", "no_regression")


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """The verdict of one gate."""

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    version: int
    """Of `liveedit-bank`."""
    now: datetime
    digest_problems: Sequence[str] = ()
    """Differences between manifest, bank, generator and evaluation."""
    shard_problems: Sequence[str] = ()
    """Files of the version that are missing or altered."""
    evaluated_at: datetime | None = None
    """None if it was never evaluated."""
    num_missing_results: int = 0
    """Probes of this version or of the champion without a result."""
    summary: Summary = field(default_factory=dict)
    """Accuracy over the cases that the version holds, locality over all."""
    budget: float | None = None
    """Of false activations; None: the visual filter follows none."""
    champion: int = 0
    """The current champion; 0 for none."""
    compared_with: int = 0
    """The version that the evaluation compared with; 0 for none."""
    comparisons: Sequence[MetricComparison] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    """Results, MLflow run, bank and digests that the numbers come from; for the audit record."""

    @property
    def numbers(self) -> dict[str, float]:
        """Means and differences by name, as the audit record keeps them."""
        differences = {f"difference.{item.name}": item.difference.mean for item in self.comparisons}
        activations = false_activation_values(self.summary, self.budget)
        return {**metric_values(self.summary), **activations, **differences}


def all_gates(
    evidence: Evidence, gates: GatesSection, thresholds: ThresholdsSection
) -> tuple[GateResult, ...]:
    content = (
        _verdict("digests", evidence.digest_problems, "backbone, generator and bank match"),
        _verdict("shards", evidence.shard_problems, "all files are present, unaltered"),
    )
    if evidence.evaluated_at is None:
        return (*content, *_never_evaluated(evidence.version))
    missing = evidence.num_missing_results
    problems = [f"{missing:,} results are missing: run the evaluation again"] if missing else []
    return (
        *content,
        _verdict("evaluation_complete", problems, "every probe was scored"),
        freshness(evidence.now, evidence.evaluated_at, gates),
        min_samples(evidence.summary, gates, thresholds),
        metric_thresholds(evidence.summary, thresholds),
        kept_budget(evidence.summary, evidence.budget),
        no_regression(evidence),
    )


def _never_evaluated(version: int) -> list[GateResult]:
    reasons = {
        "evaluation_complete": f"version {version} was never evaluated: run nightly_evaluation.py",
        **dict.fromkeys(_NEED_EVALUATION, "there is no evaluation"),
    }
    return [GateResult(name=name, passed=False, reason=why) for name, why in reasons.items()]


def freshness(now: datetime, evaluated_at: datetime, gates: GatesSection) -> GateResult:
    """The evaluation is recent, and not from the future."""
    hours = (now - evaluated_at).total_seconds() / 3600.0
    reason = f"evaluated {hours:.1f} hours ago, at most {gates.max_age_hours:g} are allowed"
    return GateResult(name="freshness", passed=-1.0 <= hours <= gates.max_age_hours, reason=reason)


def min_samples(summary: Summary, gates: GatesSection, thresholds: ThresholdsSection) -> GateResult:
    """Each metric with a threshold has enough probes."""
    counts = {}
    for kind in _required_metrics(thresholds):
        found = summary.get((kind, TEACHER_FORCED))
        counts[kind] = found.num_samples if found else 0
    problems = [
        f"{kind} has {count} probes, at least {gates.min_samples} are needed"
        for kind, count in counts.items()
        if count < gates.min_samples
    ]
    least = min(counts.values(), default=0)
    return _verdict("min_samples", problems, f"every metric has at least {least} probes")


def metric_thresholds(summary: Summary, thresholds: ThresholdsSection) -> GateResult:
    """Each mean reaches its threshold (teacher_forced)."""
    problems = []
    for kind in _required_metrics(thresholds):
        found = summary.get((kind, TEACHER_FORCED))
        if found is None:
            problems.append(f"{kind} was not measured")
        elif found.mean < thresholds.of(kind):
            problems.append(f"{kind} is {found.mean:.3f}, at least {thresholds.of(kind):g} needed")
    return _verdict("thresholds", problems, "every metric reaches its threshold")


def kept_budget(summary: Summary, budget: float | None) -> GateResult:
    """Questions about other images do not keep edits far more often than the budget says."""
    found = false_activations(summary, budget)
    reason = found.sentence() if found else "no probe asks about another image"
    passed = found is None or not found.is_exceeded
    return GateResult(name="false_activations", passed=passed, reason=reason)


def no_regression(evidence: Evidence) -> GateResult:
    """No metric is significantly worse than the champion's."""
    champion, compared_with = evidence.champion, evidence.compared_with
    if not champion:
        return _verdict("no_regression", (), "there is no champion to compare with")
    if compared_with != champion:
        other = f"version {compared_with}" if compared_with else "nothing"
        problems = [
            f"it was compared with {other}, the champion is version {champion} now: run the "
            "evaluation again"
        ]
    elif not evidence.comparisons:
        problems = ["its results and those of the champion cannot be compared"]
    else:
        problems = [item.sentence() for item in evidence.comparisons if item.is_regression]
    return _verdict("no_regression", problems, f"no metric is worse than in version {champion}")


def _required_metrics(thresholds: ThresholdsSection) -> list[ProbeKind]:
    return [kind for kind in ProbeKind if thresholds.of(kind) > 0.0]


def _verdict(name: str, problems: Sequence[str], reason_to_pass: str) -> GateResult:
    return GateResult(name=name, passed=not problems, reason="; ".join(problems) or reason_to_pass)
