"""Generating, embedding, comparing and evaluating edits with one actor and the driver."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.writers import evaluator_of, start_writers, subjects_of
from pipelines.evaluation.bank_evaluation import EvaluationSettings, evaluate_bank_version
from pipelines.job import start_workers
from pipelines.job.sections import (
    EmbeddingSection,
    EvaluationSection,
    GeneratorSection,
    RaySection,
)
from tests.unit.tiny_inputs import HashEmbedder, case, request
from tests.unit.tiny_models import IDENTITY, TinyModels
from workers.actor_pool import WorkerPool
from workers.subject_assigner import SubjectAssigner

BATCHES = [(1,), (2, 3), (4, 5)]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def hash_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_workers, "_embedder_loader", lambda *_: HashEmbedder)


def as_pool(stage: object) -> WorkerPool[Any, Any, Any]:
    assert isinstance(stage, WorkerPool)
    return stage


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_bank_does_not_depend_on_who_embeds(tmp_path: Path, num_workers: int) -> None:
    recipe = LifelongEditRecipe(
        store=str(tmp_path),
        embedding=EmbeddingSection(num_workers=num_workers),
        generator=GeneratorSection(num_cpus=0.5),
    )
    store = ObjectStore(tmp_path)
    log = RequestLog(store)
    log.append([request(number) for number in range(5)], source="test", first_place=1)
    writers = start_writers(recipe, TinyModels())
    try:
        assert writers.bank_identity() == IDENTITY
        bank = ExpertBank.open_or_create(store, "main", IDENTITY)
        subjects = subjects_of(recipe, bank, writers.generator.describe())
        assert isinstance(subjects, SubjectAssigner)
        generated = writers.generator.stream(BATCHES, log.reader())
        written = list(writers.embedder.stream(generated, bank.fragment_writer()))
        (found,) = subjects.stream([[asked for _, asked in written]])
        pools = (writers.generator, writers.embedder)
        actors = {one._actor_id for pool in pools for one in as_pool(pool).actors}
    finally:
        writers.generator.close()
        writers.embedder.close()
    assert len(actors) == 1 + num_workers
    fragments = [item for batch, _ in written for item in batch.fragments]
    bank.commit(fragments, epoch=bank.acquire_writer(), subjects=found)
    rows = bank.load_rows(["edit_id"]).column("edit_id").to_pylist()
    assert rows == [request(number).edit_id for number in range(5)]
    assert set(found) == set(rows)


def test_a_cluster_compares_edits_and_merges_files_in_an_actor(tmp_path: Path) -> None:
    recipe = LifelongEditRecipe(store=str(tmp_path), ray=RaySection(address="auto"))
    bank = ExpertBank.open_or_create(ObjectStore(tmp_path), "main", IDENTITY)
    writers = start_writers(LifelongEditRecipe(store=str(tmp_path)), TinyModels())
    subjects = subjects_of(recipe, bank, writers.generator.describe())
    assert isinstance(subjects, WorkerPool)
    assert subjects.run(os.getpid) != os.getpid()
    for pool in (writers.generator, writers.embedder, subjects):
        as_pool(pool).close()


def test_the_generators_actor_evaluates_as_others_do_and_outlives_the_edits(
    tmp_path: Path,
) -> None:
    recipe = LifelongEditRecipe(
        run_root=str(tmp_path / "runs"),
        store=str(tmp_path / "store"),
        evaluation=EvaluationSection(num_workers=0),
    )
    store, cases = ObjectStore(recipe.store_uri), [case(number) for number in range(5)]
    log = RequestLog(store)
    log.append([one.edit for one in cases], source="test", first_place=1)
    writers = start_writers(recipe, TinyModels())
    bank = ExpertBank.open_or_create(store, "main", writers.bank_identity())
    generated = writers.generator.stream(BATCHES, log.reader())
    written = list(writers.embedder.stream(generated, bank.fragment_writer()))
    fragments = [item for batch, _ in written for item in batch.fragments]
    subjects = {one.edit.edit_id: one.edit.subject_id for one in cases}
    version = bank.commit(fragments, epoch=bank.acquire_writer(), subjects=subjects)
    own = evaluator_of(recipe, TinyModels(), writers.generator)
    writers.generator.close()
    writers.embedder.close()
    others = start_workers.start_evaluator(TinyModels(), EvaluationSection(num_workers=1))
    first, second = (
        evaluate_bank_version(
            store=store,
            bank=bank,
            version=version,
            cases=cases,
            settings=EvaluationSettings(),
            pool=pool,
            run=run,
        )
        for pool, run in ((own, "own"), (others, "others"))
    )
    (actor,) = as_pool(writers.generator).actors
    pid = ray.get(actor.__ray_call__.remote(lambda worker: os.getpid()))
    for pool in (own, others):
        pool.close()
    assert first.is_complete
    assert first.results == second.results
    assert {one.kept for one in first.results} != {()}
    assert pid != os.getpid()
