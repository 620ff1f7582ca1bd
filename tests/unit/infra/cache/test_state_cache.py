"""The state cache returns what was encoded, misses the rest, and stays within its budget."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from infra.cache import state_cache
from infra.cache.cached_states import CachedStates
from infra.cache.content_table import ContentTable
from infra.cache.state_cache import StateCache, UseLog
from infra.cache.state_rows import STATE_SCHEMA, WrittenStates
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import IntegrityError
from liveedit_core.state_source import BackboneStates, StateIdentity
from liveedit_core.states import LayerStates
from tests.unit.tiny_inputs import image
from tests.unit.tiny_models import TinyBackbone

BACKBONE = TinyBackbone()
EXACT = StateIdentity.of(BACKBONE, "float32")
TEXT_ONLY = BackboneInput(prompt="The capital of France is", target="Paris")


def question(number: int, prompt: str = "What is it?") -> BackboneInput:
    return BackboneInput(prompt=prompt, target="an entity", image_bytes=image(number))


def write(cache: StateCache, inputs: Sequence[BackboneInput]) -> WrittenStates:
    return cache.writer.write(inputs, BACKBONE.encode(inputs))


def fill(cache: StateCache, inputs: Sequence[BackboneInput]) -> bool:
    return cache.commit(write(cache, inputs))


def held(cache: StateCache, inputs: Sequence[BackboneInput]) -> list[bool]:
    return [state is not None for state in cache.read(inputs)]


def assert_same(one: LayerStates | None, other: LayerStates) -> None:
    assert one is not None
    for name, value in vars(other).items():
        found = getattr(one, name)
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value


@pytest.fixture
def cache(store: ObjectStore) -> StateCache:
    return StateCache(store, EXACT)


def test_what_was_committed_comes_back_in_the_order_asked_for(cache: StateCache) -> None:
    inputs = [question(1), TEXT_ONLY, question(2), question(1, "Who made it?")]
    written = write(cache, inputs)
    assert held(cache, inputs) == [False] * 4
    assert cache.commit(written)
    asked = [inputs[i] for i in (3, 0, 0, 2, 1)]
    for state, expected in zip(cache.read(asked), BACKBONE.encode(asked), strict=True):
        assert_same(state, expected)


def test_the_grid_of_an_image_is_kept(cache: StateCache) -> None:
    """Positions of some families depend on it."""
    inputs = [question(1), question(2)]
    one, other = BACKBONE.encode(inputs)
    on_grid = replace(one, grid=(1, 4, 6))
    assert cache.commit(cache.writer.write(inputs, [on_grid, other]))
    for state, expected in zip(cache.read(inputs), (on_grid, other), strict=True):
        assert_same(state, expected)


def test_prompt_embeddings_are_kept_and_leave_the_other_states_alone(store: ObjectStore) -> None:
    inputs = [replace(question(1), also_asked=("Which?",)), TEXT_ONLY]
    one, other = BACKBONE.encode(inputs)
    asked_twice = replace(one, prompt_embeddings=torch.randn(2, 2 * EXACT.hidden_size))
    assert fill(StateCache(store, EXACT), [question(1)])
    cache = StateCache(store, replace(EXACT, prompt_size=2 * EXACT.hidden_size))
    assert cache.commit(cache.writer.write(inputs, [asked_twice, other]))
    for state, expected in zip(cache.read(inputs), (asked_twice, other), strict=True):
        assert_same(state, expected)
    assert held(cache, [question(1)]) == [False]  # asked in other words
    assert held(StateCache(store, EXACT), [question(1)]) == [True]


def test_a_table_with_other_columns_is_created_anew(store: ObjectStore) -> None:
    """Its rows lack a column; they are computed again."""
    old = pa.schema([field for field in STATE_SCHEMA if field.name != "grid"])
    name = f"states/{EXACT.backbone_digest[:16]}-{EXACT.edit_layer}"
    ContentTable(store, name, old, key="state_id")
    cache = StateCache(store, EXACT)
    assert fill(cache, [question(1)])
    assert held(cache, [question(1)]) == [True]


def test_missing_names_each_once_and_only_what_is_missing(cache: StateCache) -> None:
    inputs = [question(1), TEXT_ONLY, question(2), question(2), question(1)]
    fill(cache, [question(1)])
    assert [(found.position, found.image_id) for found in cache.missing(inputs)] == [
        (1, ""),
        (2, EXACT.image_id(image(2))),
    ]


def test_a_state_is_held_once_however_often_it_is_written(
    cache: StateCache, store: ObjectStore
) -> None:
    other = StateCache(store, EXACT)
    overlapping = [write(cache, [question(1), question(2)]), write(other, [question(2), TEXT_ONLY])]
    for written in (*overlapping, *overlapping):
        assert cache.commit(written)
        assert other.commit(written)
    rows = StateCache(store, EXACT)._states._dataset.to_table().column("state_id").to_pylist()
    assert sorted(rows) == sorted(cache.ids([question(1), question(2), TEXT_ONLY]))
    assert held(other, [question(1), question(2), TEXT_ONLY]) == [True] * 3


def test_an_image_is_stored_once_for_all_its_prompts(cache: StateCache) -> None:
    fill(cache, [question(1), question(1, "Who made it?"), TEXT_ONLY])
    fill(cache, [question(1, "When?")])
    assert (len(cache), len(cache._images)) == (4, 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_shorter_dtypes_round_and_read_and_computed_states_are_equal(
    dtype: str, store: ObjectStore
) -> None:
    cache = StateCache(store, replace(EXACT, dtype=dtype))  # type: ignore[arg-type]
    source = CachedStates(cache, BackboneStates(BACKBONE))
    (computed,) = source.states([question(1)])
    fill(cache, [question(1)])
    (read,) = source.states([question(1)])
    assert_same(read, computed)
    (exact,) = BACKBONE.encode([question(1)])
    assert not torch.equal(read.hidden_TD, exact.hidden_TD)
    assert torch.allclose(read.hidden_TD, exact.hidden_TD, rtol=1e-2)


def test_dtypes_share_the_tables(store: ObjectStore) -> None:
    exact, short = StateCache(store, EXACT), StateCache(store, replace(EXACT, dtype="float16"))
    fill(exact, [question(1)])
    assert held(short, [question(1)]) == [False]
    fill(short, [question(1)])
    exact.refresh()
    assert_same(exact.read([question(1)])[0], BACKBONE.encode([question(1)])[0])


def test_states_that_the_dtype_cannot_hold_are_never_stored(store: ObjectStore) -> None:
    class LoudBackbone(TinyBackbone):
        def _encode(self, item: BackboneInput) -> LayerStates:
            state = super()._encode(item)
            return replace(state, hidden_TD=state.hidden_TD * 1e5)

    cache = StateCache(store, replace(EXACT, dtype="float16"))
    source = CachedStates(cache, BackboneStates(LoudBackbone()), is_filling=True)
    states = source.states([question(1)])
    source.flush()
    assert states[0].hidden_TD.isfinite().all()
    assert len(cache) == 0


def test_a_source_that_fills_writes_what_it_computed(cache: StateCache, store: ObjectStore) -> None:
    asked: list[int] = []

    class CountingBackbone(TinyBackbone):
        def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
            asked.append(len(inputs))
            return super().encode(inputs)

    inputs = [question(1), question(2), question(1)]
    source = CachedStates(cache, BackboneStates(CountingBackbone()), is_filling=True)
    for _ in range(2):
        for state, expected in zip(source.states(inputs), BACKBONE.encode(inputs), strict=True):
            assert_same(state, expected)
    assert asked == [2]
    source.flush()
    assert held(StateCache(store, EXACT), inputs) == [True] * 3


def test_without_another_source_a_missing_state_is_an_error(cache: StateCache) -> None:
    fill(cache, [question(1)])
    source = CachedStates(cache, None)
    assert len(source.states([question(1)])) == 1
    with pytest.raises(IntegrityError, match="encode them first"):
        source.states([question(1), question(2)])


def row_bytes(store: ObjectStore) -> int:
    cache = StateCache(ObjectStore(f"{store.root_uri}/measure"), EXACT)
    fill(cache, [question(1)])
    return cache.num_bytes


def test_beyond_the_budget_the_least_recently_used_are_evicted(store: ObjectStore) -> None:
    budget = int(6.5 * row_bytes(store))
    writing = StateCache(store, EXACT, max_bytes=budget)
    first, second, third = ([question(n), question(n + 1), question(n + 2)] for n in (1, 4, 7))
    for batch in (first, second):
        assert fill(writing, batch)
        StateCache(store, EXACT).missing(batch)  # another process uses them
    StateCache(store, EXACT).missing(first)
    assert fill(writing, third)
    assert writing.num_bytes <= budget
    later = StateCache(store, EXACT, max_bytes=budget)
    assert held(later, third) == held(later, first) == [True] * 3
    assert held(later, second) == [False] * 3
    folder = Path(writing._states.table.uri)
    assert sum(path.stat().st_size for path in folder.rglob("*.lance")) < 2.5 * budget


def test_a_job_does_not_evict_its_own_states(store: ObjectStore) -> None:
    cache = StateCache(store, EXACT, max_bytes=int(2.5 * row_bytes(store)))
    wanted = [question(n) for n in range(4)]
    keep = cache.ids(wanted)
    assert cache.commit(write(cache, wanted[:2]), keep=keep)
    assert not cache.commit(write(cache, wanted[2:]), keep=keep)
    assert held(cache, wanted) == [True, True, False, False]


def test_images_are_evicted_with_their_last_state(store: ObjectStore) -> None:
    cache = StateCache(store, EXACT, max_bytes=10**9)
    fill(cache, [question(1), question(1, "Who made it?"), question(2)])
    cache._states.remove(cache.ids([question(1), question(2)]))
    cache._remove_orphans()
    assert cache._images.ids() == [EXACT.image_id(image(1))]
    cache._states.remove(cache.ids([question(1, "Who made it?")]))
    assert len(cache) == 0
    assert fill(cache, [question(3)])
    assert held(cache, [question(3)]) == [True]


def remove_all(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_a_file(folder: Path) -> None:
    next((folder / "data").iterdir()).unlink()


def truncate_a_file(folder: Path) -> None:
    path = next((folder / "data").iterdir())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_the_manifest(folder: Path) -> None:
    for path in (folder / "_versions").iterdir():
        path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize(
    "damage", [remove_all, remove_a_file, truncate_a_file, truncate_the_manifest]
)
@pytest.mark.parametrize("suffix", ["", "-images"])
def test_a_damaged_cache_costs_time_only(
    damage: Callable[[Path], None], suffix: str, store: ObjectStore
) -> None:
    cache = StateCache(store, EXACT)
    inputs = [question(1), question(2), TEXT_ONLY]
    fill(cache, inputs)
    damage(Path(f"{cache._states.table.uri}{suffix}"))
    for opened in (cache, StateCache(store, EXACT), StateCache(store, EXACT)):
        source = CachedStates(opened, BackboneStates(BACKBONE), is_filling=True)
        for state, expected in zip(source.states(inputs), BACKBONE.encode(inputs), strict=True):
            assert_same(state, expected)
        source.flush()
    assert held(StateCache(store, EXACT), inputs) == [True] * 3


def test_a_reader_goes_on_while_another_process_evicts(store: ObjectStore) -> None:
    fill(StateCache(store, EXACT), [question(1), question(2)])
    reading, evicting = StateCache(store, EXACT), StateCache(store, EXACT, max_bytes=10**9)
    evicting._states.remove(evicting.ids([question(1)]))
    assert held(reading, [question(1), question(2)]) == [False, True]


def test_many_small_commits_are_merged_and_readers_go_on(store: ObjectStore) -> None:
    cache, reading = StateCache(store, EXACT), StateCache(store, EXACT)
    fill(cache, [question(0)])
    reading.refresh()
    inputs = [question(number) for number in range(40)]
    for item in inputs:
        fill(cache, [item])
    assert len(cache._states._dataset.get_fragments()) < 40
    cache.compact()
    assert len(cache._states._dataset.get_fragments()) == 1
    assert held(reading, [question(0), question(39)]) == [True, True]
    assert_same(cache.read(inputs)[7], BACKBONE.encode(inputs)[7])


def test_what_others_wrote_meanwhile_is_read_and_not_computed(store: ObjectStore) -> None:
    class SilentBackbone(TinyBackbone):
        def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
            raise AssertionError("computed again")

    reading = StateCache(store, EXACT)
    source = CachedStates(reading, BackboneStates(SilentBackbone()), is_filling=True)
    fill(StateCache(store, EXACT), [question(1), TEXT_ONLY])
    assert_same(source.states([question(1)])[0], BACKBONE.encode([question(1)])[0])


A, B, C = (letter * 64 for letter in "abc")


def use_log(store: ObjectStore) -> UseLog:
    return UseLog(store, "states/x-uses")


def test_the_last_use_counts(store: ObjectStore) -> None:
    for names in ([A, B], [C], [A]):
        use_log(store).record(names)
    assert use_log(store).newest_first([A, B, C]) == [A, C, B]
    assert use_log(store).newest_first([B]) == [B]
    assert use_log(store).newest_first(["d" * 64]) == []


def test_a_process_has_one_object_however_much_it_uses(store: ObjectStore) -> None:
    used = use_log(store)
    for names in ([A], [B], [A, C]):
        used.record(names)
    assert len(store.list("states/x-uses/")) == 1
    used.flush()
    assert len(store.list("states/x-uses/")) == 1
    assert sorted(use_log(store).newest_first([A, B, C])) == [A, B, C]


def test_a_process_keeps_no_more_uses_than_one_object_holds(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_cache, "_MOST_USED", 2)
    used = use_log(store)
    for names in ([A, B], [C]):
        used.record(names)
        used.flush()
    assert used._used == {C}
    assert use_log(store).newest_first([A, B, C]) == [C, A, B]


def test_old_use_records_that_add_nothing_are_deleted(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_log(store).record([A, B])
    use_log(store).record([A, B, C])
    use_log(store).newest_first([A, B, C])
    assert len(store.list("states/x-uses/")) == 2, "what was recorded today stays"
    later = time.time() + 100_000
    monkeypatch.setattr(time, "time", lambda: later)
    assert sorted(use_log(store).newest_first([A, B, C])) == [A, B, C]
    assert len(store.list("states/x-uses/")) == 1
