"""A split is encoded once, goes on where it was broken off, and keeps within the budget."""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from infra.cache.state_cache import StateCache
from infra.cache.state_rows import StateWriter, WrittenStates
from infra.cache.stored_inputs import StoredInputs
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import ConfigError
from liveedit_core.state_source import StateIdentity
from liveedit_core.training.data import TrainingData
from pipelines.job import state_cache
from pipelines.job.sections import StatesSection
from pipelines.job.state_cache import (
    EncoderHere,
    cache_names,
    fill_cache,
    open_cache,
    training_source,
)
from tests.unit.tiny_inputs import image
from tests.unit.tiny_models import TinyBackbone, TinyModels
from workers.models import ModelNames

IDENTITY = StateIdentity.of(TinyBackbone(), "float32")
INPUTS = [
    BackboneInput(prompt=prompt, target="an entity", image_bytes=image(number))
    for number in range(10)
    for prompt in ("What is it?", "Who made it?", "What is it?")
]
"""20 distinct ones."""


class Interrupted(Exception):  # noqa: N818
    """Ends the process, as it were."""


class BreakingEncoder(EncoderHere):
    """Does some chunks, then breaks off."""

    def __init__(self, num_chunks: int) -> None:
        super().__init__(TinyBackbone)
        self.rest = num_chunks
        self.encoded: list[BackboneInput] = []

    def write(self, chunk: Sequence[BackboneInput], writer: StateWriter) -> WrittenStates:
        if self.rest == 0:
            raise Interrupted
        self.rest -= 1
        self.encoded += chunk
        return super().write(chunk, writer)


def fill(cache: StateCache, encoder: EncoderHere) -> int:
    reports: list[tuple[int, int]] = []
    num_added = fill_cache(
        cache, encoder, INPUTS, lambda *numbers: reports.append(numbers), chunk_size=4
    )
    assert [total for _, total in reports] == [20] * len(reports)
    return num_added


def test_a_broken_off_job_goes_on_where_it_was(store: ObjectStore) -> None:
    first, second = BreakingEncoder(2), BreakingEncoder(-1)
    with pytest.raises(Interrupted):
        fill(StateCache(store, IDENTITY), first)
    assert fill(StateCache(store, IDENTITY), second) == 12
    assert set(first.encoded) | set(second.encoded) == set(INPUTS)
    assert len(first.encoded) + len(second.encoded) == 20
    assert fill(StateCache(store, IDENTITY), BreakingEncoder(0)) == 0


def test_a_split_larger_than_the_budget_is_encoded_as_far_as_it_fits(store: ObjectStore) -> None:
    whole = StateCache(ObjectStore(f"{store.root_uri}/whole"), IDENTITY)
    fill(whole, EncoderHere(TinyBackbone))
    cache = StateCache(store, IDENTITY, max_bytes=whole.num_bytes // 2)
    encoder = BreakingEncoder(-1)
    assert fill(cache, encoder) == 8
    assert cache.num_bytes <= cache.max_bytes
    assert len(encoder.encoded) == 12, "one chunk was too much, no more were begun"
    source = training_source(cache, TinyBackbone(), ModelNames())
    assert len(source.states(INPUTS)) == len(INPUTS)
    assert len(cache) == 8


class WatchedEncoder(EncoderHere):
    """Notes what would be sent to another process."""

    sent: list[bytes]

    def stream(
        self, chunks: Iterable[Sequence[BackboneInput]], writer: StateWriter
    ) -> Iterator[WrittenStates]:
        self.sent = [pickle.dumps(chunk) for chunk in chunks]
        return super().stream(map(pickle.loads, self.sent), writer)


@pytest.mark.parametrize("is_stored", [True, False])
def test_workers_read_inputs_from_the_store(
    is_stored: bool, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs: Sequence[BackboneInput] = INPUTS
    if is_stored:
        inputs = StoredInputs(store, "training")
        inputs.write(INPUTS)
    monkeypatch.setattr(state_cache, "EncoderHere", str)  # as if it were in another process
    encoder = WatchedEncoder(TinyBackbone)
    cache = StateCache(store, IDENTITY)
    assert fill_cache(cache, encoder, inputs, lambda done, total: None, chunk_size=8) == 20
    for one, two in zip(cache.read(INPUTS), TinyBackbone().encode(INPUTS), strict=True):
        assert one is not None
        assert torch.equal(one.hidden_TD, two.hidden_TD)
    assert len(encoder.sent) == 3
    assert not any(b"PNG" in chunk or b"Who made it" in chunk for chunk in encoder.sent)
    assert store.list("inputs/") == []


def test_an_encoder_of_another_layer_is_refused(store: ObjectStore) -> None:
    class Deeper(TinyBackbone):
        edit_layer = 7

    with pytest.raises(ConfigError, match="edit_layer=7"):
        fill(StateCache(store, IDENTITY), EncoderHere(Deeper))


def test_a_recipe_names_the_cache_or_none(tmp_path: Path) -> None:
    off = StatesSection(is_cached=False)
    assert cache_names(off, "runs") is None
    assert open_cache(off, "runs", TinyBackbone()) is None
    names = cache_names(StatesSection(dtype="bfloat16", max_bytes=7), str(tmp_path))
    assert names is not None
    assert names.store_uri == (tmp_path / "cache").as_uri()
    assert (names.dtype, names.max_bytes) == ("bfloat16", 7)
    assert StatesSection(store="s3://bucket/x").store_uri("runs") == "s3://bucket/x"


class CountedModels(TinyModels):
    """Counts how often the backbone is loaded."""

    loaded = 0

    def load_backbone(self) -> TinyBackbone:
        CountedModels.loaded += 1
        return super().load_backbone()


@pytest.mark.parametrize("has_cache", [True, False])
def test_training_data_travels_to_other_processes(
    has_cache: bool, store: ObjectStore, tmp_path: Path
) -> None:
    cache = StateCache(store, IDENTITY) if has_cache else None
    if cache is not None:
        cache.commit(cache.writer.write(INPUTS[:2], TinyBackbone().encode(INPUTS[:2])))
    source = training_source(cache, TinyBackbone(), CountedModels())
    inputs = StoredInputs(ObjectStore(tmp_path), "inputs")
    inputs.write(INPUTS)
    data = TrainingData(inputs, source, [], [])
    assert source.states([INPUTS[5]])
    assert CountedModels.loaded == 0, "the backbone at hand is used"
    sent = pickle.dumps(data)
    assert len(sent) < 10_000, "neither states, inputs nor the backbone"
    arrived = pickle.loads(sent)
    for one, other in zip(arrived.states([1, 0, 5]), data.states([1, 0, 5]), strict=True):
        assert torch.equal(one.hidden_TD, other.hidden_TD)
    assert CountedModels.loaded == 1, "for what was not cached"
    CountedModels.loaded = 0
