"""Prepared once, cases are scored against any repository."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.evaluation.probes import FREE_GENERATION, PROTOCOLS, TEACHER_FORCED, ProbeResult
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import ProbeKind
from tests.unit.tiny_inputs import case
from tests.unit.tiny_models import CONFIG, TinyBackbone, TinyModels
from workers import evaluation_worker
from workers.evaluation_worker import EvaluationWorker
from workers.generator_worker import GeneratorWorker
from workers.messages import EvaluationUnit, NumberedRequest, SharedRepository
from workers.models import CacheNames


class SilentBackbone(TinyBackbone):
    """Encodes, and fails when it is asked for an answer."""

    def target_logits(self, *arguments: object, **named: object) -> list[Tensor]:
        raise AssertionError("asked again")

    def generate(self, inputs: Sequence[BackboneInput], *arguments: object, **named: object) -> Any:
        assert not inputs, "asked again"
        return []


class SilentModels(TinyModels):
    """Names that backbone."""

    def load_backbone(self) -> TinyBackbone:
        return SilentBackbone()


CASES = tuple(case(number) for number in range(3))
CASE_IDS = tuple(item.case_id for item in CASES)
FORCED = EvaluationUnit(cases=CASES, protocols=(TEACHER_FORCED,))


def repository() -> ExpertRepository:
    requests = [NumberedRequest(sequence=n + 1, request=c.edit) for n, c in enumerate(CASES)]
    batch = GeneratorWorker(TinyModels(), InputLimits()).generate(requests)
    return ExpertRepository.from_experts(CONFIG, [item.expert for item in batch.experts])


def scored(unit: EvaluationUnit, experts: ExpertRepository) -> tuple[ProbeResult, ...]:
    worker = EvaluationWorker(TinyModels())
    return worker.score(1, worker.prepare(unit), SharedRepository.of(experts), unit).results


def test_each_protocol_scores_all_probes_of_the_cases_it_is_asked_about() -> None:
    unit = EvaluationUnit(cases=CASES, protocols=PROTOCOLS, free_case_ids=CASE_IDS[1:])
    results = scored(unit, repository())
    asked = {(r.case_id, r.kind) for r in results if r.protocol == TEACHER_FORCED}
    free = {(r.case_id, r.kind) for r in results if r.protocol == FREE_GENERATION}
    assert len(asked) == 3 * 4
    assert free == {(case_id, kind) for case_id, kind in asked if case_id != CASE_IDS[0]}
    assert {kind for _, kind in free} >= {ProbeKind.TEXT_LOCALITY, ProbeKind.MODAL_LOCALITY}


def test_a_group_is_scored_as_if_its_edits_were_all() -> None:
    experts = repository()
    edits = tuple(item.edit.edit_id for item in CASES)
    groups = (edits[:2], edits[:2], edits[2:])
    unit = EvaluationUnit(cases=CASES, protocols=(TEACHER_FORCED,), groups=groups)
    alone = [
        *scored(EvaluationUnit(cases=CASES[:2], protocols=(TEACHER_FORCED,)), experts.take([0, 1])),
        *scored(EvaluationUnit(cases=CASES[2:], protocols=(TEACHER_FORCED,)), experts.take([2])),
    ]
    assert list(scored(unit, experts)) == alone
    assert scored(unit, experts) != scored(FORCED, experts)


def test_unedited_answers_are_left_for_the_next_worker(store: ObjectStore) -> None:
    unit = EvaluationUnit(cases=CASES, protocols=PROTOCOLS, free_case_ids=CASE_IDS)
    first = EvaluationWorker(TinyModels(), answers_uri=store.root_uri).prepare(unit)
    second = EvaluationWorker(SilentModels(), answers_uri=store.root_uri).prepare(unit)
    for one, other in zip(first.cases.probes, second.cases.probes, strict=True):
        assert one.unedited_ids == other.unedited_ids
        assert one.unedited_answer == other.unedited_answer == "answer"


def test_what_was_prepared_is_kept_for_other_versions_as_far_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = SharedRepository.of(repository())
    worker = EvaluationWorker(TinyModels())
    first, again = (worker.evaluate(version, shared, FORCED) for version in (1, 2))
    assert first.prepare_s > 0
    assert again.prepare_s == 0
    assert again.results == first.results
    small = worker.prepare(FORCED).num_bytes
    assert small > 1000
    monkeypatch.setattr(evaluation_worker, "KEPT_BYTES", small - 1)
    full = EvaluationWorker(TinyModels())
    assert all(full.evaluate(version, shared, FORCED).prepare_s > 0 for version in (1, 2))


def test_what_a_cache_holds_is_not_kept(store: ObjectStore) -> None:
    cache = CacheNames(store_uri=store.root_uri, dtype="float32")
    worker = EvaluationWorker(TinyModels(), cache=cache, answers_uri=store.root_uri)
    shared = SharedRepository.of(repository())
    assert all(worker.evaluate(version, shared, FORCED).prepare_s > 0 for version in (1, 2))


def test_a_shared_repository_is_the_same_memory() -> None:
    experts = replace(repository(), false_activation=0.1, traffic_MR=torch.eye(3))
    again = SharedRepository.of(experts).repository()
    assert (again.edit_ids, again.false_activation) == (experts.edit_ids, 0.1)
    assert again.traffic_MR is not None
    assert torch.equal(again.traffic_MR, torch.eye(3))
    assert again.down_LD.data_ptr() == experts.down_LD.data_ptr()
    read_only = SharedRepository.of(experts)
    read_only.fields["prompt"].flags.writeable = False
    shared_NK = read_only.repository().prompt_features_NK
    assert np.array_equal(shared_NK.numpy(), experts.prompt_features_NK.numpy())
