"""Gathers what the gates of a promotion look at, from registry, store and single probe results."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from infra.bank.manifest import BankManifest, content_problems
from infra.storage.object_store import ObjectStore
from infra.tracking.evaluation_log import EvaluatedBank, EvaluationLog, EvaluationRecord
from infra.tracking.model_registry import BANK_MODEL, ModelVersions, RegisteredVersion
from infra.tracking.results import EvaluationKey, ResultsTable
from liveedit_core.errors import IntegrityError, RepositoryMismatchError
from liveedit_core.evaluation.comparison import MetricComparison, compare_results, in_scope
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.summaries import Summary, metric_values, summarize
from pipelines.job.registered_models import fetch_generator
from pipelines.operations.gates import Evidence
from pipelines.operations.recipe import PromotionRecipe


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The evidence, and what an audit record keeps of it."""

    evidence: Evidence
    numbers: Mapping[str, float]
    sources: Mapping[str, str]


def gather(
    recipe: PromotionRecipe,
    *,
    store: ObjectStore,
    versions: ModelVersions,
    candidate: RegisteredVersion,
    champion: int,
    now: datetime,
) -> Findings:
    """Look at a version that is to be promoted.

    Args:
        recipe: How results are compared.
        store: Of the operations.
        versions: The registry.
        candidate: The version.
        champion: Version that serves now; 0 for none.
        now: The time.

    Raises:
        StorageUnavailableError: A store does not answer.
        TrackingError: MLflow does not answer.
    """
    record = EvaluationLog(store, BANK_MODEL).newest_of(candidate.version)
    digest_problems, shard_problems = _content(versions, candidate, record)
    evidence = Evidence(
        version=candidate.version,
        now=now,
        digest_problems=digest_problems,
        shard_problems=shard_problems,
        champion=champion,
    )
    if record is None:
        return Findings(evidence=evidence, numbers={}, sources={})
    newest = read_results(store, record.newest)
    old = read_results(store, record.champion) if record.champion else []
    num_missing = _num_missing(record.newest, newest)
    num_missing += _num_missing(record.champion, old) if record.champion else 0
    summary = summarize(in_scope(newest, record.newest.held), seed=recipe.seed)
    comparisons = _comparisons(recipe, record, newest, old) if not num_missing else []
    judged = replace(
        evidence,
        evaluated_at=record.evaluated_time,
        num_missing_results=num_missing,
        summary=summary,
        compared_with=record.champion.version if record.champion else 0,
        comparisons=comparisons,
    )
    return Findings(
        evidence=judged, numbers=_numbers(summary, comparisons), sources=_sources(record)
    )


def read_results(store: ObjectStore, examined: EvaluatedBank) -> list[ProbeResult]:
    """All results of one evaluated version."""
    key = EvaluationKey(
        bank=examined.bank, bank_version=examined.bank_version, num_edits=examined.num_edits
    )
    return ResultsTable(store, examined.run).read(key)


def _content(
    versions: ModelVersions, candidate: RegisteredVersion, record: EvaluationRecord | None
) -> tuple[list[str], list[str]]:
    """Problems with digests, problems with shards."""
    try:
        manifest = versions.manifest(candidate)
    except IntegrityError as error:
        return [error.message], ["no manifest says what they should be"]
    digest_problems = _digest_problems(versions, manifest, record)
    try:
        shard_problems = content_problems(manifest.open_bank(), manifest)
    except RepositoryMismatchError as error:
        return [*digest_problems, error.message], ["the bank is another one"]
    except IntegrityError as error:
        return digest_problems, [error.message]
    return digest_problems, shard_problems


def _digest_problems(
    versions: ModelVersions, manifest: BankManifest, record: EvaluationRecord | None
) -> list[str]:
    problems = []
    if record is not None:
        for name in ("backbone_digest", "generator_digest"):
            registered, used = getattr(manifest.identity, name), getattr(record.newest, name)
            if registered != used:
                problems.append(
                    f"it was evaluated with {name} {used}, registered with {registered}"
                )
    try:
        with tempfile.TemporaryDirectory() as folder:
            fetch_generator(versions, manifest.identity.generator_digest, Path(folder))
    except IntegrityError as error:
        problems.append(error.message)
    return problems


def _comparisons(
    recipe: PromotionRecipe,
    record: EvaluationRecord,
    new: list[ProbeResult],
    old: list[ProbeResult],
) -> list[MetricComparison]:
    if record.champion is None:
        return []
    return compare_results(
        new,
        old,
        held=record.compared,
        alpha=recipe.regression.alpha,
        num_resamples=recipe.regression.num_resamples,
        tolerance_of=recipe.tolerances.of,
        seed=recipe.seed,
    )


def _num_missing(examined: EvaluatedBank, results: list[ProbeResult]) -> int:
    return max(0, examined.num_results - len(results))


def _numbers(summary: Summary, comparisons: list[MetricComparison]) -> dict[str, float]:
    differences = {f"difference.{item.name}": item.difference.mean for item in comparisons}
    return {**metric_values(summary), **differences}


def _sources(record: EvaluationRecord) -> dict[str, str]:
    sources = {
        "results": record.newest.run,
        "evaluated_at": record.evaluated_at,
        "mlflow_run_id": record.mlflow_run_id,
        "bank": record.newest.bank,
        "bank_version": str(record.newest.bank_version),
        "generator_digest": record.newest.generator_digest,
    }
    if record.champion is not None:
        sources["compared_with"] = f"version {record.champion.version}"
        sources["champion_results"] = record.champion.run
    return sources
