"""Checkpoints of training: whole or not there, last k and best, verified when read."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from infra.storage.object_store import ObjectStore
from infra.tracking.generator_checkpoints import (
    CheckpointEntry,
    GeneratorCheckpoints,
    Position,
    best_of,
)
from liveedit_core.errors import ConfigError, IntegrityError, StorageUnavailableError
from liveedit_core.method.generator import LiveEditGenerator, load_generator, save_generator
from tests.small_rows import SMALL_CONFIG


@pytest.fixture
def generator() -> LiveEditGenerator:
    torch.manual_seed(0)
    return LiveEditGenerator(SMALL_CONFIG)


@pytest.fixture
def checkpoints(store: ObjectStore) -> GeneratorCheckpoints:
    return GeneratorCheckpoints(store, "run-1", last_k=2)


def position(step: int) -> Position:
    curve = [{"phase": "experts", "step": step, "nll": 1.0 / step}]
    return Position(phase="experts", step=step, seed=3, recipe_digest="r1", curve=curve)


def moments(step: int) -> dict[str, Tensor]:
    return {"moment.hidden_norm.weight.exp_avg": torch.full((6,), float(step))}


def train(
    checkpoints: GeneratorCheckpoints,
    generator: LiveEditGenerator,
    step: int,
    score: float | None = None,
) -> CheckpointEntry:
    """Move the weights as training does, and save."""
    with torch.no_grad():
        generator.hidden_norm.weight.fill_(step)
    return checkpoints.save(generator, moments(step), position(step), score)


def stored_digests(store: ObjectStore) -> set[str]:
    return {key.split("/")[1] for key in store.list("generators/")}


def test_a_checkpoint_comes_back_as_it_was(
    checkpoints: GeneratorCheckpoints, generator: LiveEditGenerator, tmp_path: Path
) -> None:
    assert checkpoints.resume() is None
    entry = train(checkpoints, generator, 4)
    assert checkpoints.last() == entry
    loaded = load_generator(checkpoints.fetch(entry.digest, tmp_path / "fetched"))
    assert loaded.digest == entry.digest
    assert torch.equal(loaded.hidden_norm.weight, generator.hidden_norm.weight)
    state = checkpoints.resume()
    assert state is not None
    assert state.position == position(4)
    assert torch.equal(state.moments.popitem()[1], torch.full((6,), 4.0))


def test_last_k_and_best_are_kept_and_nothing_else(
    checkpoints: GeneratorCheckpoints, generator: LiveEditGenerator, store: ObjectStore
) -> None:
    scores = (0.2, 0.9, 0.3, None, 0.5)
    entries = [train(checkpoints, generator, i + 1, score) for i, score in enumerate(scores)]
    assert checkpoints.entries() == [entries[1], entries[3], entries[4]]
    assert checkpoints.best() == entries[1]
    assert checkpoints.last() == entries[4]
    assert stored_digests(store) == {entry.digest for entry in checkpoints.entries()}


def test_a_negative_score_is_a_score() -> None:
    entries = [
        CheckpointEntry(digest=d, phase="joint", step=1, score=s)
        for d, s in (("a", -2.0), ("b", -1.0), ("c", -1.5))
    ]
    best = best_of(entries)
    assert best is not None
    assert best.digest == "b"


class DyingStore(ObjectStore):
    """Loses its connection at the n-th write."""

    writes_left = 0

    def put(self, key: str, data: bytes) -> None:
        if self.writes_left == 0:
            raise StorageUnavailableError("the connection is lost")
        self.writes_left -= 1
        super().put(key, data)


@pytest.mark.parametrize("writes", range(5))
def test_a_half_written_checkpoint_is_never_picked(
    writes: int, generator: LiveEditGenerator, store: ObjectStore, tmp_path: Path
) -> None:
    whole = train(GeneratorCheckpoints(store, "run-1"), generator, 1)
    dying = DyingStore(store.root_uri)
    dying.writes_left = writes
    with pytest.raises(StorageUnavailableError):
        train(GeneratorCheckpoints(dying, "run-1"), generator, 2)
    again = GeneratorCheckpoints(store, "run-1", last_k=1)
    assert again.last() == whole
    state = again.resume()
    assert state is not None
    assert state.position.step == 1
    again.fetch(whole.digest, tmp_path / "fetched")
    third = train(again, generator, 3)
    assert stored_digests(store) == {third.digest}  # what the dead process left is swept


def test_the_same_weights_at_a_later_position(
    checkpoints: GeneratorCheckpoints, generator: LiveEditGenerator
) -> None:
    train(checkpoints, generator, 1)
    checkpoints.save(generator, moments(2), position(2))
    state = checkpoints.resume()
    assert state is not None
    assert state.position.step == 2
    assert len(checkpoints.entries()) == 1


def test_saving_again_adds_the_score(
    checkpoints: GeneratorCheckpoints, generator: LiveEditGenerator
) -> None:
    entry = train(checkpoints, generator, 1)
    scored = train(checkpoints, generator, 1, score=0.7)
    assert (scored.digest, checkpoints.best()) == (entry.digest, scored)
    train(checkpoints, generator, 1)
    assert checkpoints.best() == scored


def test_runs_that_share_weights_do_not_delete_each_others(
    generator: LiveEditGenerator, store: ObjectStore, tmp_path: Path
) -> None:
    one = GeneratorCheckpoints(store, "one", last_k=1)
    other = GeneratorCheckpoints(store, "other", last_k=1)
    shared = train(one, generator, 1)
    train(other, generator, 1)
    train(one, generator, 2)
    other.fetch(shared.digest, tmp_path / "fetched")
    state = other.resume()
    assert state is not None
    assert state.entry == shared


def test_the_published_result_outlives_its_checkpoint(
    checkpoints: GeneratorCheckpoints,
    generator: LiveEditGenerator,
    store: ObjectStore,
    tmp_path: Path,
) -> None:
    train(checkpoints, generator, 1)
    digest = save_generator(generator, tmp_path / "result")
    assert checkpoints.publish(tmp_path / "result") == digest
    for step in (2, 3, 4):
        train(checkpoints, generator, step)
    assert digest in stored_digests(store)
    checkpoints.fetch(digest, tmp_path / "fetched")


def test_altered_bytes_are_found(
    checkpoints: GeneratorCheckpoints,
    generator: LiveEditGenerator,
    store: ObjectStore,
    tmp_path: Path,
) -> None:
    digest = train(checkpoints, generator, 1).digest
    for name in ("generator.safetensors", "runs/run-1/resume.safetensors"):
        key = f"generators/{digest}/{name}"
        good = store.get(key)
        store.put(key, good[:-1] + b"\x00" + good[-1:])
    with pytest.raises(IntegrityError, match="altered"):
        checkpoints.fetch(digest, tmp_path / "fetched")
    assert not list((tmp_path / "fetched").iterdir())
    with pytest.raises(IntegrityError, match="altered"):
        checkpoints.resume()
    store.delete(f"generators/{digest}/config.json")
    with pytest.raises(IntegrityError, match="missing"):
        checkpoints.fetch(digest, tmp_path / "fetched")


def test_another_recipe_does_not_resume() -> None:
    position(1).check_same_run(seed=3, recipe_digest="r1")
    with pytest.raises(ConfigError, match="another run_name"):
        position(1).check_same_run(seed=3, recipe_digest="r2")


@pytest.mark.parametrize("name", ["", "a/b", ".."])
def test_a_run_has_a_plain_name(name: str, store: ObjectStore) -> None:
    with pytest.raises(ConfigError, match="plain name"):
        GeneratorCheckpoints(store, name)
