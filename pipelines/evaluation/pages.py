"""The pages of an evaluation and of a comparison, with the probes that they show.

What draws is imported when a page is written: a job edits before it has anything to show.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from infra.reports.data import (
    MAX_FLIPS,
    ComparisonReportData,
    EvaluationReportData,
    Example,
    Flip,
    KeptExpert,
)
from infra.requests.request_log import RequestLog
from liveedit_core.errors import InputError
from liveedit_core.evaluation.comparison import (
    GAINED,
    LOST,
    Pair,
    flips_of,
    in_scope,
    paired_results,
)
from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED, ProbeResult
from liveedit_core.schema import Case, EditRequest, ProbeKind
from workers.messages import CaseLoader

KEPT_SHOWN = 4
"""Experts shown for a probe."""
_EXAMPLES_PER_KIND = 3
_WORST_CASES = 16

EditLookup = Callable[[Collection[str]], Mapping[str, EditRequest]]
"""Edits by id; unknown ones may be left out."""


def edits_of(request_log: RequestLog) -> EditLookup:
    """Edits as the request log holds them."""

    def look_up(edit_ids: Collection[str]) -> dict[str, EditRequest]:
        found = [logged.request for logged in request_log.find(set(edit_ids))]
        return {request.edit_id: request for request in found}

    return look_up


def choose_examples(results: Sequence[ProbeResult]) -> list[ProbeResult]:
    """A few of each kind, free answers before teacher-forced ones."""
    chosen = []
    for kind in ProbeKind:
        group = [result for result in results if result.kind == kind]
        group.sort(key=lambda result: (result.protocol != FREE_GENERATION, result.case_id))
        chosen += group[:_EXAMPLES_PER_KIND]
    return chosen


def choose_worst(results: Sequence[ProbeResult]) -> list[ProbeResult]:
    """The worst probe of each of the cases with the lowest mean score over their probes."""
    by_case: dict[str, list[ProbeResult]] = {}
    for result in results:
        if result.protocol == TEACHER_FORCED:
            by_case.setdefault(result.case_id, []).append(result)
    means = {key: sum(r.score for r in group) / len(group) for key, group in by_case.items()}
    bad = sorted((mean, key) for key, mean in means.items() if mean < 1.0)[:_WORST_CASES]
    return [min(by_case[key], key=lambda result: result.score) for _, key in bad]


def choose_flips(pairs: Sequence[Pair]) -> list[Pair]:
    """As many flips as a page has room for in each direction, taking each metric in turn."""
    chosen: list[Pair] = []
    for direction in (LOST, GAINED):
        found = flips_of(pairs, direction)
        of_kinds = [[pair for pair in found if pair[0].kind == kind] for kind in ProbeKind]
        rounds = [pair for turn in zip_longest(*of_kinds) for pair in turn if pair is not None]
        chosen += rounds[:MAX_FLIPS]
    return chosen


class ExampleBuilder:
    """Adds to results what a page shows with them: the probe's image, and the experts kept."""

    def __init__(
        self,
        cases: Iterable[Case],
        edits: EditLookup,
        results: Sequence[ProbeResult],
        load: CaseLoader = list,
    ) -> None:
        """Look up the cases and kept edits of the results to show; no case may be missing. `load`
        gives the cases their images, if they have none."""
        wanted = {result.case_id for result in results}
        shown = load([case for case in cases if case.case_id in wanted])
        self._cases = {case.case_id: case for case in shown}
        missing = sorted(wanted - set(self._cases))
        if missing:
            raise InputError(
                f"{len(missing)} cases of the results are not among the cases given, the first is "
                f"{missing[0]!r}: name the same cases as the evaluation had"
            )
        self._edits = edits({key for result in results for key in result.kept[:KEPT_SHOWN]})

    def example(self, result: ProbeResult, num_edits: int) -> Example:
        """One scored probe of a bank with so many edits."""
        probe = self._cases[result.case_id].all_probes()[result.probe_index]
        return Example(result=result, probe=probe, num_edits=num_edits, kept=self._kept(result))

    def flip(self, pair: Pair) -> Flip:
        old, new = pair
        probe = self._cases[old.case_id].all_probes()[old.probe_index]
        kept_old, kept_new = self._kept(old), self._kept(new)
        return Flip(old=old, new=new, probe=probe, kept_old=kept_old, kept_new=kept_new)

    def _kept(self, result: ProbeResult) -> list[KeptExpert]:
        return [
            KeptExpert(
                edit_id=edit_id,
                edit=self._edits.get(edit_id),
                weight=weight,
                is_own=edit_id == result.edit_id,
            )
            for edit_id, weight in zip(result.kept[:KEPT_SHOWN], result.weights, strict=False)
        ]


def write_evaluation_page(
    path: Path,
    data: EvaluationReportData,
    *,
    cases: Sequence[Case],
    edits: EditLookup,
    load: CaseLoader = list,
) -> Path:
    """Write the page of one evaluation of `cases`; its examples are chosen here. `load`: see
    `ExampleBuilder`."""
    from infra.reports.evaluation import render_evaluation_report
    from infra.reports.page import write_page

    results, num_edits = data.version.results, data.version.num_edits
    worst, chosen = choose_worst(results), choose_examples(results)
    builder = ExampleBuilder(cases, edits, [*worst, *chosen], load)
    shown = replace(
        data,
        examples=[builder.example(result, num_edits) for result in chosen],
        worst_cases=[builder.example(result, num_edits) for result in worst],
    )
    return write_page(path, render_evaluation_report(shown))


def write_comparison_page(
    path: Path,
    data: ComparisonReportData,
    *,
    cases: Sequence[Case],
    edits: EditLookup,
    held: Collection[str],
    load: CaseLoader = list,
) -> Path:
    """Write the page of a comparison on `cases`; its pairs and flips are chosen here. `held` are
    the case_ids of the cases whose accuracy was compared; `load`: see `ExampleBuilder`."""
    from infra.reports.comparison import render_comparison_report
    from infra.reports.page import write_page

    pairs = paired_results(in_scope(data.old.results, held), in_scope(data.new.results, held))
    flips = choose_flips(pairs)
    builder = ExampleBuilder(cases, edits, [result for pair in flips for result in pair], load)
    shown = replace(data, pairs=pairs, flips=[builder.flip(pair) for pair in flips])
    return write_page(path, render_comparison_report(shown))
