"""A reader of a growing table reads what is new, and everything where rows have moved."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from infra.cache import content_table
from infra.cache.content_table import ContentTable, WrittenRows
from infra.storage.object_store import ObjectStore
from infra.storage.tables import not_null, read_rows

SCHEMA = not_null(name=pa.string(), num_bytes=pa.int64())


def opened(folder: Path) -> ContentTable:
    return ContentTable(ObjectStore(folder), "content", SCHEMA, key="name")


def add(table: ContentTable, *numbers: int) -> None:
    names = [f"row {number}" for number in numbers]
    rows = pa.Table.from_pydict({"name": names, "num_bytes": list(numbers)}, schema=SCHEMA)
    table.commit(WrittenRows.write(table.table, rows, "name"))


def test_a_reader_reads_the_new_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = opened(tmp_path)
    add(writer, *range(100))
    reader, num_read = opened(tmp_path), 0

    def counted(*arguments: Any, **options: Any) -> pa.Table:
        nonlocal num_read
        rows = read_rows(*arguments, **options)
        num_read += len(rows)
        return rows

    monkeypatch.setattr(content_table, "read_rows", counted)
    for start in range(100, 130, 10):
        add(writer, *range(start, start + 10))
    num_read = 0
    reader.refresh()
    assert num_read == 30
    assert reader.sizes() == {f"row {number}": number for number in range(130)}
    wanted = ["row 7", "row 128"]
    assert reader.take(wanted).column("name").to_pylist() == wanted


@pytest.mark.parametrize("change", ["remove", "merge", "both"])
def test_rows_are_found_after_others_left_or_were_merged(change: str, tmp_path: Path) -> None:
    writer = opened(tmp_path)
    for start in range(0, 40, 10):
        add(writer, *range(start, start + 10))
    reader = opened(tmp_path)
    if change != "merge":
        writer.remove(["row 3", "row 25"])
    if change != "remove":
        writer.compact()
    add(writer, 50)
    reader.refresh()
    left = {*range(40), 50} - ({3, 25} if change != "merge" else set())
    assert reader.sizes() == {f"row {number}": number for number in sorted(left)}
    assert reader.take(["row 24", "row 50"]).column("num_bytes").to_pylist() == [24, 50]
