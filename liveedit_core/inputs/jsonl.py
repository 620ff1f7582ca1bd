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
_TYPE_NAMES = {bool: "true/false", dict: "an object", list: "a list", str: "a text"}


@dataclass(frozen=True, kw_only=True)
class JsonLine:
    """One JSON object and its place in the file."""

    line_number: int
    raw: str
    content: dict[str, Any]


def read_json_lines(path: Path, *, max_line_bytes: int) -> Iterator[JsonLine | Rejected]:
    """Read a JSONL file in bounded memory; blank lines are skipped, bad ones become `Rejected`."""
    with open(path, "rb") as file:
        line_number = 0
        while line := file.readline(max_line_bytes + 1):
            line_number += 1
            if line_number == 1:
                line = line.removeprefix(_UTF8_BOM)
            is_too_long = len(line.rstrip(b"\r\n")) > max_line_bytes
            if is_too_long and not line.endswith(b"\n"):
                _skip_rest_of_line(file)
            if is_too_long or line.strip():
                yield _parse_line(line_number, line, max_line_bytes)


def parse_json(text: str, complaint: str) -> object:
    """Parse any JSON value; an error begins with `complaint`."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RefusedInputError(f"{complaint}: {reason}", RejectType.NOT_JSON) from error


def json_type_name(value: object) -> str:
    """What a JSON user calls the type of a value."""
    return "null" if value is None else _TYPE_NAMES.get(type(value), "a number")


def wrong_type(name: str, expected: str, value: object) -> RefusedInputError:
    """The error for a value of another JSON type."""
    return RefusedInputError(
        f"{name} must be {expected}, got {json_type_name(value)}", RejectType.WRONG_TYPE
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = min(key for key, count in counts.items() if count > 1)
        raise RefusedInputError(
            f"key {repeated[:80]!r} is given more than once", RejectType.REPEATED_KEY
        )
    return content


def _parse_line(line_number: int, line: bytes, max_line_bytes: int) -> JsonLine | Rejected:
    try:
        if len(line.rstrip(b"\r\n")) > max_line_bytes:
            raise RefusedInputError(
                f"the line is longer than {max_line_bytes:,} bytes", RejectType.LINE_TOO_LONG
            )
        raw = line.decode("utf-8").strip()
        content = parse_json(raw, "the line is not valid JSON")
        if not isinstance(content, dict):
            raise RefusedInputError(
                f"a line must be a JSON object {{...}}, got {json_type_name(content)}",
                RejectType.WRONG_TYPE,
            )
        return JsonLine(line_number=line_number, raw=raw, content=content)
    except UnicodeDecodeError as error:
        refusal: InputError = RefusedInputError(
            f"the line is not UTF-8 (byte {error.start + 1} of the line): save it as UTF-8",
            RejectType.NOT_UTF8,
        )
    except InputError as error:
        refusal = error
    raw = line.decode("utf-8", errors="replace").strip()
    return Rejected.from_error(refusal, line_number=line_number, raw=raw)


def _skip_rest_of_line(file: BinaryIO) -> None:
    while (chunk := file.readline(_SKIP_BYTES)) and not chunk.endswith(b"\n"):
        pass
