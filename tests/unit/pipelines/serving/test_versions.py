"""Versions are loaded beside each other, verified, switched to and drained."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.tracking.model_registry import BANK_MODEL
from liveedit_core.errors import ConfigError
from pipelines.serving.versions import UnknownModelError, VersionStore
from tests.running_server import Place
from tests.serving_parts import ask
from tests.tiny_backbone import answers, plain_convolutions, question
from tests.unit.tiny_operations import Operations, TinyModels


def opened(place: Place, *overrides: str) -> VersionStore:
    return VersionStore.opened(place.recipe(*overrides), TinyModels(place.operations.folder))


def test_without_a_bank_the_unedited_model_answers(operations: Operations) -> None:
    place = Place(operations)
    store = opened(place, "bank.name=none")
    assert (store.current.name, store.problem) == ("unedited", "")
    assert store.bank is None
    assert store.named("liveedit@newest") is store.current


def test_the_only_bank_of_a_store_needs_no_name(place: Place) -> None:
    assert opened(place, "bank.name=").current.name == "v3"
    ExpertBank.open_or_create(place.operations.store, "second", place.operations.identity)
    with pytest.raises(ConfigError, match="main, second"):
        opened(place, "bank.name=")


def test_the_newest_version_answers_until_there_is_a_champion(place: Place) -> None:
    operations = place.operations
    store = opened(place)
    assert store.current.name == "v3"
    first = operations.registry.register_bank_version(operations.bank, 2)
    operations.make_champion(first.version)
    place.log_and_commit(6)
    store.refresh()
    assert (store.current.name, store.current.registered) == ("v2", first.version)
    assert store.named("liveedit@newest").name == "v4"
    assert store.named("liveedit@v3").num_edits == 5
    for wrong in ("liveedit@v0", "liveedit@v99", "liveedit@nobody", "other", "liveedit@"):
        with pytest.raises(UnknownModelError):
            store.named(wrong)
    newest = operations.registry.register_bank_version(operations.bank, 4)
    operations.versions.set_alias(BANK_MODEL, "champion", newest.version)
    store.refresh()
    assert store.current.name == "v2", "nobody promoted the other one"
    assert "which no audit record explains" in store.problem
    operations.versions.set_alias(BANK_MODEL, "champion", 0)
    store.refresh()
    assert store.current.name == "v2", "nobody decided that there is none"
    assert "is gone" in store.problem


def test_a_damaged_version_is_not_switched_to_and_the_server_says_so(place: Place) -> None:
    store = opened(place)
    before = store.current
    version = place.log_and_commit(6, 7)
    new = sorted(set(place.operations.files()) - set(place_files(place, before.bank_version)))
    path = Path(place.operations.store.table_uri("banks/main")) / new[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    store.refresh()
    assert store.current is before
    assert "altered" in store.problem
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    store.refresh()
    assert (store.current.bank_version, store.problem) == (version, "")


def test_whatever_a_store_raises_the_old_version_stays_and_the_looking_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such_key(self: VersionStore) -> None:
        raise KeyError("missing")

    service = place.service("versions.poll_s=0.01")
    try:
        before = service.versions.current
        with monkeypatch.context() as patch:
            patch.setattr(VersionStore, "_target", no_such_key)
            _until(lambda: "KeyError" in service.versions.problem)
            assert service.versions.current is before
        version = place.log_and_commit(6, 7)
        _until(lambda: service.versions.current.bank_version == version)
        _until(lambda: not service.versions.problem)
    finally:
        service.close()


def _until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def place_files(place: Place, version: int) -> list[str]:
    keys = place.operations.bank.file_keys(version)
    return [key.removeprefix("banks/main/") for key in keys]


def test_few_versions_stay_in_memory_and_the_current_one_always(place: Place) -> None:
    place.log_and_commit(6)
    store = opened(place, "versions.max_loaded=1")
    first = store.named("liveedit@v2")
    assert store.named("liveedit@v2") is first
    store.named("liveedit@v3")
    assert store.named("liveedit@v2") is not first
    assert store.named("liveedit@v4") is store.current


def test_promotions_and_rollbacks_under_load_tear_no_answer(place: Place) -> None:
    """Every answer is what the version that it names answers alone."""
    operations = place.operations
    place.log_and_commit(6, 7)
    registered = [operations.registry.register_bank_version(operations.bank, n) for n in (2, 3, 4)]
    with plain_convolutions():
        service = place.service()
        store, items = service.versions, [question(seed) for seed in range(1, 6)]
        known = {
            (version, seed): answers(store.named(f"liveedit@v{version}").editor, [item], 5)[0].text  # type: ignore[arg-type]
            for version in (2, 3, 4)
            for seed, item in enumerate(items)
        }
        is_over = threading.Event()
        failures: list[str] = []
        seen: set[int] = set()

        def ask_champion(number: int) -> None:
            version = store.named("liveedit")
            seed = number % len(items)
            one = ask(service.engine, items[seed], version, 5)
            one.done()
            seen.add(version.bank_version)
            if one.text != known[version.bank_version, seed]:
                failures.append(f"{version.name}: {one.text!r}")

        def client(number: int) -> None:
            while not is_over.is_set():
                ask_champion(number)
                number += 1

        threads = [threading.Thread(target=client, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for round_ in range(12):
            champion = registered[round_ % 3].version
            operations.make_champion(champion)
            store.refresh()
            assert store.current.registered == champion
            ask_champion(round_)
        is_over.set()
        for thread in threads:
            thread.join()
        service.close()
    assert failures == []
    assert seen == {2, 3, 4}
    assert store.num_switches >= 12
