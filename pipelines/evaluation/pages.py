"""From results to the pages of an evaluation and of a comparison, and to MLflow's figures."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from infra.reports.comparison import MAX_FLIPS, write_comparison_report
from infra.reports.data import (
    GAINED,
    IMPROVEMENT,
    LOST,
    NO_DIFFERENCE,
    NOT_SIGNIFICANT,
    REGRESSION,
    WITHIN_TOLERANCE,
    ComparisonReportData,
    EditView,
    EvaluationReportData,
    Example,
    Flip,
    FlipCount,
    KeptExpert,
    MetricDifference,
    MetricRow,
    VersionView,
)
from infra.reports.evaluation import write_evaluation_report
from infra.reports.metrics import draw_metric_plots
from infra.requests.request_log import RequestLog
from infra.tracking.results import EvaluationKey, ResultKey, ResultsTable, result_key
from liveedit_core.errors import InputError
from liveedit_core.evaluation.probes import FREE_GENERATION, ProbeResult
from liveedit_core.evaluation.summaries import Summary, summarize
from liveedit_core.schema import Case, ProbeKind
from pipelines.editing.report import KEPT_SHOWN, choose_examples, choose_worst, example_of, rows_of
from pipelines.evaluation.bank_evaluation import BankEvaluation
from pipelines.evaluation.regressions import MetricComparison

TEST_NOTE = (
    "Test: sign flips over whole cases, one-sided; intervals: paired bootstrap over cases; "
    "correction for all metrics of both protocols together after Holm."
)

EditLookup = Callable[[Collection[str]], Mapping[str, EditView]]
"""What a page shows of edits, by id; those that are unknown may be left out."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedVersion:
    """A bank version with the results of its examination."""

    label: str
    """What people call it: "champion", "newest"."""
    bank: str
    bank_version: int
    num_edits: int
    results: Sequence[ProbeResult]
    is_complete: bool = True
    summary: Summary | None = None
    """Of the results; None: computed when it is needed."""

    @classmethod
    def of(cls, evaluation: BankEvaluation, *, label: str) -> "EvaluatedVersion":
        """A version that has just been examined."""
        return cls(
            label=label,
            bank=evaluation.bank,
            bank_version=evaluation.bank_version,
            num_edits=evaluation.num_edits,
            results=evaluation.results,
            is_complete=evaluation.is_complete,
            summary=evaluation.summary,
        )

    @classmethod
    def stored(cls, table: ResultsTable, key: EvaluationKey, *, label: str) -> "EvaluatedVersion":
        """A version whose results lie in the store.

        Raises:
            InputError: The table has none of it.
        """
        results = table.read(key)
        if not results:
            known = ", ".join(
                f"{item.bank} version {item.bank_version} ({item.num_edits} edits)"
                for item in table.evaluations()
            )
            raise InputError(
                f"results/{table.run} has no results of bank {key.bank!r} version "
                f"{key.bank_version} with {key.num_edits} edits; it has: {known or 'nothing'}"
            )
        return cls(
            label=label,
            bank=key.bank,
            bank_version=key.bank_version,
            num_edits=key.num_edits,
            results=results,
        )

    def metric_rows(self, seed: int) -> list[MetricRow]:
        """Its metrics as a page shows them."""
        summary = summarize(self.results, seed=seed) if self.summary is None else self.summary
        return rows_of(summary, self.num_edits)


def edits_of(request_log: RequestLog) -> EditLookup:
    """Edits by id, as the log of all requests knows them."""

    def look_up(edit_ids: Collection[str]) -> dict[str, EditView]:
        return {
            logged.request.edit_id: EditView(
                edit_id=logged.request.edit_id,
                prompt=logged.request.prompt,
                target=logged.request.target,
                image_bytes=logged.request.image_bytes,
            )
            for logged in request_log.find(set(edit_ids))
        }

    return look_up


def write_evaluation_page(
    path: Path,
    version: EvaluatedVersion,
    *,
    cases: Sequence[Case],
    edits: EditLookup,
    seed: int,
    facts: Mapping[str, str],
    curve: Sequence[EvaluatedVersion] = (),
    duration_s: float = 0.0,
    warnings: Sequence[str] = (),
) -> Path:
    """Write the page of one evaluation.

    Args:
        path: Of the page.
        version: What was examined.
        cases: On which; those of shown results are needed.
        edits: Of the bank.
        seed: Of samples and intervals.
        facts: Shown as they are.
        curve: Other versions of the bank, or the same with other numbers of edits.
        duration_s: Of scoring; 0 where it is unknown.
        warnings: Shown on top.
    """
    rows = version.metric_rows(seed)
    others = [item for item in curve if item.num_edits != version.num_edits]
    worst, chosen = choose_worst(version.results), choose_examples(version.results)
    pages = _Views(cases, edits, [*worst, *chosen])
    data = EvaluationReportData(
        title=f"Evaluation of {version.bank}, version {version.bank_version}",
        subtitle=version.label,
        seed=seed,
        bank=version.bank,
        bank_version=version.bank_version,
        num_edits=version.num_edits,
        num_cases=len({result.case_id for result in version.results}),
        is_complete=version.is_complete,
        duration_s=duration_s,
        metrics=rows,
        curve=[*rows, *(row for item in others for row in item.metric_rows(seed))],
        examples=[pages.example(result, version.num_edits) for result in chosen],
        worst_cases=[pages.example(result, version.num_edits) for result in worst],
        warnings=warnings,
        facts=facts,
    )
    write_evaluation_report(path, data)
    return path


def write_figures(folder: Path, points: Sequence[EvaluatedVersion], *, seed: int) -> list[Path]:
    """Draw the lifelong curves as PNG files, for MLflow.

    Args:
        folder: Made when it is not there.
        points: One for each number of edits.
        seed: Of the intervals.
    """
    return draw_metric_plots(folder, [row for item in points for row in item.metric_rows(seed)])


def write_comparison_page(
    path: Path,
    old: EvaluatedVersion,
    new: EvaluatedVersion,
    *,
    cases: Sequence[Case],
    edits: EditLookup,
    seed: int,
    facts: Mapping[str, str],
    differences: Sequence[MetricDifference],
    held: Collection[str] | None = None,
    warnings: Sequence[str] = (),
) -> Path:
    """Write the page that compares two versions on the same probes.

    Args:
        path: Of the page.
        old: The older version.
        new: The newer version.
        cases: On which both were examined; those of shown results are needed.
        edits: Of the bank.
        seed: Of the test and the intervals.
        facts: Shown as they are.
        differences: Of each metric; see `differences_of`.
        held: Names of the cases whose accuracy was compared (`regressions.cases_held`); None: all.
        warnings: Shown on top.
    """
    pairs = paired_results(old.results, new.results, held=held)
    shown = choose_flips(pairs)
    views = _Views(cases, edits, [result for pair in shown for result in pair])
    data = ComparisonReportData(
        title=f"{new.bank}: version {new.bank_version} against version {old.bank_version}",
        subtitle=f"{new.label} against {old.label}",
        seed=seed,
        old=_version_view(old),
        new=_version_view(new),
        num_cases=len({older.case_id for older, _ in pairs}),
        differences=differences,
        flip_counts=count_flips(pairs),
        num_lost=len(flips_of(pairs, LOST)),
        num_gained=len(flips_of(pairs, GAINED)),
        flips=[views.flip(older, newer) for older, newer in shown],
        test=TEST_NOTE,
        warnings=warnings,
        facts=facts,
    )
    write_comparison_report(path, data)
    return path


def differences_of(comparisons: Iterable[MetricComparison]) -> list[MetricDifference]:
    """Comparisons as the page shows them."""
    return [
        MetricDifference(
            kind=str(item.kind),
            protocol=item.protocol,
            old_mean=item.old_mean,
            new_mean=item.new_mean,
            difference=item.difference.mean,
            low=item.difference.low,
            high=item.difference.high,
            p_value=item.difference.p_value,
            num_samples=item.difference.num_samples,
            num_cases=item.difference.num_cases,
            adjusted_p_value=item.adjusted_p_value,
            tolerance=item.tolerance,
            verdict=verdict_of(item),
        )
        for item in comparisons
    ]


def verdict_of(item: MetricComparison) -> str:
    """What a reader may conclude; see `pipelines.evaluation.regressions` for the rule."""
    if item.is_regression:
        return REGRESSION
    if item.is_improvement:
        return IMPROVEMENT
    if item.difference.mean == 0.0:
        return NO_DIFFERENCE
    small = abs(item.difference.mean) <= item.tolerance
    return WITHIN_TOLERANCE if small else NOT_SIGNIFICANT


Pair = tuple[ProbeResult, ProbeResult]
"""One probe under one protocol: older, newer."""


def paired_results(
    old: Iterable[ProbeResult], new: Iterable[ProbeResult], *, held: Collection[str] | None = None
) -> list[Pair]:
    """Results of the probes that both versions were asked, in a fixed order.

    Args:
        old: Of the older version.
        new: Of the newer version.
        held: Accuracy counts for these cases only; None: for all.
    """
    older: dict[ResultKey, ProbeResult] = {result_key(result): result for result in old}
    pairs = [(older[key], result) for result in new if (key := result_key(result)) in older]
    return sorted(
        (
            pair
            for pair in pairs
            if held is None or pair[0].kind.is_locality or pair[0].case_id in held
        ),
        key=lambda pair: result_key(pair[0]),
    )


def count_flips(pairs: Iterable[Pair]) -> list[FlipCount]:
    """How many probes of each metric and protocol flipped, each way."""
    groups: dict[tuple[ProbeKind, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair[0].kind, pair[0].protocol), []).append(pair)
    return [
        FlipCount(
            kind=str(kind),
            protocol=protocol,
            num_lost=sum(direction_of(pair) == LOST for pair in group),
            num_gained=sum(direction_of(pair) == GAINED for pair in group),
            num_samples=len(group),
        )
        for (kind, protocol), group in sorted(groups.items())
    ]


def direction_of(pair: Pair) -> str:
    """`LOST`, `GAINED`, or empty where both are right, or both wrong."""
    older, newer = pair
    if older.is_exact == newer.is_exact:
        return ""
    return LOST if older.is_exact else GAINED


def flips_of(pairs: Iterable[Pair], direction: str) -> list[Pair]:
    """Flips in one direction: each probe once, as a free answer where that flipped too."""
    found: dict[tuple[str, int], Pair] = {}
    for pair in pairs:
        key = pair[0].case_id, pair[0].probe_index
        if direction_of(pair) == direction and (
            key not in found or pair[0].protocol == FREE_GENERATION
        ):
            found[key] = pair
    return list(found.values())


def choose_flips(pairs: Sequence[Pair]) -> list[Pair]:
    """Flips that a page shows: as many as there is room for, of each metric in turn."""
    chosen: list[Pair] = []
    for direction in (LOST, GAINED):
        found = flips_of(pairs, direction)
        of_kinds = [[pair for pair in found if pair[0].kind == kind] for kind in ProbeKind]
        rounds = [pair for turn in zip_longest(*of_kinds) for pair in turn if pair is not None]
        chosen += rounds[:MAX_FLIPS]
    return chosen


class _Views:
    """Results as a page shows them, with images of their probes and of the kept experts."""

    def __init__(
        self, cases: Sequence[Case], edits: EditLookup, results: Sequence[ProbeResult]
    ) -> None:
        wanted = {result.case_id for result in results}
        self._cases = {case.case_id: case for case in cases if case.case_id in wanted}
        missing = sorted(wanted - set(self._cases))
        if missing:
            raise InputError(
                f"{len(missing)} cases of the results are not among the cases given, the first is "
                f"{missing[0]!r}: name the same cases as the evaluation had"
            )
        self._edits = edits({key for result in results for key in result.kept[:KEPT_SHOWN]})

    def edit(self, edit_id: str) -> EditView:
        """An edit of the bank; of one that the log lacks only its name is known."""
        unknown = EditView(edit_id=edit_id, prompt=edit_id[:12], target="not in the request log")
        return self._edits.get(edit_id, unknown)

    def example(self, result: ProbeResult, num_edits: int) -> Example:
        return example_of(result, num_edits, self._cases[result.case_id], self.edit)

    def flip(self, older: ProbeResult, newer: ProbeResult) -> Flip:
        probe = self._cases[older.case_id].all_probes()[older.probe_index]
        return Flip(
            direction=direction_of((older, newer)),
            case_id=older.case_id,
            kind=str(older.kind),
            protocol=older.protocol,
            prompt=probe.prompt,
            target=older.target,
            answer_unedited=older.answer_before,
            answer_old=older.answer_after,
            answer_new=newer.answer_after,
            score_old=older.score,
            score_new=newer.score,
            image_bytes=probe.image_bytes,
            kept_old=self._kept(older),
            kept_new=self._kept(newer),
        )

    def _kept(self, result: ProbeResult) -> list[KeptExpert]:
        kept = zip(result.kept[:KEPT_SHOWN], result.weights, strict=False)
        return [
            KeptExpert(edit=self.edit(key), weight=weight, is_own=key == result.edit_id)
            for key, weight in kept
        ]


def _version_view(version: EvaluatedVersion) -> VersionView:
    return VersionView(
        label=version.label,
        bank=version.bank,
        bank_version=version.bank_version,
        num_edits=version.num_edits,
    )
