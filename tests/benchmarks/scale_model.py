#!/usr/bin/env python
"""What one more edit costs a store of 1 000, 100 000 or a million edits, in counts instead of time.

    python -m tests.benchmarks.scale_model                                 1 000 and 10 000 edits
    python -m tests.benchmarks.scale_model --sizes 1000 100000 1000000     much longer

The code of the job (request log, rejects, subjects, fragments, commits, compaction) runs on stub
tensors in a store on disk. A store is filled in large windows; then `--measured` more edits pass in
windows of 100, with a compaction every 20 windows, and what they cost is counted: objects and bytes
written (also of files that a compaction deleted again), versions of tables, requests and bytes read
through the handles of bank and log, and memory of the driver's index of requests. `fragment_bytes`
is scaled with the rows: as many rows to a merged file as with experts of the small backbone.
"""

import argparse
import hashlib
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.policy import GrowthPolicy
from infra.requests.request_log import RequestLog
from infra.requests.subject_log import SubjectAssignment
from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table
from liveedit_core.schema import EditRequest
from tests.benchmarks.frame import machine, parser_of, publish
from tests.small_rows import SMALL_IDENTITY, refusal, row_of

WINDOW_EDITS = 100
BATCH_SIZE = 8
"""Edits of one fragment, as an embedding worker writes them."""
INTAKE_ITEMS = 128
FILL_EDITS = 5000
REAL_ROW_BYTES = 84_000
STUB_ROW_BYTES = 1_000
POLICY = GrowthPolicy(
    fragment_bytes=GrowthPolicy().fragment_bytes * STUB_ROW_BYTES // REAL_ROW_BYTES,
    keep_versions=20,
    keep_days=0.0,
)
TABLES = ("banks/main", "requests", "rejects", "subjects")
LIMIT = 1.3


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

    def _files(self) -> dict[str, int]:
        files = (path for path in self._folder.rglob("*") if path.is_file())
        return {str(path): path.stat().st_size for path in files}

    def count_files(self) -> None:
        """Add the files that are new since the last call."""
        files = self._files()
        new = files.keys() - self._seen.keys()
        self.written["objects"] += len(new)
        self.written["bytes"] += sum(files[name] for name in new)
        self._seen = files

    def versions(self) -> int:
        return sum(int(Table(self._store, name).latest().version) for name in TABLES)

    def reads(self) -> tuple[int, int]:
        """Requests and bytes since the last call."""
        found = [
            table._dataset.io_stats_incremental() for table in (self._bank._table, self.log._table)
        ]
        return sum(item.read_iops for item in found), sum(item.read_bytes for item in found)

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
            size = min(FILL_EDITS, count - len(self.log))
            self.window(self.log_requests(size, size), size)
            self._compaction.run()

    def measured(self, count: int) -> dict[str, float]:
        """The costs of each of so many edits."""
        self.count_files()
        self.written.clear()
        self.reads()
        before = self.versions()
        for _ in range(count // WINDOW_EDITS):
            self.window(self.log_requests(WINDOW_EDITS, INTAKE_ITEMS), BATCH_SIZE)
            self.count_files()
            self._compaction.after_window()
            self.count_files()
        reads, read_bytes = self.reads()
        return {
            "objects_written": self.written["objects"] / count,
            "bytes_written": self.written["bytes"] / count,
            "versions": (self.versions() - before) / count,
            "reads": reads / count,
            "bytes_read": read_bytes / count,
        }

    def index_bytes(self) -> float:
        """Memory of the driver per request of the log."""
        log = RequestLog(self._store)
        tracemalloc.start()
        size = len(log.index().keys)
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return used / size


def costs_at(num_edits: int, options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        scene.fill(num_edits)
        return {**scene.measured(options.measured), "index_bytes": scene.index_bytes()}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--measured", type=int, default=4_000, metavar="EDITS")
    options = parser.parse_args()
    costs = {size: costs_at(size, options) for size in options.sizes}
    first, *_, last = costs.values()
    ratios = {name: last[name] / first[name] for name in first}
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
