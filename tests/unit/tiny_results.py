"""Results and summaries by hand, for tests of what is made from them."""

from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.statistics import Interval
from liveedit_core.evaluation.summaries import MetricSummary
from liveedit_core.schema import ProbeKind


def probe_result(
    case_id: str = "c",
    *,
    kind: ProbeKind = ProbeKind.RELIABILITY,
    protocol: str = "teacher_forced",
    score: float = 1.0,
    probe_index: int = 0,
    kept: tuple[str, ...] = (),
    weights: tuple[float, ...] | None = None,
    before: str = "Bern",
    after: str = "Zürich",
) -> ProbeResult:
    """A result of the edit "own of <case>"; equal weights where none are given."""
    own = f"own of {case_id}"
    given = (1.0,) * len(kept) if weights is None else weights
    rank = kept.index(own) if own in kept else -1
    return ProbeResult(
        case_id=case_id,
        edit_id=own,
        probe_index=probe_index,
        kind=kind,
        protocol=protocol,
        score=score,
        is_exact=score == 1.0,
        target="Zürich",
        answer_before=before,
        answer_after=after,
        kept=kept,
        weights=given,
        own_expert_kept=own in kept,
        own_rank=rank,
        own_weight=given[rank] if rank >= 0 else 0.0,
    )


def metric_summary(mean: float, num_samples: int = 4) -> MetricSummary:
    """A summary with this mean, and an interval of 0.1 around it."""
    interval = Interval(low=max(mean - 0.05, 0.0), high=min(mean + 0.05, 1.0))
    return MetricSummary(
        mean=mean,
        interval=interval,
        exact_mean=mean,
        exact_interval=interval,
        num_samples=num_samples,
        num_cases=num_samples,
        num_entities=num_samples,
        empty_fraction=0.0,
        kept_mean=1.5,
        kept_p95=3.0,
        own_kept_fraction=1.0,
        own_first_fraction=0.75,
        own_rank_mean=0.25,
        own_weight_mean=0.8,
    )


def scored(num_right: int, num_cases: int, kind: ProbeKind) -> list[ProbeResult]:
    """One result a case, the first of them right."""
    index = list(ProbeKind).index(kind)
    return [
        probe_result(
            f"case-{number}", kind=kind, probe_index=index, score=float(number < num_right)
        )
        for number in range(num_cases)
    ]
