"""Files that a user names: regular ones, and read no further than they may be long."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from liveedit_core.errors import InputError


def check_is_file(path: Path) -> None:
    """InputError for what is no regular file: a pipe would block, and a device never ends."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise InputError(f"cannot read {path}: {error}") from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise InputError(f"{path} is {what}; expected a file")


def read_given_text(path: Path, max_bytes: int) -> str:
    """The text of a file; InputError when it cannot be read as one."""
    check_is_file(path)
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise InputError(f"{path} is longer than {max_bytes:,} bytes")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def given_lines(file: BinaryIO, name: str, max_bytes: int) -> Iterator[str]:
    """The lines that are not blank, stripped; InputError at one that is too long or no text."""
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        if len(line) > max_bytes:
            raise InputError(f"{name}, line {number}: longer than {max_bytes:,} bytes")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{name}, line {number}: not UTF-8 ({error})") from error
        if text:
            yield text
