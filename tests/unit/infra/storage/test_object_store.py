"""Objects on disk: whole, exclusive, confined to the root, limited in size."""

import os
import pickle
import threading
from pathlib import Path

import pytest

from infra.storage.object_store import ObjectStore, UnsafeStoreError
from liveedit_core.errors import InputError, IntegrityError, StorageUnavailableError

LIMIT = 1000


def test_put_then_get_returns_the_bytes_and_replaces(store: ObjectStore) -> None:
    store.put("a/b", b"one")
    store.put("a/b", b"two")
    assert store.get("a/b") == b"two"
    assert store.exists("a/b")
    assert not store.exists("a/c")
    assert not store.exists("a")


def test_get_of_a_missing_object_names_key_and_root(store: ObjectStore) -> None:
    with pytest.raises(IntegrityError, match=r"'a/b' is missing in file://.*store"):
        store.get("a/b")


def test_get_refuses_more_than_max_bytes(store: ObjectStore) -> None:
    store.put("a", b"12345")
    assert store.get("a", max_bytes=5) == b"12345"
    with pytest.raises(InputError, match="larger than the limit of 4 bytes"):
        store.get("a", max_bytes=4)


def test_list_is_sorted_by_prefix_and_hides_unfinished_writes(store: ObjectStore) -> None:
    for key in ("w/2", "w/10", "wx/1", "v"):
        store.put(key, b"")
    (Path(store.table_uri("w")) / ".tmp-left-by-a-kill").write_bytes(b"half")
    assert store.list("w/") == ["w/10", "w/2"]
    assert store.list("w") == ["w/10", "w/2", "wx/1"]
    assert store.list() == ["v", "w/10", "w/2", "wx/1"]
    assert store.list("nothing/") == []


def test_delete_twice_is_fine(store: ObjectStore) -> None:
    store.put("a", b"")
    store.delete("a")
    store.delete("a")
    assert not store.exists("a")


def test_put_if_absent_has_one_winner_and_leaves_its_bytes(store: ObjectStore) -> None:
    barrier = threading.Barrier(8)
    won: list[int] = []

    def contend(index: int) -> None:
        barrier.wait()
        if store.put_if_absent("lease", b"%d" % index):
            won.append(index)

    threads = [threading.Thread(target=contend, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b"%d" % index for index in won] == [store.get("lease")]
    assert store.list() == ["lease"]


def test_exclusive_creation_is_proven_and_leaves_nothing(store: ObjectStore) -> None:
    store.check_exclusive_create()
    assert store.list() == []


class _UnconditionalStore(ObjectStore):
    """Stands for a server that ignores If-None-Match."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.put(key, data)
        return True


def test_a_store_that_ignores_the_condition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError, match="5 succeeded, one should have"):
        _UnconditionalStore(tmp_path).check_exclusive_create()
    assert not UnsafeStoreError.retryable, "waiting makes no server honour the condition"


class _LossyStore(ObjectStore):
    """Loses the response to the first few successful creations."""

    num_lost = 0
    num_left = 2

    def put_if_absent(self, key: str, data: bytes) -> bool:
        won = super().put_if_absent(key, data)
        if won and self.num_left:
            self.num_left -= 1
            self.num_lost += 1
            return False
        return won


def test_a_lost_response_is_not_taken_for_an_unsafe_server(tmp_path: Path) -> None:
    store = _LossyStore(tmp_path)
    store.check_exclusive_create()
    assert store.num_lost == 2
    store.num_left = 100
    with pytest.raises(StorageUnavailableError, match="not proven"):
        store.check_exclusive_create()


def test_entries_are_listed_by_age(store: ObjectStore) -> None:
    for age, key in enumerate(("in/b", "in/a", "in/c")):
        store.put(key, b"x" * age)
        changed_s = 1_000_000_000 - 10 * age
        os.utime(Path(store.table_uri("in")) / key[-1], (changed_s, changed_s))
    assert [(entry.key, entry.num_bytes) for entry in store.entries("in/")] == [
        ("in/c", 2),
        ("in/a", 1),
        ("in/b", 0),
    ]


def test_a_flat_list_leaves_folders_out(store: ObjectStore) -> None:
    for key in ("a.jsonl", "images/b.png", "images/deep/c.png"):
        store.put(key, b"")
    assert [entry.key for entry in store.entries(is_flat=True)] == ["a.jsonl"]
    assert [entry.key for entry in store.entries("images/", is_flat=True)] == ["images/b.png"]


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a/../../b", "..", "a//b", "./a", "a/"])
def test_keys_cannot_leave_the_root(store: ObjectStore, key: str) -> None:
    with pytest.raises(InputError, match="not a relative path"):
        store.put(key, b"x")


def test_a_root_with_odd_characters_is_one_place_however_it_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20c" / "é"
    ObjectStore(folder).put("k", b"v")
    assert (folder / "k").read_bytes() == b"v"
    assert ObjectStore(folder.as_uri()).get("k") == b"v"
    assert ObjectStore(str(folder)).table_uri("t") == str(folder / "t")


@pytest.mark.parametrize("root", ["http://host/x", "s3:///prefix", "file://host/x", "gs://b"])
def test_other_roots_are_refused(root: str) -> None:
    with pytest.raises(InputError, match="expected file"):
        ObjectStore(root)


@pytest.mark.parametrize("root", ["file://[abc", "a\udcffb", "s3://[b/x"])
def test_roots_that_name_no_place_are_refused(root: str) -> None:
    with pytest.raises(InputError, match="is not a place"):
        ObjectStore(root)


def test_a_pickled_store_opens_the_same_place(store: ObjectStore) -> None:
    store.put("a", b"x")
    assert pickle.loads(pickle.dumps(store)).get("a") == b"x"


def test_fetch_reads_a_file_by_uri(store: ObjectStore, tmp_path: Path) -> None:
    image = tmp_path / "my image%.png"
    image.write_bytes(b"png")
    assert store.fetch(image.as_uri(), LIMIT) == b"png"
    with pytest.raises(InputError, match="larger than the limit of 2 bytes"):
        store.fetch(image.as_uri(), 2)


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.org/a.png",
        "http://127.0.0.1/a.png",
        "s3://",
        "s3:///key",
        "s3://bucket",
        "s3://bucket/",
        "file://host/a.png",
        "file://",
        "a.png",
    ],
)
def test_fetch_refuses_what_is_not_an_image_uri(store: ObjectStore, uri: str) -> None:
    with pytest.raises(InputError, match="cannot fetch"):
        store.fetch(uri, LIMIT)


@pytest.mark.parametrize("name", ["none.png", "", "x" * 300, "a\0b", "store/none/none.png"])
def test_fetch_of_a_missing_file_is_an_input_error(
    store: ObjectStore, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError, match="does not exist or is not a file"):
        store.fetch(f"file://{tmp_path}/{name}", LIMIT)
