"""JSON Lines from outside, read line by line: each line becomes an object or a `Rejected`."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from liveedit_core.errors import InputError
from liveedit_core.inputs.rejects import RefusedInputError, Rejected, RejectType

_UTF8_BOM = b"\xef\xbb\xbf"
_SKIP_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class JsonLine:
    """One JSON object and where it stood."""

    line_number: int
    raw: str
    content: dict[str, Any]


def read_json_lines(path: Path, *, max_line_bytes: int) -> Iterator[JsonLine | Rejected]:
    """Read the objects of a JSONL file; blank lines are skipped, bad lines become `Rejected`.

    Memory stays bounded by `max_line_bytes`, whatever the file holds.
    """
    with open(path, "rb") as file:
        line_number = 0
        while line := file.readline(max_line_bytes + 1):
            line_number += 1
            if line_number == 1:
                line = line.removeprefix(_UTF8_BOM)
            if len(line.rstrip(b"\r\n")) > max_line_bytes:
                if not line.endswith(b"\n"):
                    _skip_rest_of_line(file)
                yield _reject(
                    line_number,
                    line,
                    f"the line is longer than {max_line_bytes:,} bytes",
                    RejectType.LINE_TOO_LONG,
                )
            elif line.strip():
                yield _parse(line_number, line)


def parse_object(text: str) -> dict[str, Any]:
    """Parse one JSON object strictly: a key that is given twice is an error, not the last one wins.

    Raises:
        InputError: Not JSON, or JSON that is not an object.
    """
    try:
        content = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RefusedInputError(
            f"the line is not valid JSON: {reason}", error_type=RejectType.NOT_JSON
        ) from error
    if not isinstance(content, dict):
        raise RefusedInputError(
            f"a line must be a JSON object {{...}}, got {json_type_name(content)}",
            error_type=RejectType.WRONG_TYPE,
        )
    return content


def json_type_name(value: object) -> str:
    """What a JSON user calls the type of a value."""
    names = {
        bool: "true/false",
        dict: "an object",
        list: "a list",
        str: "a text",
        type(None): "null",
    }
    return names.get(type(value), "a number")


def _parse(line_number: int, line: bytes) -> JsonLine | Rejected:
    try:
        raw = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        message = f"the line is not UTF-8 (byte {error.start + 1} of the line): save it as UTF-8"
        return _reject(line_number, line, message, RejectType.NOT_UTF8)
    try:
        return JsonLine(line_number=line_number, raw=raw, content=parse_object(raw))
    except InputError as error:
        return Rejected.from_error(error, line_number=line_number, raw=raw)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`: an object whose keys are all different.

    Raises:
        InputError: A key is given twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = min(key for key, count in counts.items() if count > 1)
        raise RefusedInputError(
            f"key {repeated[:80]!r} is given more than once", error_type=RejectType.REPEATED_KEY
        )
    return content


def _skip_rest_of_line(file: BinaryIO) -> None:
    while (chunk := file.readline(_SKIP_BYTES)) and not chunk.endswith(b"\n"):
        pass


def _reject(line_number: int, line: bytes, message: str, error_type: RejectType) -> Rejected:
    error = RefusedInputError(message, error_type=error_type)
    raw = line[:2_000].decode("utf-8", errors="replace").strip()
    return Rejected.from_error(error, line_number=line_number, raw=raw)
