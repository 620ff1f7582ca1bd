"""From the store to what the HTML report shows, after a run or a resumed one alike."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from infra.bank.expert_bank import ExpertBank
from infra.reports.data import (
    CurvePoint,
    EditView,
    Example,
    KeptExpert,
    MetricRow,
    ReportData,
    SimilarPair,
    StageTime,
)
from infra.requests.request_log import RequestLog
from infra.tracking.results import ResultsTable
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.summaries import Summary
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import Case, ProbeKind
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.run import Outcome
from pipelines.evaluation.bank_evaluation import BankEvaluation

_EXAMPLES_PER_KIND = 3
_WORST_CASES = 16
KEPT_SHOWN = 4

_BLOCK_ROWS = 256
_MAX_COMPARED = 4096
_MAX_PAIRS = 200


@dataclass(frozen=True, kw_only=True)
class ReportSources:
    """What a report is made from."""

    config: LifelongEditRecipe
    bank: ExpertBank
    request_log: RequestLog
    results: ResultsTable


def report_data(
    sources: ReportSources, outcome: Outcome, *, facts: Mapping[str, str], duration_s: float
) -> ReportData:
    """Gather what the report of a run shows.

    Args:
        sources: Where it lies.
        outcome: Of the run.
        facts: Shown as they are.
        duration_s: Of the whole job.
    """
    config = sources.config
    rejected = [*outcome.intake.rejected, *refused_requests(sources, outcome)]
    examples, worst = _examples(sources, outcome)
    return ReportData(
        title=f"Lifelong editing: {config.run_name}",
        subtitle=f"{outcome.num_edits} edits in bank {config.bank.name!r}",
        seed=config.seed,
        facts=facts,
        num_edits=outcome.num_edits,
        num_edits_before=outcome.num_edits_before,
        num_rejects=len(rejected),
        duration_s=duration_s,
        metrics=[
            row for item in outcome.evaluations for row in rows_of(item.summary, item.num_edits)
        ],
        curve=[curve_point(item) for item in outcome.curve],
        examples=examples,
        worst_cases=worst,
        rejects=rejected,
        similar_pairs=_similar_pairs(sources, outcome),
        stages=stage_times(outcome),
        warnings=_warnings(outcome),
    )


def refused_requests(sources: ReportSources, outcome: Outcome) -> list[Rejected]:
    """Requests of this run's input that the bank refused, now or in an earlier run."""
    bank = sources.bank.name
    return [
        stored.rejected
        for stored in sources.request_log.rejects()
        if stored.sequence is not None
        and stored.bank in ("", bank)
        and stored.rejected.edit_id in outcome.intake.cases
    ]


def rows_of(summary: Summary, num_edits: int) -> list[MetricRow]:
    """The metrics of one evaluation as a report shows them."""
    return [
        MetricRow(
            num_edits=num_edits,
            kind=str(kind),
            protocol=protocol,
            mean=item.mean,
            num_samples=item.num_samples,
            num_cases=item.num_cases,
            low=item.interval.low,
            high=item.interval.high,
            exact_mean=item.exact_mean,
            exact_low=item.exact_interval.low,
            exact_high=item.exact_interval.high,
            kept_mean=item.kept_mean,
            kept_p95=item.kept_p95,
            empty_kept_fraction=item.empty_fraction,
            own_kept_fraction=item.own_kept_fraction,
            own_first_fraction=item.own_first_fraction,
            own_rank_mean=None if item.own_rank_mean is None else item.own_rank_mean + 1,
            own_weight_mean=item.own_weight_mean,
        )
        for (kind, protocol), item in summary.items()
    ]


def curve_point(point: BankEvaluation) -> CurvePoint:
    """One point of a lifelong curve as a report shows it."""
    return CurvePoint(
        num_edits=point.num_edits,
        num_groups=-(-point.num_cases // point.num_edits),
        metrics=rows_of(point.summary, point.num_edits),
    )


def stage_times(outcome: Outcome) -> list[StageTime]:
    """Times and throughput of the stages; they run beside each other and do not add up."""
    timings = outcome.timings
    num_results = sum(item.num_new_results for item in outcome.evaluations)
    evaluate_s = sum(item.seconds for item in outcome.evaluations)
    stages = [
        ("intake", outcome.intake.num_accepted, "requests", timings.intake_s),
        ("generator workers", timings.num_processed, "edits", timings.generate_s),
        ("embedding workers", timings.num_processed, "edits", timings.embed_s),
        ("commits", timings.num_windows, "windows", timings.commit_s),
        ("edits, from start to last commit", timings.num_processed, "edits", timings.edit_s),
        ("evaluation workers", num_results, "probes", evaluate_s),
    ]
    return [
        StageTime(stage=stage, num_items=num_items, unit=unit, duration_s=duration_s)
        for stage, num_items, unit, duration_s in stages
    ]


def _warnings(outcome: Outcome) -> list[str]:
    warnings = []
    if outcome.was_stopped:
        warnings.append("The run was stopped before its end; the same command goes on from here.")
    if outcome.intake.num_duplicates:
        warnings.append(
            f"{outcome.intake.num_duplicates} lines of the input repeat an earlier line; "
            "each of these edits was taught once."
        )
    return warnings


class _Views:
    """Edits by identity, read from the log with their images."""

    def __init__(self, sources: ReportSources, edit_ids: Iterable[str]) -> None:
        self._views = {
            logged.request.edit_id: EditView(
                edit_id=logged.request.edit_id,
                prompt=logged.request.prompt,
                target=logged.request.target,
                image_bytes=logged.request.image_bytes,
            )
            for logged in sources.request_log.find(set(edit_ids))
        }

    def of(self, edit_id: str) -> EditView:
        return self._views[edit_id]


def _examples(sources: ReportSources, outcome: Outcome) -> tuple[list[Example], list[Example]]:
    """Examples of each kind of probe, and the worst cases, from the last evaluation."""
    if not outcome.evaluations:
        return [], []
    last = outcome.evaluations[-1]
    results = last.results
    chosen = choose_examples(results)
    worst = choose_worst(results)
    shown = [*chosen, *worst]
    cases = {
        case.edit.edit_id: case
        for case in outcome.intake.cases.of([result.edit_id for result in shown])
    }
    views = _Views(sources, (key for result in shown for key in result.kept[:KEPT_SHOWN]))
    return (
        [example_of(result, last.num_edits, cases[result.edit_id], views.of) for result in chosen],
        [example_of(result, last.num_edits, cases[result.edit_id], views.of) for result in worst],
    )


def choose_examples(results: Sequence[ProbeResult]) -> list[ProbeResult]:
    """A few of each kind: answers that were generated before those that were forced."""
    chosen = []
    for kind in ProbeKind:
        group = [result for result in results if result.kind == kind]
        group.sort(key=lambda result: (result.protocol != "free_generation", result.case_id))
        chosen += group[:_EXAMPLES_PER_KIND]
    return chosen


def choose_worst(results: Sequence[ProbeResult]) -> list[ProbeResult]:
    """The cases with the lowest mean over their probes, each with its worst probe."""
    forced = [result for result in results if result.protocol == "teacher_forced"]
    by_case: dict[str, list[ProbeResult]] = {}
    for result in forced:
        by_case.setdefault(result.case_id, []).append(result)
    means = {key: sum(r.score for r in group) / len(group) for key, group in by_case.items()}
    bad = sorted((mean, key) for key, mean in means.items() if mean < 1.0)[:_WORST_CASES]
    return [min(by_case[key], key=lambda result: result.score) for _, key in bad]


def example_of(
    result: ProbeResult, num_edits: int, case: Case, view: Callable[[str], EditView]
) -> Example:
    """One probe as the report shows it.

    Args:
        result: of the probe.
        num_edits: in the bank.
        case: to which it belongs.
        view: gives an edit of the bank by its id.
    """
    probe = case.all_probes()[result.probe_index]
    kept = zip(result.kept[:KEPT_SHOWN], result.weights, strict=False)
    return Example(
        case_id=result.case_id,
        num_edits=num_edits,
        kind=str(result.kind),
        protocol=result.protocol,
        score=result.score,
        prompt=probe.prompt,
        target=result.target,
        answer_before=result.answer_before,
        answer_after=result.answer_after,
        image_bytes=probe.image_bytes,
        kept=[
            KeptExpert(edit=view(key), weight=weight, is_own=key == result.edit_id)
            for key, weight in kept
        ],
    )


def _similar_pairs(sources: ReportSources, outcome: Outcome) -> list[SimilarPair]:
    """Similar edits of the bank, and edits that replaced an older answer; conflicts first."""
    intake = outcome.intake
    similar = similar_edits(
        sources.bank,
        intake.cases.edit_ids,
        min_similarity=sources.config.embedding.near_duplicate_similarity,
    )
    replaced = [SimilarEdits(1.0, older, newer) for older, newer in intake.superseded_by.items()]
    found = [*replaced, *similar]
    views = _Views(sources, (key for pair in found for key in (pair.first, pair.second)))
    pairs = [_pair(views.of(pair.first), views.of(pair.second), pair.similarity) for pair in found]
    return sorted(pairs, key=lambda pair: (pair.relation != "conflict", -pair.similarity))


def _pair(first: EditView, second: EditView, similarity: float) -> SimilarPair:
    is_conflict = first.prompt == second.prompt and first.target != second.target
    return SimilarPair(
        relation="conflict" if is_conflict else "near_duplicate",
        similarity=similarity,
        first=first,
        second=second,
    )


class SimilarEdits(NamedTuple):
    """Two edits, older first, with similar images."""

    similarity: float
    first: str
    second: str


def similar_edits(
    bank: ExpertBank, edit_ids: Sequence[str], *, min_similarity: float
) -> list[SimilarEdits]:
    """Pairs of edits of the newest bank version with similar images, most similar first.

    Args:
        bank: The bank.
        edit_ids: One edit of each pair is among the last 4 096 of these.
        min_similarity: Cosine from which two images count as similar.

    Returns:
        At most 200 pairs.
    """
    rows = bank.load_rows(["edit_id", "clip_embedding"])
    held: list[str] = rows.column("edit_id").to_pylist()
    flat = rows.column("clip_embedding").combine_chunks().flatten()
    embeddings_NC = flat.to_numpy(zero_copy_only=False).reshape(len(held), -1)
    wanted = set(edit_ids[-_MAX_COMPARED:])
    positions = [index for index, edit_id in enumerate(held) if edit_id in wanted]
    found: dict[tuple[int, int], float] = {}
    for start in range(0, len(positions), _BLOCK_ROWS):
        block = np.array(positions[start : start + _BLOCK_ROWS])
        similarity_BN = embeddings_NC[block] @ embeddings_NC.T
        for row, other in np.argwhere(similarity_BN >= min_similarity):
            first, second = sorted((int(block[row]), int(other)))
            if first != second:
                found[first, second] = min(float(similarity_BN[row, other]), 1.0)
    best = sorted(found, key=lambda pair: (-found[pair], pair))[:_MAX_PAIRS]
    return [SimilarEdits(found[pair], held[pair[0]], held[pair[1]]) for pair in best]
