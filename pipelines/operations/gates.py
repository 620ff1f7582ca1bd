"""The gates of a promotion: pure functions from evidence to a verdict with a reason.

    digests  shards  evaluation_complete  freshness  min_samples  thresholds
    no_regression

All are asked, so that a refusal names everything that stands in the way. The evidence is gathered
by `promotion_evidence`; the numbers in it are computed from single probe results.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from liveedit_core.evaluation.comparison import MetricComparison
from liveedit_core.evaluation.probes import TEACHER_FORCED
from liveedit_core.evaluation.summaries import Summary
from liveedit_core.schema import ProbeKind
from pipelines.operations.recipe import GatesSection, ThresholdsSection

_NO_EVALUATION = "there is no evaluation to judge by"


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """The verdict of one gate."""

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the gates look at."""

    version: int
    """Of `liveedit-bank`."""
    now: datetime
    digest_problems: Sequence[str] = ()
    """What differs between manifest, bank, generator and evaluation."""
    shard_problems: Sequence[str] = ()
    """Files of the version that are missing or altered."""
    evaluated_at: datetime | None = None
    """None: it was never evaluated."""
    num_missing_results: int = 0
    """Of this version or of the champion, probes that should have been scored and were not."""
    summary: Summary = field(default_factory=dict)
    """Accuracy over the cases that the version holds, locality over all."""
    champion: int = 0
    """Version that serves now; 0 for none."""
    compared_with: int = 0
    """Version that the evaluation compared with; 0 for none."""
    comparisons: Sequence[MetricComparison] = ()


def all_gates(
    evidence: Evidence, gates: GatesSection, thresholds: ThresholdsSection
) -> tuple[GateResult, ...]:
    """Ask every gate.

    Args:
        evidence: About the version that is to be promoted.
        gates: Limits of age and number.
        thresholds: Least means.
    """
    asked: tuple[Callable[[], GateResult], ...] = (
        lambda: digests(evidence),
        lambda: shards(evidence),
        lambda: evaluation_complete(evidence),
        lambda: freshness(evidence, gates),
        lambda: min_samples(evidence, gates, thresholds),
        lambda: metric_thresholds(evidence, thresholds),
        lambda: no_regression(evidence),
    )
    return tuple(gate() for gate in asked)


def digests(evidence: Evidence) -> GateResult:
    """Backbone, generator and bank are those that the version was registered with."""
    return _verdict("digests", evidence.digest_problems, "backbone, generator and bank match")


def shards(evidence: Evidence) -> GateResult:
    """Every file of the version is there and has the bytes that were registered."""
    return _verdict("shards", evidence.shard_problems, "all files are there, unaltered")


def evaluation_complete(evidence: Evidence) -> GateResult:
    """Every probe that should have been scored was."""
    if evidence.evaluated_at is None:
        problem = f"version {evidence.version} was never evaluated: run nightly_evaluation.py"
        return GateResult(name="evaluation_complete", passed=False, reason=problem)
    missing = evidence.num_missing_results
    problems = [f"{missing:,} results are missing: run the evaluation again"] if missing else []
    return _verdict("evaluation_complete", problems, "every probe was scored")


def freshness(evidence: Evidence, gates: GatesSection) -> GateResult:
    """The evaluation is recent, and not from the future."""
    if evidence.evaluated_at is None:
        return GateResult(name="freshness", passed=False, reason=_NO_EVALUATION)
    hours = (evidence.now - evidence.evaluated_at).total_seconds() / 3600.0
    reason = f"evaluated {hours:.1f} hours ago, at most {gates.max_age_hours:g} are allowed"
    passed = -1.0 <= hours <= gates.max_age_hours
    return GateResult(name="freshness", passed=passed, reason=reason)


def min_samples(
    evidence: Evidence, gates: GatesSection, thresholds: ThresholdsSection
) -> GateResult:
    """Each metric with a threshold rests on enough probes."""
    if evidence.evaluated_at is None:
        return GateResult(name="min_samples", passed=False, reason=_NO_EVALUATION)
    counts = {kind: _num_samples(evidence, kind) for kind in _asked_for(thresholds)}
    problems = [
        f"{kind} rests on {count} probes, at least {gates.min_samples} are needed"
        for kind, count in counts.items()
        if count < gates.min_samples
    ]
    least = min(counts.values(), default=0)
    return _verdict("min_samples", problems, f"every metric rests on {least} probes or more")


def metric_thresholds(evidence: Evidence, thresholds: ThresholdsSection) -> GateResult:
    """Each mean reaches its threshold (teacher_forced)."""
    if evidence.evaluated_at is None:
        return GateResult(name="thresholds", passed=False, reason=_NO_EVALUATION)
    problems = []
    for kind in _asked_for(thresholds):
        found = evidence.summary.get((kind, TEACHER_FORCED))
        if found is None:
            problems.append(f"{kind} was not measured")
        elif found.mean < thresholds.of(kind):
            problems.append(f"{kind} is {found.mean:.3f}, at least {thresholds.of(kind):g} needed")
    return _verdict("thresholds", problems, "every metric reaches its threshold")


def no_regression(evidence: Evidence) -> GateResult:
    """No metric is significantly worse than the champion's."""
    name = "no_regression"
    if evidence.evaluated_at is None:
        return GateResult(name=name, passed=False, reason=_NO_EVALUATION)
    if not evidence.champion:
        return GateResult(name=name, passed=True, reason="there is no champion to compare with")
    if evidence.compared_with != evidence.champion:
        with_whom = f"version {evidence.compared_with}" if evidence.compared_with else "nothing"
        reason = (
            f"it was compared with {with_whom}, the champion is version {evidence.champion} now: "
            "run the evaluation again"
        )
        return GateResult(name=name, passed=False, reason=reason)
    if not evidence.comparisons:
        reason = "its results and those of the champion cannot be compared"
        return GateResult(name=name, passed=False, reason=reason)
    worse = [item.sentence() for item in evidence.comparisons if item.is_regression]
    return _verdict(name, worse, f"nothing is worse than in version {evidence.champion}")


def _asked_for(thresholds: ThresholdsSection) -> list[ProbeKind]:
    return [kind for kind in ProbeKind if thresholds.of(kind) > 0.0]


def _num_samples(evidence: Evidence, kind: ProbeKind) -> int:
    found = evidence.summary.get((kind, TEACHER_FORCED))
    return 0 if found is None else found.num_samples


def _verdict(name: str, problems: Sequence[str], fine: str) -> GateResult:
    return GateResult(name=name, passed=not problems, reason="; ".join(problems) or fine)
