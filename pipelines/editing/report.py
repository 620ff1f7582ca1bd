"""A run's HTML report, read from the store, so that a resumed run shows the same."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from infra.bank.expert_bank import ExpertBank
from infra.reports.data import CurvePoint, Example, ReportData, SimilarPair, StageTime
from infra.reports.outcomes import OutcomeRow, outcome_rows
from infra.requests.request_log import RequestLog
from infra.tracking.results import ResultsTable
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import EditRequest
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.run import Outcome
from pipelines.evaluation.bank_evaluation import BankEvaluation
from pipelines.evaluation.pages import (
    ExampleBuilder,
    choose_examples,
    choose_worst,
    edits_of,
)

_BLOCK_ROWS = 256
_MAX_COMPARED = 4096
_MAX_PAIRS = 200


@dataclass(frozen=True, kw_only=True)
class ReportSources:
    """Where a report reads from."""

    config: LifelongEditRecipe
    bank: ExpertBank
    request_log: RequestLog
    results: ResultsTable


def write_report(
    sources: ReportSources,
    outcome: Outcome,
    facts: dict[str, str],
    start_s: float,
    say: Callable[[str], None],
) -> tuple[list[Path], list[Path]]:
    """Write the report page, its numbers as JSON and its figures; returns the first two and the
    figures, none where there is no room for them."""
    from infra.reports.editing import render_report
    from infra.reports.metrics import CURVE_HEADING, draw_metric_plots
    from infra.reports.numbers import write_numbers
    from infra.reports.page import write_page

    bank = sources.bank
    path = sources.config.run_folder / "report.html"
    shown = {
        **facts,
        "store": bank.store.root_uri,
        "bank": f"{bank.name}, version {bank.version}",
        "backbone digest": bank.identity.backbone_digest,
        "generator digest": bank.identity.generator_digest,
        "image embedding": bank.identity.embedding_model,
        "evaluated versions": ", ".join(
            f"{item.bank_version} ({item.num_edits} edits)" for item in outcome.evaluations
        ),
        "comparable group": ", ".join(str(e.comparable_group) for e in outcome.evaluations[-1:]),
    }
    duration_s = time.perf_counter() - start_s
    data = report_data(sources, outcome, facts=shown, duration_s=duration_s)
    try:
        write_page(path, render_report(data))
        numbers = write_numbers(path.with_name("metrics.json"), data.metrics, data.curve)
        folder = path.with_name("figures")
        figures = draw_metric_plots(folder, data.metrics)
        figures += draw_metric_plots(folder, data.curve, heading=CURVE_HEADING)
    except OSError as error:
        say(
            f"the report is not written ({path.parent}: {error.strerror or error}); what it shows "
            "is in the store: the same command writes it when there is room"
        )
        return [], []
    return [path, numbers], figures


def report_data(
    sources: ReportSources, outcome: Outcome, *, facts: Mapping[str, str], duration_s: float
) -> ReportData:
    """Gather what the report of a run shows; `duration_s` is that of the whole job."""
    config = sources.config
    rejected = all_refused(sources, outcome)
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
        metrics=[curve_point(item) for item in outcome.evaluations],
        curve=[curve_point(item) for item in outcome.curve],
        examples=examples,
        worst_cases=worst,
        rejects=rejected,
        similar_pairs=_similar_pairs(sources, outcome),
        stages=stage_times(outcome),
        outcomes=written_outcomes(sources, outcome),
        warnings=_warnings(outcome),
    )


def all_refused(sources: ReportSources, outcome: Outcome) -> list[Rejected]:
    """Lines, requests and probes of this run's input that were refused."""
    points = [*outcome.evaluations, *outcome.curve]
    probes = {probe.message: probe for point in points for probe in point.refused}
    lines = outcome.intake.rejected
    return [*lines, *refused_requests(sources, outcome), *probes.values()]


def refused_requests(sources: ReportSources, outcome: Outcome) -> list[Rejected]:
    """Requests of this run's input that the bank refused, now or in an earlier run."""
    bank = sources.bank.name
    refused = [
        stored.rejected
        for stored in sources.request_log.rejects.read()
        if stored.sequence is not None and stored.bank in ("", bank)
    ]
    own = set(outcome.intake.cases.among({item.edit_id for item in refused}))
    return [item for item in refused if item.edit_id in own]


def written_outcomes(sources: ReportSources, outcome: Outcome) -> list[OutcomeRow]:
    """How the edits of this run's input turned out: held ones, and those refused as weak."""
    refused = refused_requests(sources, outcome)
    known = {item.edit_id: item.outcome for item in refused if item.outcome}
    known |= sources.bank.outcomes()
    return outcome_rows([known[key] for key in outcome.intake.cases.among(known)])


def curve_point(point: BankEvaluation) -> CurvePoint:
    """An evaluation as a report shows it."""
    return CurvePoint(
        num_edits=point.num_edits,
        summary=point.summary,
        by_variant=point.by_variant,
        by_tag=point.by_tag,
        scope=point.scope,
        num_groups=point.num_groups,
        comparable_group=str(point.comparable_group or ""),
        retention=point.retention,
        budget=point.budget,
    )


def stage_times(outcome: Outcome) -> list[StageTime]:
    """Times and throughput of the stages; they run in parallel, so times do not add up."""
    timings = outcome.timings
    num_results = sum(item.num_new_results for item in outcome.evaluations)
    evaluate_s = sum(item.seconds for item in outcome.evaluations)
    stages = [
        ("intake", outcome.intake.num_accepted, "requests", timings.intake_s),
        ("generator workers", timings.num_processed, "edits", timings.generate_s),
        ("of which verifying and refining", timings.num_processed, "edits", timings.refine_s),
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
        warnings.append("The run was stopped before its end; the same command resumes it.")
    if num := outcome.intake.num_duplicates:
        warnings.append(
            f"{num} lines of the input repeat an earlier line; each of these edits was made once."
        )
    return warnings


def _examples(sources: ReportSources, outcome: Outcome) -> tuple[list[Example], list[Example]]:
    """Examples of each kind of probe, and the worst cases, from the last evaluation."""
    if not outcome.evaluations:
        return [], []
    last = outcome.evaluations[-1]
    chosen, worst = choose_examples(last.results), choose_worst(last.results)
    shown = [*chosen, *worst]
    index = outcome.intake.cases
    cases = index.with_images(index.of([result.edit_id for result in shown]))
    builder = ExampleBuilder(cases, edits_of(sources.request_log), shown)
    examples = [builder.example(result, last.num_edits) for result in shown]
    return examples[: len(chosen)], examples[len(chosen) :]


def _similar_pairs(sources: ReportSources, outcome: Outcome) -> list[SimilarPair]:
    """Similar edits of the bank, and edits that replaced an older answer; conflicts first."""
    intake = outcome.intake
    similar = similar_edits(
        sources.bank,
        intake.cases.edit_ids,
        min_similarity=sources.config.embedding.near_duplicate_similarity,
    )
    replaced = [
        SimilarEdits(key.similarity, key.supersedes, key.edit_id)
        for key in sources.request_log.keys_of(intake.cases.edit_ids)
        if key.supersedes
    ]
    look_up = edits_of(sources.request_log)
    edits = look_up({key for pair in (*replaced, *similar) for key in (pair.first, pair.second)})
    pairs = [
        _pair(edits[pair.first], edits[pair.second], pair.similarity, is_replaced=is_replaced)
        for found, is_replaced in ((replaced, True), (similar, False))
        for pair in found
    ]
    return sorted(pairs, key=lambda pair: (pair.relation != "conflict", -pair.similarity))


def _pair(
    first: EditRequest, second: EditRequest, similarity: float, *, is_replaced: bool
) -> SimilarPair:
    is_conflict = is_replaced or (first.prompt == second.prompt and first.target != second.target)
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
    """At most 200 pairs of edits of the newest version with similar images, most similar first.

    One edit of each pair is among the last 4 096 of `edit_ids`; similarity is the cosine of the
    image embeddings.
    """
    rows = bank.load_rows(["edit_id", "clip_embedding"])
    held: list[str] = rows.column("edit_id").to_pylist()
    if not held:
        return []
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
