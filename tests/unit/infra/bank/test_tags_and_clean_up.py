"""A version is tagged while a clean-up deletes old ones: in any order, no tag names a lost one."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from lance import LanceDataset

from infra._compat import create_tag
from infra.bank import compaction, history
from infra.bank.compaction import Compaction
from infra.bank.deletions import Deletions
from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import verify_version
from infra.bank.policy import GrowthPolicy
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table, manifest_names
from liveedit_core.errors import ConfigError, InputError, IntegrityError
from tests.faults.interleaving import Scheduler
from tests.small_rows import SMALL_IDENTITY, small_row

NUM_SEEDS = 60
MAX_DELAY = 80
"""Calls of others."""
POLICY = GrowthPolicy(keep_versions=1, keep_days=0.0, every_windows=1, fragment_bytes=1)
SOON = timedelta(hours=1)


def grown(store: ObjectStore) -> list[int]:
    """The versions of a bank, oldest first."""
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    epoch, writer = bank.acquire_writer(), bank.fragment_writer()
    return [
        bank.commit(writer.write([small_row(n, f"flag {n}")]), epoch=epoch) for n in range(1, 4)
    ]


def tell(
    seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[ObjectStore, int, set[str]]:
    """Two tag the oldest version while two clean up: the store, the version, and the tags whose
    authors were told that they are given."""
    store = ObjectStore(folder)
    old = grown(store)[0]
    scheduler = Scheduler(seed)
    given: set[str] = set()

    def delete(table: Table, versions: Sequence[int]) -> int:
        """As Lance: tags are read, and what they do not name is deleted some time later."""
        tagged = {int(tag["version"]) for tag in table.latest().tags.list().values()}
        for number in set(versions) - tagged:
            scheduler.point("delete a version")
            for name in manifest_names(number):
                (Path(table.uri) / "_versions" / name).unlink(missing_ok=True)
        return 0

    def create_later(dataset: LanceDataset, name: str, version: int) -> None:
        scheduler.point("put a tag")
        create_tag(dataset, name, version)
        scheduler.point("after a tag")

    draw = random.Random(seed)

    def tag(name: str, delay: int) -> None:
        for _ in range(delay):
            scheduler.point("wait")
        try:
            ExpertBank.open(store, "main").versions.tag(name, old)
            given.add(name)
        except (InputError, IntegrityError):  # it is being deleted, or was
            given.discard(name)

    def clean_up() -> None:
        Compaction(store, "main", POLICY).run(now=datetime.now(UTC) + SOON)

    with monkeypatch.context() as patch, scheduler.points():
        patch.setattr(compaction, "_delete_versions", delete)
        patch.setattr(history, "create_tag", create_later)
        scheduler.run(
            {
                "anna": lambda: tag("good", draw.randrange(MAX_DELAY)),
                "ben": lambda: tag("better", draw.randrange(MAX_DELAY)),
                "clean-up": clean_up,
                "another": clean_up,
            }
        )
    return store, old, given


def test_no_tag_names_a_lost_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_given = 0
    for seed in range(NUM_SEEDS):
        store, old, given = tell(seed, tmp_path / str(seed), monkeypatch)
        bank = ExpertBank.open(store, "main")
        assert given <= bank.versions.tags().keys(), seed
        if given:
            assert bank.has_version(old), seed
            assert len(bank.edit_ids(old)) == 1
        num_given += len(given)
        assert not verify_version(bank).lines(), seed
    assert 0 < num_given < 2 * NUM_SEEDS


def test_a_version_that_is_being_deleted_is_not_tagged(store: ObjectStore) -> None:
    old, *_, newest = grown(store)
    versions = ExpertBank.open(store, "main").versions
    with Deletions(store, "main").announced([old]):
        with pytest.raises(InputError, match="is deleting version"):
            versions.tag("good", old)
        versions.tag("new", newest)
    assert versions.tags() == {"new": newest}
    versions.tag("good", old)
    assert versions.tags() == {"new": newest, "good": old}


def test_a_damaged_announcement_says_what_to_do(store: ObjectStore) -> None:
    old = grown(store)[0]
    store.put("deletions/main/a.json", b"[1, ")
    with pytest.raises(ConfigError, match=r"a\.json is damaged .* delete it"):
        ExpertBank.open(store, "main").versions.tag("good", old)


def test_a_clean_up_that_fails_stays_announced_for_a_day(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = grown(store)[0]

    def fail(*_: object) -> int:
        raise IntegrityError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(compaction, "_delete_versions", fail)
        with pytest.raises(IntegrityError):
            Compaction(store, "main", POLICY).run(now=datetime.now(UTC) + SOON)
    assert old in Deletions(store, "main").versions()
    monkeypatch.setattr("infra.bank.deletions._ENDED", timedelta(0))
    Compaction(store, "main", POLICY).run(now=datetime.now(UTC) + SOON)
    assert Deletions(store, "main").versions() == set()
