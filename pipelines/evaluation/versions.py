"""Compares two bank versions by stored results, without loading a model."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from infra.bank.expert_bank import ExpertBank
from infra.reports.data import ComparisonReportData, EvaluatedVersion
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.results import ResultsTable
from liveedit_core.errors import InputError
from liveedit_core.evaluation.comparable import check_comparable
from liveedit_core.evaluation.comparison import (
    MetricComparison,
    Pair,
    cases_held,
    compare_results,
    paired_results,
)
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.schema import Case, entity_of
from pipelines.evaluation.pages import edits_of, write_comparison_page
from pipelines.evaluation.recipe import ComparingRecipe, VersionComparisonRecipe, VersionSection
from pipelines.job.cases import load_evaluation_cases, read_case_file
from pipelines.job.run_folder import run_facts


def compare_versions(recipe: VersionComparisonRecipe) -> tuple[Path, ComparisonReportData]:
    """Compare two versions and write the page; returns its path and what it compares."""
    recipe.check_complete()
    store, bank_store = ObjectStore(recipe.store_uri), ObjectStore(recipe.bank_store_uri)
    old = find_version(store, recipe.bank, recipe.old)
    new = find_version(store, recipe.bank, recipe.new)
    pairs = paired_results(old.results, new.results)
    if not pairs:
        raise InputError("no probe was scored for both versions: there is nothing to compare")
    check_comparable(
        {version.label: version.comparable_group for version in (old, new)},
        except_for=("cases",),  # the pairs are the same probes
    )
    cases = read_cases(recipe, bank_store, pairs)
    held = cases_held(cases, ExpertBank.open(bank_store, recipe.bank).edit_ids(old.bank_version))
    data = ComparisonReportData(
        old=old,
        new=new,
        seed=recipe.seed,
        comparisons=compare_by(
            recipe,
            [newer for _, newer in pairs],
            [older for older, _ in pairs],
            held,
            entity_of(cases),
        ),
        warnings=_warnings(old, new, len(pairs)),
        facts={
            **run_facts(),
            "store": recipe.store_uri,
            "results": f"{recipe.old.results} and {recipe.new.results}",
            "comparable group": str(new.comparable_group or "not recorded"),
            "cases": recipe.cases or recipe.benchmark.title,
        },
    )
    path = recipe.page(old.bank_version, new.bank_version)
    edits = edits_of(RequestLog(bank_store))
    return write_comparison_page(path, data, cases=cases, edits=edits, held=held), data


def compare_by(
    recipe: ComparingRecipe,
    new: Iterable[ProbeResult],
    old: Iterable[ProbeResult],
    held: Collection[str],
    entities: Mapping[str, str],
) -> list[MetricComparison]:
    """`compare_results` with the test and the tolerances of a recipe."""
    return compare_results(
        new,
        old,
        held=held,
        entities=entities,
        alpha=recipe.regression.alpha,
        num_resamples=recipe.regression.num_resamples,
        tolerance_of=recipe.tolerances.of,
        seed=recipe.seed,
    )


def find_version(store: ObjectStore, bank: str, section: VersionSection) -> EvaluatedVersion:
    """The stored results of a version, from its evaluation with the most edits."""
    table = ResultsTable(store, section.results)
    known = [key for key in table.evaluations() if key.bank == bank and key.group_size == 0]
    found = [key for key in known if section.version in (0, key.bank_version)]
    if not found:
        stored = ", ".join(
            f"{key.bank} version {key.bank_version} ({key.num_edits} edits)"
            for key in table.evaluations()
        )
        wanted = f"version {section.version}" if section.version else "any version"
        raise InputError(
            f"results/{table.run} has no results of bank {bank!r}, {wanted}; "
            f"it has: {stored or 'nothing'}"
        )
    key = max(found, key=lambda item: (item.bank_version, item.num_edits))
    return EvaluatedVersion(
        label=section.label or f"version {key.bank_version}",
        bank=bank,
        bank_version=key.bank_version,
        num_edits=key.num_edits,
        results=table.read(key),
        comparable_group=table.comparable_group(key),
    )


def read_cases(
    recipe: VersionComparisonRecipe, bank_store: ObjectStore, pairs: Iterable[Pair]
) -> list[Case]:
    """The evaluated cases; those made from plain requests come from the bank's request log."""
    wanted = {older.case_id for older, _ in pairs}
    if recipe.cases:
        cases, _ = read_case_file(recipe.cases, limits=recipe.limits, store=bank_store)
    else:
        reader = f"{recipe.job} {recipe.old.results}, {recipe.new.results}"
        cases = load_evaluation_cases(recipe.benchmark, limits=recipe.limits, reader=reader)
    found = {case.case_id: case for case in cases if case.case_id in wanted}
    for logged in RequestLog(bank_store).find(wanted - set(found)):
        request = logged.request
        found[request.edit_id] = Case(case_id=request.edit_id, edit=request)
    return [found[name] for name in sorted(found)]


def _warnings(old: EvaluatedVersion, new: EvaluatedVersion, num_pairs: int) -> list[str]:
    warnings = []
    for version in (old, new):
        num_alone = len(version.results) - num_pairs
        if num_alone:
            warnings.append(
                f"{num_alone:,} of {len(version.results):,} results of {version.label} have no "
                "counterpart in the other version and were left out."
            )
    if old.bank_version == new.bank_version:
        warnings.append("Both results are of the same version.")
    return warnings
