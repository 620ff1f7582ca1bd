"""A reader of a growing table looks up what it is asked for, and holds none of it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from infra.cache import content_table
from infra.cache.content_table import ContentTable, WrittenRows
from infra.storage import tables
from infra.storage.object_store import ObjectStore
from infra.storage.tables import not_null, read_rows

SCHEMA = not_null(name=pa.string(), num_bytes=pa.int64())


def opened(folder: Path) -> ContentTable:
    return ContentTable(ObjectStore(folder), "content", SCHEMA, key="name")


def add(table: ContentTable, *numbers: int) -> None:
    names = [f"row {number}" for number in numbers]
    rows = pa.Table.from_pydict({"name": names, "num_bytes": list(numbers)}, schema=SCHEMA)
    table.commit(WrittenRows.write(table.table, rows, "name"))


def test_a_reader_reads_what_it_is_asked_for_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, num_read = opened(tmp_path), 0
    for start in range(0, 1500, 500):
        add(writer, *range(start, start + 500))

    def counted(*arguments: Any, **options: Any) -> pa.Table:
        nonlocal num_read
        rows = read_rows(*arguments, **options)
        num_read += len(rows)
        return rows

    monkeypatch.setattr(tables, "read_rows", counted)
    monkeypatch.setattr(content_table, "read_rows", counted)
    reader = opened(tmp_path)
    add(writer, 1500)
    num_read = 0
    reader.refresh()
    wanted = ["row 7", "row 1500", "row 9999"]
    assert reader.held(wanted) == {"row 7", "row 1500"}
    assert sorted(reader.rows(wanted).column("num_bytes").to_pylist()) == [7, 1500]
    assert (len(reader), reader.num_bytes) == (1501, sum(range(1501)))
    assert num_read == 4, "no other id"


def test_ids_are_looked_up_in_an_index(tmp_path: Path) -> None:
    table = opened(tmp_path)
    for start in range(0, 4000, 100):
        add(table, *range(start, start + 100))
    (index,) = table.table.latest().describe_indices()
    assert index.field_names == ["name"]
    assert index.num_rows_indexed >= 3000
    plan = table.table.latest().scanner(columns=["name"], filter="name IN ('row 7')").explain_plan()
    assert "ScalarIndexQuery" in plan
    assert table.held(["row 7", "row 3999"]) == {"row 7", "row 3999"}
    table.remove(["row 7"])
    assert table.held(["row 7", "row 8"]) == {"row 8"}


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
    assert reader.num_bytes == sum(left)
    rows = reader.rows(["row 24", "row 50", "row 25"]).column("num_bytes").to_pylist()
    assert sorted(rows) == sorted(left & {24, 25, 50})
