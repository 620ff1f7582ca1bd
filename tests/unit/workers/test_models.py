"""Workers of a node take turns at the built-in parts, unless there is nothing to write."""

import fcntl
from pathlib import Path

import pytest

from workers.models import one_process_at_a_time


def test_others_wait_while_one_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEEDIT_CACHE", str(tmp_path / "cache"))
    with (
        one_process_at_a_time(),
        (tmp_path / "cache" / ".lock").open("w") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "cache" / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_cache_that_may_not_be_written_to_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by permissions: root, as which tests may run, has them all."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIVEEDIT_CACHE", str(tmp_path / "file" / "cache"))
    with one_process_at_a_time():
        pass
    with pytest.raises(ValueError, match="of the body"), one_process_at_a_time():
        raise ValueError("of the body")
