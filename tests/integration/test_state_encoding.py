"""States encoded by real actors: whole after a killed worker or driver, and the same on S3."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from infra.cache.state_cache import StateCache
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.states import LayerStates
from pipelines.job.ray_session import open_session
from pipelines.job.sections import StatesSection
from pipelines.job.state_cache import EncoderHere, fill_cache, start_encoders
from tests.integration.edit_job import kill_at, start_module
from tests.integration.state_job import CHUNK, IDENTITY, INPUTS, SESSION
from tests.tiny_backbone import image, tiny_backbone
from tests.unit.tiny_models import TinyBackbone


class MortalBackbone(TinyBackbone):
    """Kills its process in the middle of the work, once."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        if INPUTS[17] in inputs and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(inputs)


@dataclass(frozen=True)
class MortalModels:
    """Loads it, in an actor."""

    mark: Path

    def load_backbone(self) -> MortalBackbone:
        return MortalBackbone(self.mark)


def silent(done: int, total: int) -> None:
    """Report nothing."""


def assert_complete(store: ObjectStore) -> None:
    """Every input is held once, with the backbone's own rows."""
    cache = StateCache(store, IDENTITY)
    assert len(cache) == len(INPUTS)
    for state, expected in zip(cache.read(INPUTS), TinyBackbone().encode(INPUTS), strict=True):
        assert state is not None
        assert torch.equal(state.hidden_TD, expected.hidden_TD)


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with open_session(SESSION, needed_cpus=2):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_a_killed_worker_is_replaced_and_its_chunk_encoded(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "store")
    models = MortalModels(tmp_path / "died")
    pool = start_encoders(models.load_backbone, StatesSection(num_workers=2, num_cpus=0.5))
    added = fill_cache(StateCache(store, IDENTITY), pool, INPUTS, silent, chunk_size=CHUNK)
    pool.close()
    assert models.mark.exists()
    assert added == len(INPUTS)
    assert_complete(store)


@pytest.mark.slow
def test_a_killed_driver_leaves_what_it_committed(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "store")
    job = start_module("tests.integration.state_job", store.root_uri)
    kill_at(job, f"committed {3 * CHUNK} of {len(INPUTS)}")
    cache = StateCache(store, IDENTITY)
    held = len(cache)
    assert 3 * CHUNK <= held < len(INPUTS)
    encoder = EncoderHere(TinyBackbone)
    assert fill_cache(cache, encoder, INPUTS, silent, chunk_size=CHUNK) == len(INPUTS) - held
    assert_complete(store)


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_pyramids_come_from_actors() -> None:
    chunks = [[image(number) for number in some] for some in (range(3), range(3, 5))]
    pool = start_encoders(tiny_backbone, StatesSection(num_workers=2, num_cpus=0.5))
    found = list(pool.each_pyramids(chunks))
    pool.close()
    expected = list(EncoderHere(tiny_backbone).each_pyramids(chunks))
    assert [len(rows) for rows in found] == [3, 2]
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=2e-3, atol=2e-4)  # the last bits of a half


def test_the_cache_works_on_s3(s3_root: str) -> None:
    store = ObjectStore(s3_root)
    cache = StateCache(store, IDENTITY, max_bytes=10**6)
    assert fill_cache(cache, EncoderHere(TinyBackbone), INPUTS, silent, chunk_size=20) == 40
    assert_complete(store)
    cache._states.remove(cache.ids(INPUTS[:5]))
    cache._remove_orphans()
    assert fill_cache(cache, EncoderHere(TinyBackbone), INPUTS, silent) == 5
    assert_complete(store)
