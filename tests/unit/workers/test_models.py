"""Workers of a node take turns at the built-in parts, and share what they cache."""

import fcntl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.parts import one_process_at_a_time
from liveedit_core.states import LayerStates
from tests.unit.tiny_inputs import case, request
from tests.unit.tiny_models import CONFIG, TinyBackbone, TinyModels
from workers.evaluation_worker import EvaluationWorker
from workers.generator_worker import GeneratorWorker
from workers.messages import EvaluationUnit, NumberedRequest, SharedRepository
from workers.models import CacheNames

CASES = [case(number) for number in range(5)]
UNIT = EvaluationUnit(cases=tuple(CASES), protocols=("teacher_forced",))


class CountingBackbone(TinyBackbone):
    """Notes what it encodes."""

    def __init__(self) -> None:
        self.encoded: list[BackboneInput] = []

    def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        self.encoded += inputs
        return super().encode(inputs)


@dataclass(frozen=True)
class CountingModels(TinyModels):
    """Gives one backbone to all."""

    backbone: CountingBackbone = field(default_factory=CountingBackbone)

    def load_backbone(self) -> CountingBackbone:
        return self.backbone


def names(store: ObjectStore) -> CacheNames:
    return CacheNames(store_uri=store.root_uri, dtype="float32")


def test_probes_that_a_worker_encoded_are_read_by_the_next(store: ObjectStore) -> None:
    plain = EvaluationWorker(TinyModels()).prepare(UNIT)
    first, second = CountingModels(), CountingModels()
    EvaluationWorker(first, cache=names(store)).prepare(UNIT)
    assert len(first.backbone.encoded) == 3 * len(CASES) + 1, "the text-only probe is shared"
    worker = EvaluationWorker(second, cache=names(store))
    read = worker.prepare(UNIT)
    assert second.backbone.encoded == []
    nothing = SharedRepository.of(ExpertRepository.empty(CONFIG))
    assert (
        worker.score(1, read, nothing, UNIT).results
        == worker.score(1, plain, nothing, UNIT).results
    )


def test_edits_are_shared_between_evaluation_and_generation(store: ObjectStore) -> None:
    EvaluationWorker(TinyModels(), cache=names(store)).prepare(UNIT)
    requests = [item.edit for item in CASES] + [request(99)]
    batch = [NumberedRequest(sequence=n + 1, request=item) for n, item in enumerate(requests)]
    models = CountingModels()
    cached = GeneratorWorker(models, InputLimits(), cache=names(store)).generate(batch)
    assert [item.image_bytes for item in models.backbone.encoded] == [request(99).image_bytes]
    plain = GeneratorWorker(TinyModels(), InputLimits()).generate(batch)
    for one, other in zip(cached.experts, plain.experts, strict=True):
        assert torch.equal(one.expert.down_RD, other.expert.down_RD)


def test_a_poisoned_edit_is_refused_and_never_stored(store: ObjectStore) -> None:
    models = TinyModels(poisoned_prompt="Is this poison?")
    batch = [
        NumberedRequest(sequence=1, request=request(0, prompt="Is this poison?")),
        NumberedRequest(sequence=2, request=request(1)),
    ]
    for _ in range(2):
        worker = GeneratorWorker(models, InputLimits(), cache=names(store))
        answer = worker.generate(batch)
        assert [item.error_type for item in answer.rejected] == ["NumericsError"]
        assert [item.sequence for item in answer.experts] == [2]


def test_others_wait_while_one_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEEDIT_CACHE", str(tmp_path / "cache"))
    with (
        one_process_at_a_time(),
        (tmp_path / "cache" / ".lock").open("w") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "cache" / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_cache_that_may_not_be_written_to_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by permissions: root, as which tests may run, has them all."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIVEEDIT_CACHE", str(tmp_path / "file" / "cache"))
    with one_process_at_a_time():
        pass
    with pytest.raises(ValueError, match="of the body"), one_process_at_a_time():
        raise ValueError("of the body")
