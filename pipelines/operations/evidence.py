"""Gathers the evidence for the gates of a promotion from registry, store and probe results."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from infra.bank.manifest import BankManifest, content_problems
from infra.storage.object_store import ObjectStore
from infra.tracking.evaluation_log import EvaluatedBank, EvaluationLog, EvaluationRecord
from infra.tracking.model_registry import BANK_MODEL, ModelVersions, RegisteredVersion
from infra.tracking.results import EvaluationKey, ResultsTable
from liveedit_core.errors import IntegrityError, RepositoryMismatchError
from liveedit_core.evaluation.comparison import MetricComparison, in_scope
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.summaries import summarize
from pipelines.evaluation.versions import compare_by
from pipelines.job.registered_models import fetch_generator
from pipelines.operations.gates import Evidence
from pipelines.operations.recipe import PromotionRecipe


def gather_evidence(
    recipe: PromotionRecipe,
    *,
    store: ObjectStore,
    versions: ModelVersions,
    candidate: RegisteredVersion,
    champion: int,
    now: datetime,
) -> Evidence:
    """Collect what the gates need to know about a candidate; `champion` is 0 for none."""
    record = EvaluationLog(store, BANK_MODEL).newest_of(candidate.version)
    digest_problems, shard_problems = _content_problems(versions, candidate, record)
    evidence = Evidence(
        version=candidate.version,
        now=now,
        digest_problems=digest_problems,
        shard_problems=shard_problems,
        champion=champion,
    )
    if record is None:
        return evidence
    newest = _read_results(store, record.newest)
    old = _read_results(store, record.champion) if record.champion else []
    num_missing = _num_missing(record.newest, newest) + _num_missing(record.champion, old)
    comparisons: list[MetricComparison] = []
    if record.champion and not num_missing:
        comparisons = compare_by(recipe, newest, old, record.compared, record.entities)
    return replace(
        evidence,
        evaluated_at=record.evaluated_time,
        num_missing_results=num_missing,
        summary=summarize(in_scope(newest, record.newest.held), record.entities, seed=recipe.seed),
        budget=record.newest.budget,
        compared_with=record.champion.version if record.champion else 0,
        comparisons=comparisons,
        sources=_sources(record),
    )


def _read_results(store: ObjectStore, evaluated: EvaluatedBank) -> list[ProbeResult]:
    key = EvaluationKey(
        bank=evaluated.bank, bank_version=evaluated.bank_version, num_edits=evaluated.num_edits
    )
    return ResultsTable(store, evaluated.run).read(key)


def _num_missing(evaluated: EvaluatedBank | None, results: Sequence[ProbeResult]) -> int:
    return max(0, evaluated.num_results - len(results)) if evaluated else 0


def _content_problems(
    versions: ModelVersions, candidate: RegisteredVersion, record: EvaluationRecord | None
) -> tuple[list[str], list[str]]:
    """Problems with digests, and with shards."""
    try:
        manifest = versions.manifest(candidate)
    except IntegrityError as error:
        return [error.message], ["there is no manifest to compare with"]
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
