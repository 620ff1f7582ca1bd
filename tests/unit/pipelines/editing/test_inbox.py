"""Files of the inbox: whole, in order, moved out once they are in the log, doubled by nothing."""

import json
import os
from pathlib import Path

import pytest

from infra.requests.request_log import RequestLog
from infra.storage.disk import ObjectEntry
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError, StorageUnavailableError
from liveedit_core.inputs.limits import InputLimits
from pipelines.editing.inbox import Inbox, InboxFileError
from pipelines.editing.intake import Intake
from tests.unit.tiny_inputs import drop, image, request


@pytest.fixture
def log(tmp_path: Path) -> RequestLog:
    return RequestLog(ObjectStore(tmp_path / "store"))


def inbox_of(folder: Path, *, settle_s: float = 1.0) -> Inbox:
    return Inbox(str(folder), limits=InputLimits(), settle_s=settle_s)


def test_files_enter_the_log_by_age_and_leave_with_a_receipt(
    tmp_path: Path, log: RequestLog
) -> None:
    drop(tmp_path / "in", "a.jsonl", [1, 2])
    drop(tmp_path / "in", "b.jsonl", [3], age_s=120)
    inbox = inbox_of(tmp_path / "in")
    entries = inbox.waiting()
    assert [entry.key for entry in entries] == ["b.jsonl", "a.jsonl"]
    for entry in entries:
        assert inbox.log_file(entry, log) is not None
    logged = [item.request.edit_id for item in log.read()]
    assert logged == [request(number).edit_id for number in (3, 1, 2)]
    assert inbox.waiting() == []
    assert not any((tmp_path / "in").iterdir())
    done = sorted(path.name for path in (tmp_path / "in_done").glob("*.json*"))
    assert [name[:2] for name in done] == ["a-", "a-", "b-", "b-"]
    receipt = json.loads((tmp_path / "in_done" / done[1]).read_text())
    assert (receipt["file"], receipt["num_new"], receipt["refused"]) == ("a.jsonl", 2, [])


def test_a_file_that_is_read_again_doubles_nothing(tmp_path: Path, log: RequestLog) -> None:
    drop(tmp_path / "in", "a.jsonl", [1, 2])
    inbox = inbox_of(tmp_path / "in")
    (entry,) = inbox.waiting()
    assert inbox.log_file(entry, log) is not None
    drop(tmp_path / "in", "a.jsonl", [1, 2])  # as if the process had died before it was deleted
    (entry,) = inbox.waiting()
    again = inbox.log_file(entry, log)
    assert again is not None
    assert (again.num_new, again.num_accepted) == (0, 2)
    assert len(log) == 2
    assert len(list((tmp_path / "in_done").glob("*.json*"))) == 2


def test_images_leave_with_their_file_and_other_files_find_them(
    tmp_path: Path, log: RequestLog
) -> None:
    folder, done = tmp_path / "in", tmp_path / "in_done"
    first = drop(folder, "a.jsonl", [1, 2], age_s=90)
    second = drop(folder, "b.jsonl", [2, 3])
    (folder / "photos of \u00e4").mkdir()
    (folder / "1.png").rename(folder / "photos of \u00e4" / "1 %.png")
    first.write_text(first.read_text().replace('"1.png"', '"photos of \u00e4/1 %.png"'))
    second.write_text(second.read_text() + '{"image": "c.jsonl", "prompt": "?", "target": "x"}\n')
    waiting = drop(folder, "c.jsonl", [4])
    (folder / "unnamed.png").write_bytes(image(9))
    inbox = inbox_of(folder, settle_s=0)
    for name, num_refused in (("a.jsonl", 0), ("b.jsonl", 1)):
        (entry,) = (item for item in inbox.waiting() if item.key == name)
        intake = inbox.log_file(entry, log)
        assert intake is not None
        assert len(intake.rejected) == num_refused
    assert len(log) == 3
    assert waiting.exists(), "another file is no image of the one that names it"
    left = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert left == ["4.png", "c.jsonl", "unnamed.png"]
    assert (done / "photos of \u00e4" / "1 %.png").read_bytes() == image(1)
    assert (done / "2.png").read_bytes() == image(2)


def test_a_file_whose_images_were_moved_already_is_read_again(
    tmp_path: Path, log: RequestLog
) -> None:
    class DyingInbox(Inbox):
        def _move(self, *_: object) -> None:
            raise StorageUnavailableError("away")

    folder = tmp_path / "in"
    drop(folder, "a.jsonl", [1, 2])
    inbox = DyingInbox(str(folder), limits=InputLimits())
    (entry,) = inbox.waiting()
    with pytest.raises(StorageUnavailableError):
        inbox.log_file(entry, log)
    assert [path.name for path in folder.iterdir()] == ["a.jsonl"]
    again = inbox_of(folder).log_file(entry, log)
    assert again is not None
    assert (again.num_accepted, again.num_new, again.rejected) == (2, 0, [])
    assert not any(folder.iterdir())


def test_an_image_with_the_name_of_an_older_one_is_moved_beside_it(
    tmp_path: Path, log: RequestLog
) -> None:
    folder, done = tmp_path / "in", tmp_path / "in_done"
    inbox = inbox_of(folder, settle_s=0)
    for number in (1, 5):
        path = drop(folder, f"{number}.jsonl", [1])
        (folder / "1.png").write_bytes(image(number))
        (entry,) = inbox.waiting()
        assert inbox.log_file(entry, log) is not None
    drop(folder, "last.jsonl", [1])
    (folder / "1.png").unlink()
    (entry,) = inbox.waiting()
    inbox.log_file(entry, log)
    assert not path.exists()
    assert [item.request.image_bytes for item in log.read()] == [image(1), image(5)]
    assert (done / "1.png").read_bytes() == image(5)
    (older,) = done.glob("1-*.png")
    assert older.read_bytes() == image(1)


def test_bad_lines_are_named_in_the_receipt_and_on_record(tmp_path: Path, log: RequestLog) -> None:
    path = drop(tmp_path / "in", "a.jsonl", [1])
    path.write_text(path.read_text() + "{not JSON\n")
    os.utime(path, (1, 1))
    inbox = inbox_of(tmp_path / "in")
    (entry,) = inbox.waiting()
    inbox.log_file(entry, log)
    (receipt,) = (tmp_path / "in_done").glob("*.receipt.json")
    (refused,) = json.loads(receipt.read_text())["refused"]
    assert (refused["line"], refused["error_type"]) == (2, "NotJson")
    assert [stored.rejected.line_number for stored in log.rejects.read()] == [2]


def test_only_settled_jsonl_files_of_the_folder_itself_are_taken(tmp_path: Path) -> None:
    drop(tmp_path / "in", "fresh.jsonl", [1], age_s=0)
    drop(tmp_path / "in", "notes.txt", [1])
    (tmp_path / "in" / "deeper").mkdir()
    drop(tmp_path / "in" / "deeper", "other.jsonl", [1])
    assert inbox_of(tmp_path / "in", settle_s=3600).waiting() == []
    assert [entry.key for entry in inbox_of(tmp_path / "in", settle_s=0).waiting()] == [
        "fresh.jsonl"
    ]
    assert inbox_of(tmp_path / "nowhere").waiting() == []


def test_a_file_that_is_too_large_stays_and_is_named_once(tmp_path: Path) -> None:
    drop(tmp_path / "in", "a.jsonl", [1])
    said: list[str] = []
    inbox = Inbox(str(tmp_path / "in"), limits=InputLimits(), max_file_bytes=10, say=said.append)
    assert [inbox.waiting(), inbox.waiting()] == [[], []]
    assert len(said) == 1
    assert "split it" in said[0]


def test_what_another_driver_took_first_is_no_error(tmp_path: Path, log: RequestLog) -> None:
    drop(tmp_path / "in", "a.jsonl", [1])
    inbox = inbox_of(tmp_path / "in")
    (entry,) = inbox.waiting()
    assert inbox.log_file(entry, log) is not None
    assert inbox.log_file(entry, log) is None


def test_lines_that_were_added_meanwhile_are_not_lost(tmp_path: Path, log: RequestLog) -> None:
    path = drop(tmp_path / "in", "a.jsonl", [1])

    class GrowingLog(RequestLog):
        def append(self, *arguments, **options):  # type: ignore[no-untyped-def]
            drop(tmp_path / "in", "a.jsonl", [1, 2])
            return super().append(*arguments, **options)

    inbox = inbox_of(tmp_path / "in")
    (entry,) = inbox.waiting()
    inbox.log_file(entry, GrowingLog(ObjectStore(tmp_path / "store")))
    assert path.exists()
    (entry,) = inbox.waiting()
    inbox.log_file(entry, log)
    assert len(log) == 2
    assert not path.exists()


class BrokenInbox(Inbox):
    """Cannot log some files, for a reason of theirs."""

    def log_file(self, entry: ObjectEntry, request_log: RequestLog) -> Intake | None:
        if entry.key.startswith("bad"):
            raise ZeroDivisionError("this file is odd")
        return super().log_file(entry, request_log)


def test_a_file_that_fails_three_times_is_put_aside_with_a_receipt(
    tmp_path: Path, log: RequestLog
) -> None:
    path = drop(tmp_path / "in", "bad.jsonl", [1])
    content, said = path.read_bytes(), list[str]()
    inbox = BrokenInbox(str(tmp_path / "in"), limits=InputLimits(), say=said.append)
    for number in (1, 2):
        (entry,) = inbox.waiting()
        with pytest.raises(InboxFileError, match=rf"{number} of 3 tries.*this file is odd"):
            inbox.take(entry, log)
    assert inbox.take(entry, log) is None
    assert inbox.waiting() == []
    copy, receipt = sorted((tmp_path / "in_failed").iterdir())
    assert copy.read_bytes() == content
    noted = json.loads(receipt.read_text())
    assert (noted["file"], noted["error_type"]) == ("bad.jsonl", "ZeroDivisionError")
    assert noted["message"] == "this file is odd"
    assert "put aside" in said[0]


def test_a_fault_of_log_or_store_puts_no_file_aside(tmp_path: Path, log: RequestLog) -> None:
    class LostLog(RequestLog):
        def append(self, *arguments, **options):  # type: ignore[no-untyped-def]
            raise ZeroDivisionError("in the log")

        def __len__(self) -> int:
            raise IntegrityError("the log is damaged")

    drop(tmp_path / "in", "a.jsonl", [1])
    inbox = inbox_of(tmp_path / "in")
    (entry,) = inbox.waiting()
    with pytest.raises(IntegrityError, match="damaged"):
        inbox.take(entry, LostLog(ObjectStore(tmp_path / "store")))
    assert inbox.waiting() == [entry]


def test_odd_names_stop_nothing(tmp_path: Path, log: RequestLog) -> None:
    folder = tmp_path / "in"
    secret = tmp_path / "secret.env"
    secret.write_text("PASSWORD=1")
    drop(folder, ".tmp-a.jsonl", [1])
    (folder / "link.jsonl").symlink_to(secret)
    (folder / "loop.jsonl").symlink_to(folder / "loop.jsonl")
    (folder / "old.jsonl").mkdir()
    os.mkfifo(folder / "pipe.jsonl")
    drop(folder, "b.jsonl", [2]).rename(os.fsdecode(os.fsencode(folder) + b"/\xff\x1b.jsonl"))
    said: list[str] = []
    inbox = Inbox(str(folder), limits=InputLimits(), settle_s=0, say=said.append)
    (entry,) = inbox.waiting()
    intake = inbox.take(entry, log)
    assert intake is not None
    assert intake.num_new == 1
    assert inbox.waiting() == []
    assert (folder / "link.jsonl").is_symlink()
    assert sorted(said) == [
        f"{inbox.uri}/{name}.jsonl is a folder, a link or a pipe; it stays in the inbox: put the "
        "file itself here"
        for name in ("link", "loop", "old", "pipe")
    ]
    assert all(b"PASSWORD" not in path.read_bytes() for path in (tmp_path / "in_done").iterdir())
