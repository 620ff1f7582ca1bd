#!/usr/bin/env python
"""What one more edit costs a store of 1 000, 100 000 or a million edits, in counts instead of time.

    python -m tests.benchmarks.scale_model --sizes 1000 20000               a few minutes
    python -m tests.benchmarks.scale_model                                  1e3, 1e5 and 1e6 edits

The code of the job (request log, rejects, subjects, fragments, commits, compaction) runs on stub
tensors in a store on disk. A store is first filled with rows that are copies of one but for their
ids, in files of the size that compaction leaves. Then `--measured` more edits pass as in a job, in
windows of 100, with a compaction every 20 windows, after as many that are not counted, and after
the indices were read: a process reads them page by page, each page once (as long as they fit into
its cache), which is told apart (`first_read_bytes`). Counted are
objects and bytes written (also of files that a compaction deleted again), versions of tables,
requests and bytes read of all tables and objects, and Python's memory of a request log in use.
The size of merged files is scaled with the rows: as many rows to a file as with experts of the
small backbone and images of 30 KB.

Large parts of an index are merged too rarely to be met in a few thousand edits, or are met by
chance. So indices are counted apart, over a doubling of the store, at most `CYCLE` edits (after as
many the merges repeat): rows in bulk, with a compaction every 2 000 as in the job. Their bytes
count once as written and twice as read: by the next merge, and by the process that looks ids up.
"""

import argparse
import hashlib
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.policy import GrowthPolicy
from infra.bank.schema import rows_to_table
from infra.requests import request_log
from infra.requests.request_log import RequestLog
from infra.requests.subject_log import SubjectAssignment
from infra.storage import upkeep
from infra.storage.disk import DiskBackend
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table
from liveedit_core.schema import EditRequest
from tests.benchmarks.frame import machine, parser_of, publish
from tests.small_rows import SMALL_IDENTITY, refusal, row_of

WINDOW_EDITS = 100
BATCH_SIZE = 8
"""Edits of one fragment, as an embedding worker writes them."""
INTAKE_ITEMS = 128
FILL_EDITS = 30_000
FILE_EDITS = 1500
"""Of one filled file, about as many as a merged one holds."""
WARM_EDITS = 2000
REAL_ROW_BYTES = 84_000
STUB_ROW_BYTES = 1_000
POLICY = GrowthPolicy(
    fragment_bytes=GrowthPolicy().fragment_bytes * STUB_ROW_BYTES // REAL_ROW_BYTES,
    keep_versions=20,
    keep_days=0.0,
)
TABLES = ("banks/main", "requests", "rejects", "subjects")
LIMIT = 1.3
CYCLE = 180_000


def stub_request(number: int) -> EditRequest:
    """A request whose image nobody decodes."""
    data = f"image {number}".encode() * 10
    digest = hashlib.sha256(data).hexdigest()
    return EditRequest(
        image_bytes=data, prompt="What is it?", target=f"entity {number}", pixel_digest=digest
    )


class Scene:
    """One store, and a driver that fills it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = ObjectStore(folder)
        self.log = RequestLog(self._store)
        self._bank = ExpertBank.open_or_create(self._store, "main", SMALL_IDENTITY)
        self._epoch = self._bank.acquire_writer()
        self._compaction = Compaction(self._store, "main", POLICY)
        self._seen = self._files()
        self.written: Counter[str] = Counter()
        self.gets: Counter[str] = Counter()

    def _files(self) -> dict[str, int]:
        files = (path for path in self._folder.rglob("*") if path.is_file())
        return {str(path): path.stat().st_size for path in files}

    def count_files(self) -> None:
        """Add the files that are new since the last call."""
        files = self._files()
        for name in files.keys() - self._seen.keys():
            kind = "index_" if "/_indices/" in name else ""
            self.written[f"{kind}objects"] += 1
            self.written[f"{kind}bytes"] += files[name]
        self._seen = files

    def versions(self) -> int:
        return sum(int(Table(self._store, name).latest().version) for name in TABLES)

    def reads(self) -> tuple[int, int]:
        """Requests and bytes since the last call."""
        compaction = self._compaction
        tables = [self._bank._table, self.log.table, self.log.rejects._table]
        tables += [self.log.subjects._table, compaction._table, *compaction._logs.values()]
        found = [table._dataset.io_stats_incremental() for table in tables if table.exists()]
        num_objects, num_bytes = self.gets["objects"], self.gets["bytes"]
        self.gets.clear()
        return (
            num_objects + sum(item.read_iops for item in found),
            num_bytes + sum(item.read_bytes for item in found),
        )

    def counted(self, get: Callable[..., bytes]) -> Callable[..., bytes]:
        """`DiskBackend.get`, counted."""

        def counting(backend: DiskBackend, key: str, max_bytes: int | None) -> bytes:
            data = get(backend, key, max_bytes)
            self.gets["objects"] += 1
            self.gets["bytes"] += len(data)
            return data

        return counting

    def log_requests(self, count: int, at_once: int) -> list[int]:
        """Log new requests; one line in a hundred is refused."""
        numbers: list[int] = []
        start = len(self.log)
        for first in range(start, start + count, at_once):
            size = min(at_once, start + count - first)
            requests = [stub_request(number) for number in range(first, first + size)]
            source = f"file {first}"
            numbers += [item.sequence for item in self.log.append(requests, source=source)]
            self.log.reject_lines([refusal(line) for line in range(0, size, 100)], source=source)
        return numbers

    def window(self, numbers: Sequence[int], batch_size: int) -> None:
        """What the stages and the committer do with one window."""
        fragments = []
        writer = self._bank.fragment_writer()
        reader = self.log.reader()
        assignments = []
        for start in range(0, len(numbers), batch_size):
            batch = numbers[start : start + batch_size]
            rows = [row_of(item.sequence, item.request) for item in reader.read(batch)]
            fragments += writer.write(rows)
            assignments += [
                SubjectAssignment(
                    sequence=row.sequence, edit_id=row.expert.edit_id, subject_id=row.subject_id
                )
                for row in rows
            ]
        self.log.subjects.append(assignments)
        subjects = self.log.subjects_of([item.edit_id for item in assignments])
        self._bank.commit(fragments, epoch=self._epoch, subjects=subjects)

    def fill(self, count: int) -> None:
        while len(self.log) < count:
            self._fill_some(min(FILL_EDITS, count - len(self.log)))
            self._compaction.run()

    def _fill_some(self, size: int) -> None:
        """Rows with ids of their own, and else like one."""
        first = len(self.log) + 1
        ids = {
            "sequence": pa.array(range(first, first + size), pa.int64()),
            **{name: pa.array(hashes(name, first, size)) for name in ("edit_id", "subject_id")},
        }
        edit_ids, subject_ids = (ids[name].to_pylist() for name in ("edit_id", "subject_id"))
        more = {
            name: pa.array(hashes(name, first, size)) for name in ("pixel_digest", "question_id")
        }
        plain = {"source": "filled", "place": first, "submitted_at": datetime.now(UTC)}
        request = request_log._to_row({**plain, "supersedes": ""}, stub_request(0))
        template = pa.Table.from_pylist(
            [{**request, "sequence": 0, **dict.fromkeys(("edit_id", "subject_id", *more), "")}],
            schema=request_log._SCHEMA,
        )
        requests = copies(template, size, {**ids, **more})
        self.log.table.on_latest(lambda base: self.log.write(base, requests))
        self.log.reject_lines([refusal(n) for n in range(0, size, 100)], source=f"filled {first}")
        assignments = [
            SubjectAssignment(sequence=number, edit_id=edit_id, subject_id=subject_id)
            for number, (edit_id, subject_id) in enumerate(
                zip(edit_ids, subject_ids, strict=True), first
            )
        ]
        self.log.subjects.append(assignments)
        rows = copies(rows_to_table(SMALL_IDENTITY, [row_of(1, stub_request(0))]), size, ids)
        writer, fragments = self._bank.fragment_writer(), []
        for start in range(0, size, FILE_EDITS):
            fragments += writer.write_table(rows.slice(start, FILE_EDITS))
        self._bank.commit(fragments, epoch=self._epoch)

    def pass_windows(self, count: int) -> None:
        """New edits, as in a job."""
        for _ in range(count // WINDOW_EDITS):
            self.window(self.log_requests(WINDOW_EDITS, INTAKE_ITEMS), BATCH_SIZE)
            self.count_files()
            self._compaction.after_window()
            self.count_files()

    def measured(self, count: int) -> dict[str, float]:
        """The costs of each of so many edits."""
        with patch.object(DiskBackend, "get", self.counted(DiskBackend.get)):
            self.reads()
            self.pass_windows(WARM_EDITS)
            self.read_indices()
            _, first_bytes = self.reads()
            self.count_files()
            self.written.clear()
            before = self.versions()
            self.pass_windows(count)
            reads, read_bytes = self.reads()
        costs = {
            "objects_written": self.written["objects"] / count,
            "bytes_written": self.written["bytes"] / count,
            "versions": (self.versions() - before) / count,
            "reads": reads / count,
            "bytes_read": read_bytes / count,
            "held_bytes": float(self.held_bytes()),
            "first_read_bytes": float(first_bytes),
        }
        index_objects, index_bytes = self.index_costs()
        costs["objects_written"] += index_objects
        costs["bytes_written"] += index_bytes
        costs["bytes_read"] += 2 * index_bytes
        return {**costs, "first_index_bytes": index_bytes}

    def read_indices(self) -> None:
        """Read all pages, as a process does that has been running long."""
        for table in (self._bank._table, self.log.table, self.log.subjects._table):
            dataset = table.latest()
            for index in dataset.describe_indices():
                dataset.prewarm_index(index.name)

    def index_costs(self) -> tuple[float, float]:
        """Objects and bytes of indices that are written per edit, over a doubling."""
        every = WINDOW_EDITS * POLICY.every_windows
        count = max(min(len(self.log), CYCLE) // every, 1) * every
        self.count_files()
        self.written.clear()
        for _ in range(count // every):
            self._fill_some(every)
            self._compaction.run()
            self.count_files()
        return self.written["index_objects"] / count, self.written["index_bytes"] / count

    def held_bytes(self) -> int:
        """Memory of Python that a log keeps which has logged one more window."""
        tracemalloc.start()
        log = RequestLog(self._store)
        first = len(log)
        for number in range(first, first + WINDOW_EDITS):
            log.append([stub_request(number)], source="last")
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return used


def hashes(name: str, first: int, size: int) -> list[str]:
    return [hashlib.sha256(f"{name} {n}".encode()).hexdigest() for n in range(first, first + size)]


def copies(template: pa.Table, size: int, columns: dict[str, pa.Array]) -> pa.Table:
    """A row many times, with some columns replaced."""
    rows = template.take(pa.array([0] * size))
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), values)
    return rows.combine_chunks()


def costs_at(num_edits: int, options: argparse.Namespace) -> dict[str, float]:
    merged = patch.object(upkeep, "LOG_FRAGMENT_BYTES", POLICY.fragment_bytes)
    with merged, tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        scene.fill(num_edits)
        return scene.measured(options.measured)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--measured", type=int, default=4_000, metavar="EDITS")
    options = parser.parse_args()
    costs = {size: costs_at(size, options) for size in options.sizes}
    first, *_, last = costs.values()
    ratios = {name: last[name] / first[name] for name in first if not name.startswith("first")}
    result = {
        "machine": machine(),
        "measured_edits": options.measured,
        "per_edit": {str(size): found for size, found in costs.items()},
        "last_against_first": ratios,
        "limit": LIMIT,
        "above_limit": [name for name, ratio in ratios.items() if ratio > LIMIT],
    }
    publish(result, options.output)


if __name__ == "__main__":
    main()
