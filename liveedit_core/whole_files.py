"""Files that are whole or not there: written beside, forced to disk, renamed; and what was kept in
them."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from liveedit_core.errors import ConfigError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The path to write to; it replaces `path` at the end, readable as the umask says, and is
    deleted after an error. Libraries may replace the file or narrow its mode meanwhile."""
    partial = path.parent / f".{path.name}.partial"
    partial.write_bytes(b"")
    mode = partial.stat().st_mode & 0o777
    try:
        yield partial
        partial.chmod(mode)
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | str) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def writing_to(place: object) -> Iterator[Path]:
    """The path of a file or folder that a user names; ConfigError where it cannot be written."""
    text = str(place) if isinstance(place, str | Path) else ""
    if not text or "\0" in text or "://" in text:
        raise ConfigError(f"{place!r} is no path of a file or folder on this machine")
    try:
        yield Path(text)
    except OSError as error:
        raise ConfigError(f"{place} cannot be written: {error}") from error


def state_of(file: Path) -> Any:
    """What a JSON file holds from which work goes on; None where there is none, or it is damaged:
    then the work begins anew."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
