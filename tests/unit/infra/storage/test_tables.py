"""Compare-and-swap commits on Lance."""

import lance
import pyarrow as pa
import pytest
from lance import optimize

from infra.storage import tables
from infra.storage.object_store import ObjectStore
from infra.storage.tables import ConcurrentCommitError, Table, sql_in
from liveedit_core.errors import IntegrityError

SCHEMA = pa.schema([pa.field("name", pa.string(), nullable=False)], metadata={"made": "here"})


def names(*values: str) -> pa.Table:
    return pa.table({"name": list(values)}, schema=SCHEMA)


def content(table: Table, version: int | None = None) -> list[str]:
    dataset = table.latest() if version is None else table.at(version)
    values: list[str] = dataset.to_table().column("name").to_pylist()
    return values


@pytest.fixture
def table(store: ObjectStore) -> Table:
    return Table.open_or_create(store, "folder/names", SCHEMA)


def test_open_or_create_keeps_what_is_there(table: Table, store: ObjectStore) -> None:
    table.append(table.latest(), names("a"))
    again = Table.open_or_create(store, "folder/names", SCHEMA)
    assert content(again) == ["a"]
    assert again.schema.metadata == {b"made": b"here"}


def test_a_table_that_is_not_there(store: ObjectStore) -> None:
    table = Table(store, "none")
    assert not table.exists()
    with pytest.raises(IntegrityError, match="missing"):
        table.latest()


@pytest.mark.parametrize("rows_before", [[], ["a"], ["a", "b"]])
def test_only_one_of_two_commits_on_one_base_succeeds(
    table: Table, store: ObjectStore, rows_before: list[str]
) -> None:
    for name in rows_before:
        table.append(table.latest(), names(name))
    other = Table(store, "folder/names")
    base, same_base = table.latest(), other.latest()
    table.append(base, names("first"))
    with pytest.raises(ConcurrentCommitError, match="changed meanwhile"):
        other.append(same_base, names("second"))
    assert content(other) == [*rows_before, "first"]


@pytest.mark.parametrize("left_alone", range(3))
@pytest.mark.parametrize("is_cleaned", [False, True])
def test_a_compaction_between_two_commits_on_one_base_lets_only_one_succeed(
    table: Table, left_alone: int, is_cleaned: bool
) -> None:
    """Merged rows get a new number, which is larger than that of a file that was left alone."""
    for name in ("a", "b", "c", "d"):
        table.append(table.latest(), names(name))
    base = table.latest()
    options = optimize.CompactionOptions(excluded_fragment_ids=[(left_alone + 3) % 4])
    merged = table.latest()
    tasks = optimize.Compaction.plan(merged, options).tasks
    done = [task.execute(merged) for task in tasks]
    assert done
    optimize.Compaction.commit(merged, done, options)
    table.append(table.latest(), names("first"))
    if is_cleaned:
        table.append(table.latest(), names("next"))
        versions = range(1, int(table.latest().version))
        table.latest().cleanup_old_versions(versions=list(versions))
    with pytest.raises((ConcurrentCommitError, IntegrityError)):
        table.append(base, names("second"))
    found = ["a", "b", "c", "d", "first", *(["next"] if is_cleaned else [])]
    assert sorted(content(table)) == found


def test_removal_and_append_are_one_version(table: Table) -> None:
    before = table.append(table.latest(), names("a", "b"))
    new = [fragment for fragment, _ in table.write_rows(names("c"))]
    after = table.commit(table.latest(), new, without=sql_in("name", ["a"]))
    assert after == before + 1
    assert content(table, before) == ["a", "b"]
    assert content(table, after) == ["b", "c"]


def test_removing_every_old_row_still_conflicts_with_another_commit(table: Table) -> None:
    table.append(table.latest(), names("a"))
    base = table.latest()
    ((fragment, _),) = table.write_rows(names("b"))
    table.commit(base, [fragment], without="name = 'a'")
    with pytest.raises(ConcurrentCommitError):
        table.append(base, names("c"))
    assert content(table) == ["b"]


def test_on_latest_decides_again_after_being_overtaken(table: Table) -> None:
    seen: list[list[str]] = []

    def attempt(base: lance.LanceDataset) -> int:
        seen.append(content(table))
        if len(seen) == 1:
            table.append(table.latest(), names("faster"))
        return table.append(base, names("mine"))

    assert table.on_latest(attempt) == table.latest().version
    assert seen == [[], ["faster"]]
    assert content(table) == ["faster", "mine"]


def test_on_latest_gives_up_when_always_overtaken(table: Table) -> None:
    def attempt(base: lance.LanceDataset) -> int:
        table.append(table.latest(), names("faster"))
        return table.append(base, names("mine"))

    with pytest.raises(ConcurrentCommitError, match="10 commits were overtaken"):
        table.on_latest(attempt)
    assert "mine" not in content(table)


def test_a_missing_version_is_an_integrity_error(table: Table) -> None:
    with pytest.raises(IntegrityError, match="version or a file is missing"):
        table.at(99)


def test_quotes_in_a_predicate_are_text(table: Table) -> None:
    table.append(table.latest(), names("it's", "b"))
    table.commit(table.latest(), [], without=sql_in("name", ["it's", "') OR ('1'='1"]))
    assert content(table) == ["b"]


def test_the_versions_that_were_read_do_not_fill_the_memory(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 64 * 1024
    monkeypatch.setattr(tables, "_CACHED_METADATA_BYTES", limit)
    table = Table.open_or_create(store, "folder/names", SCHEMA)
    for number in range(40):
        table.append(table.latest(), names(str(number)))
        assert len(content(table)) == number + 1
    assert table.latest().session().size_bytes() < 2 * limit
