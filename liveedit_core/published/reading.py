"""Published JSON files from outside: bounded, strict, and every fault in one message."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from liveedit_core.errors import InputError
from liveedit_core.inputs.jsonl import json_type_name, unique_keys
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.published.layout import Layout
from liveedit_core.published.records import PublishedRecord, RecordParser


def read_files(
    paths: Sequence[Path], layout: Layout, limits: InputLimits, problems: list[str]
) -> tuple[list[PublishedRecord], str]:
    """All records of some files, checked one by one.

    Args:
        paths: JSON files, each a list of records.
        layout: Of the benchmark.
        limits: How much is accepted.
        problems: Takes what is wrong, a sentence each.

    Returns:
        Well-formed records, and a digest of all that was read.
    """
    parser = RecordParser(layout, limits)
    digest = sha256(layout.name.encode())
    records: list[PublishedRecord] = []
    number = 0
    for path in paths:
        try:
            data = _read(path, limits.max_benchmark_bytes)
            contents = _parse(data)
        except InputError as error:
            problems.append(f"{path} {error.message}")
            continue
        digest.update(sha256(data).digest())
        for index, content in enumerate(contents, start=1):
            number += 1
            record, faults = parser.parse(content, file=path.name, index=index, number=number)
            problems += [f"{path.name}, record {index}: {fault}" for fault in faults]
            if record is not None:
                records.append(record)
    return records, digest.hexdigest()


def _read(path: Path, max_bytes: int) -> bytes:
    if not path.is_file():  # a named pipe would block for ever
        raise InputError("is not a file")
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error})") from error
    if len(data) > max_bytes:
        raise InputError(
            f"has more than {max_bytes:,} bytes; limits.max_benchmark_bytes accepts no more"
        )
    return data


def _parse(data: bytes) -> list[object]:
    try:
        contents = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"is not valid JSON in UTF-8: {reason}") from error
    if not isinstance(contents, list):
        raise InputError(f"must be a list of records [...], got {json_type_name(contents)}")
    if not contents:
        raise InputError("holds no record")
    return contents
