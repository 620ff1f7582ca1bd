"""Files of one JSON record a line, which no damage and no full disk makes an error."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from liveedit_core.errors import LiveEditError

_logger = logging.getLogger(__name__)


class RejectedRecordError(LiveEditError):
    """This record will never be accepted."""


class LineFiles:
    """Reads and writes them; what goes wrong is said once, until it works again."""

    def __init__(self) -> None:
        self._bad: set[Path] = set()
        """Files that could not be used at the last try."""

    def append(self, file: Path, lines: Sequence[str]) -> bool:
        """Add lines; False when the disk is full. A line that a killed or hindered predecessor did
        not end is ended first."""
        try:
            with file.open("a+b") as stream:
                if stream.tell():
                    stream.seek(-1, os.SEEK_END)
                    is_ended = stream.read(1) == b"\n"
                    stream.write(b"" if is_ended else b"\n")
                stream.write("".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            self._say(file, error)
            return False
        self._bad.discard(file)
        return True

    def rewrite(self, file: Path, lines: Sequence[str]) -> bool:
        """Replace a file, whole or not at all; False when the disk is full."""
        temporary = file.with_suffix(".tmp")
        try:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            temporary.replace(file)
        except OSError as error:
            self._say(temporary, error)
            return False
        self._bad.discard(temporary)
        return True

    def lines(self, file: Path) -> list[str]:
        """All lines; bytes that are no text stay in theirs, which is no record then."""
        try:
            return file.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            self._say(file, error)
            return []

    def _say(self, file: Path, error: OSError) -> None:
        if file not in self._bad:
            self._bad.add(file)
            _logger.warning("%s cannot be used: %s", file, error)


def parsed(line: str) -> dict[str, Any]:
    """The record of a line; RejectedRecordError where it holds none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RejectedRecordError(f"unreadable record: {error!r}") from error
    if not isinstance(record, dict):
        raise RejectedRecordError("unreadable record: no object")
    return record
