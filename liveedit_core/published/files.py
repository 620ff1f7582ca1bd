"""The JSON files of a published benchmark: lists of records, read whole and checked strictly."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from liveedit_core.errors import InputError
from liveedit_core.inputs.jsonl import json_type_name, parse_json
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.published.layout import Layout
from liveedit_core.published.neighbours import Samples, with_neighbours
from liveedit_core.published.records import PublishedRecord, RecordParser


def read_files(
    paths: Sequence[Path], layout: Layout, limits: InputLimits, problems: list[str]
) -> tuple[list[PublishedRecord], str]:
    """The well-formed records, and a digest of all that was read; faults go to `problems`."""
    parser = RecordParser(layout, limits)
    digest = sha256(layout.name.encode())
    records: list[PublishedRecord] = []
    own, others = Samples(), Samples()
    number = 0
    for path in paths:
        try:
            data = _read_bytes(path, limits.max_benchmark_bytes)
            contents = _parse_list(data)
        except InputError as error:
            problems.append(f"{path} {error.message}")
            continue
        digest.update(sha256(data).digest())
        for index, content in enumerate(contents, start=1):
            place = f"{path.name}, record {index}"
            faults: list[str] = []
            if path.name == layout.samples_file:
                question = parser.sample(content, faults)
                faults.append(others.add(content, question))
            else:
                number += 1
                found = parser.records(content, path.name, place, number, faults)
                records += found
                if layout.neighbours:
                    faults.append(own.add(content, found[0].edit if found else None))
            problems += [f"{place}: {fault}" for fault in faults if fault]
    if layout.neighbours:
        records = [with_neighbours(record, layout, own, others, problems) for record in records]
    return records, digest.hexdigest()


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    if not path.is_file():  # a named pipe would block forever
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


def _parse_list(data: bytes) -> list[object]:
    complaint = "is not valid JSON in UTF-8"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{complaint}: {error}") from error
    contents = parse_json(text, complaint)
    if not isinstance(contents, list):
        raise InputError(f"must be a list of records [...], got {json_type_name(contents)}")
    if not contents:
        raise InputError("holds no record")
    return contents
