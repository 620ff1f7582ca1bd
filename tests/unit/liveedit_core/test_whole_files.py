"""Files are whole or not there, and readable as the umask says."""

import os
import stat
from pathlib import Path

import pytest

from liveedit_core.errors import IntegrityError
from liveedit_core.method.generator import (
    CONFIG_FILE,
    DIGEST_FILE,
    WEIGHTS_FILE,
    load_generator,
    save_generator,
)
from liveedit_core.whole_files import state_of, whole_file, write_whole
from tests.tiny_backbone import OUR_CONFIG, tiny_generator


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_state_is_none(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "state.json"
    assert state_of(file) is None
    file.write_bytes(data)
    assert state_of(file) is None
    file.write_bytes(b'{"a": 1}')
    assert state_of(file) == {"a": 1}


def test_an_error_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_whole(file, "before")

    def write_half() -> None:
        with whole_file(file) as partial:
            partial.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        write_half()
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_a_checkpoint_is_readable_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save_generator(tiny_generator(), tmp_path)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE, DIGEST_FILE])
def test_parts_of_two_saves_do_not_open_as_one_checkpoint(tmp_path: Path, name: str) -> None:
    for folder, gain in (("old", 1.0), ("new", 2.0)):
        save_generator(tiny_generator(OUR_CONFIG.with_changes(gain=gain)), tmp_path / folder)
    weights = tmp_path / "new" / WEIGHTS_FILE
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    write_whole(tmp_path / "new" / DIGEST_FILE, "0" * 64)
    (tmp_path / "old" / name).write_bytes((tmp_path / "new" / name).read_bytes())
    with pytest.raises(IntegrityError, match="parts are not of one save"):
        load_generator(tmp_path / "old")


def test_a_checkpoint_of_an_earlier_release_opens(tmp_path: Path) -> None:
    digest = save_generator(tiny_generator(), tmp_path)
    (tmp_path / DIGEST_FILE).unlink()
    assert load_generator(tmp_path).digest == digest
