#!/usr/bin/env python
"""A bank that grows: what an append, opening it, and a look at its log cost at its full size.

    python -m tests.benchmarks.bank_growth                                    2 000 edits, seconds
    python -m tests.benchmarks.bank_growth --edits 100000 --append 1000       minutes, 10 GB of disk

Synthetic experts of the small backbone's shape (rank 8, hidden size 576, routing features 4 x 256,
of which prompts fill 130), written and committed as the editing job does, compacted every
`growth.every_windows` windows. An append is the time of writing and committing one window. Windows
for the full bank and first windows of new, empty banks take turns, so that both meet the same
machine; medians are compared. The same is done in a new process, which has read nothing before.
Compaction is timed separately.

Reader and log are measured in processes of their own; what a process needs before it opens the bank
(libraries, an empty bank) does not count as the reader's memory.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.policy import GrowthPolicy
from infra.bank.schema import ExpertRow
from infra.storage.object_store import ObjectStore
from infra.storage.tables import select_in
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.expert import Expert
from liveedit_core.method.growing import SegmentedRows
from liveedit_core.method.repository import segments_of
from tests.benchmarks.frame import machine, parser_of, publish
from tests.random_states import random_expert
from tests.small_rows import identity_of

BANK = "main"
WRITTEN_AT_ONCE = 100
"""Rows of a fragment, as an embedding worker hands them over."""
NUM_TURNS = 5
"""Appends to the full bank, and to empty ones."""
LARGE = 20_000
"""Below so many edits buffers of fixed size are most of a reader's memory."""
LIMITS = {
    "append_ratio": 1.5,
    "open_s": 1.0,
    "memory_ratio": 1.3,
    "log_s": 1.0,
    "bytes_per_edit": 60_000,
}
CONFIG = GeneratorConfig(
    hidden_size=576,
    num_image_tokens=16,
    edit_layer=19,
    module_dim=256,
    num_queries=4,
    num_attention_heads=8,
    rank=8,
    prompt_source="sentences",
    prompt_size=896,
    prompt_rank=128,
)
IDENTITY = identity_of(
    CONFIG,
    backbone_digest="synthetic",
    generator_digest="synthetic",
    embedding_model="synthetic",
    embedding_size=512,
)


def edit_id(number: int) -> str:
    return hashlib.sha256(f"edit {number}".encode()).hexdigest()


def synthetic_expert(number: int) -> Expert:
    """Random numbers, in as much of the features as the small backbone's generator fills."""
    expert = random_expert(number, CONFIG)
    expert.prompt_feature_QM.view(-1)[CONFIG.prompt_rank + 2 :] = 0.0
    return replace(expert, edit_id=edit_id(number))


def synthetic_rows(start: int, count: int) -> Iterator[list[ExpertRow]]:
    """Rows `start`, `start` + 1, ... in the pieces in which workers write them."""
    rng = np.random.default_rng(start)
    for first in range(start, start + count, WRITTEN_AT_ONCE):
        yield [
            ExpertRow(
                expert=synthetic_expert(number),
                sequence=number,
                subject_id=hashlib.sha256(f"subject {number}".encode()).hexdigest(),
                clip_embedding=rng.standard_normal(512, dtype=np.float32),
                provenance={"benchmark": "bank_growth"},
            )
            for number in range(first, min(first + WRITTEN_AT_ONCE, start + count))
        ]


def timed_append(bank: ExpertBank, epoch: int, start: int, count: int) -> float:
    """Seconds to write and commit one window; making the numbers is not counted."""
    pieces = list(synthetic_rows(start, count))
    start_s = time.perf_counter()
    writer = bank.fragment_writer()
    fragments = [text for rows in pieces for text in writer.write(rows)]
    bank.commit(fragments, epoch=epoch, message=f"requests up to {start + count - 1}")
    return time.perf_counter() - start_s


def grow(folder: Path, num_edits: int, window: int) -> dict[str, Any]:
    """Fill a bank, then append to it and to empty ones; seconds of each part."""
    store = ObjectStore(folder)
    bank = ExpertBank.open_or_create(store, BANK, IDENTITY)
    epoch = bank.acquire_writer()
    growth = Compaction(store, BANK, GrowthPolicy())
    compactions_s = []
    for start in range(1, num_edits, window):
        timed_append(bank, epoch, start, window)
        start_s = time.perf_counter()
        if growth.after_window() is not None:
            compactions_s.append(time.perf_counter() - start_s)
    return {
        "bytes_per_edit": stored_bytes(folder) // num_edits,
        "append": appends_in_turns(store, bank, epoch, window),
        "slowest_compaction_s": max(compactions_s, default=0.0),
        "compaction_s_per_edit": sum(compactions_s) / num_edits,
    }


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def appends_in_turns(
    store: ObjectStore, bank: ExpertBank, epoch: int, window: int
) -> dict[str, Any]:
    """Seconds of a window into the full bank, and of the first one into an empty bank."""
    full, empty = [], []
    for turn in range(NUM_TURNS):
        name = f"empty-{os.getpid()}-{turn}"
        other = ExpertBank.open_or_create(store, name, IDENTITY)
        empty.append(timed_append(other, other.acquire_writer(), 1, window))
        full.append(timed_append(bank, epoch, bank.num_edits() + 1, window))
    full_s, empty_s = statistics.median(full), statistics.median(empty)
    return {"full_s": full_s, "empty_s": empty_s, "ratio": full_s / empty_s}


def memory_bytes() -> int:
    """Most memory that this process ever had; `ru_maxrss` would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    (peak,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(peak) * 1024


def measure_reader(store: ObjectStore) -> dict[str, Any]:
    """Open the newest version for routing, and read the experts of one input."""
    warm_up = store.root_uri.removeprefix("file://") + "-empty"
    empty = ExpertBank.open_or_create(ObjectStore(warm_up), BANK, IDENTITY)
    empty.load_repository(CONFIG, matrices="on_demand")  # libraries load what they need
    before = memory_bytes()
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    bank = ExpertBank.open(store, BANK)
    repository = bank.load_repository(CONFIG, matrices="on_demand")
    open_s, open_cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    start_s = time.perf_counter()
    index = torch.linspace(0, len(repository) - 1, 8).long()
    repository.matrices(index)
    first_read_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    repository.matrices(index.flip(0) // 2)
    prompt = repository.prompt
    prompts = prompt.stored_segments() if isinstance(prompt, SegmentedRows) else [prompt]
    feature_bytes = sum(part.nbytes for part in (*segments_of(repository.visual), *prompts))
    return {
        "open_s": open_s,
        "open_cpu_s": open_cpu_s,
        "first_8_experts_s": first_read_s,
        "next_8_experts_s": time.perf_counter() - start_s,
        "feature_bytes": feature_bytes,
        "reader_bytes": memory_bytes() - before,
    }


def measure_log(store: ObjectStore) -> dict[str, Any]:
    """The log, one edit's row and its history, each on a bank that was just opened."""

    def log() -> int:
        return len(ExpertBank.open(store, BANK).history())

    def show() -> int:
        bank = ExpertBank.open(store, BANK)
        newest = bank.dataset(bank.version)
        return len(select_in(newest, ["sequence", "provenance"], "edit_id", [edit_id(17)]))

    def history() -> int:
        bank = ExpertBank.open(store, BANK)
        return len(bank.versions.events(edit_id(17), bank.version))

    found: dict[str, Any] = {}
    jobs: tuple[Callable[[], int], ...] = (log, show, history)
    for job in jobs:
        start_s = time.perf_counter()
        count = job()
        found[f"{job.__name__}_s"] = time.perf_counter() - start_s
        found[f"{job.__name__}_count"] = count
    return found


def measure_restart(store: ObjectStore, window: int) -> dict[str, Any]:
    """Appends by a process that has just begun."""
    bank = ExpertBank.open(store, BANK)
    return {"restarted_append": appends_in_turns(store, bank, bank.acquire_writer(), window)}


def in_new_process(part: str, folder: Path, window: int) -> dict[str, Any]:
    """Run one of the parts above by itself."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.bank_growth",
        "--part",
        part,
        "--folder",
        str(folder),
    ]
    done = subprocess.run(
        [*command, "--append", str(window)], stdout=subprocess.PIPE, text=True, check=True
    )
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def measure(num_edits: int, window: int, folder: Path) -> dict[str, Any]:
    """All parts; ratios and whether they keep within the limits."""
    result = grow(folder, num_edits, window)
    for part in ("reader", "log", "restart"):
        result |= in_new_process(part, folder, window)
    result["append_ratio"] = max(result["append"]["ratio"], result["restarted_append"]["ratio"])
    result["memory_ratio"] = result["reader_bytes"] / result["feature_bytes"]
    slowest_look = max(result["log_s"], result["show_s"], result["history_s"])
    found = {**result, "log_s": slowest_look}
    result["is_within"] = {
        name: found[name] <= limit
        for name, limit in LIMITS.items()
        if name != "memory_ratio" or num_edits >= LARGE
    }
    return result | {
        "num_edits": num_edits,
        "window_edits": window,
        **machine(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; exit code 1 when one is beyond its limit."""
    parser = parser_of(__doc__)
    parser.add_argument("--edits", type=int, default=2000)
    parser.add_argument("--append", type=int, default=100, metavar="EDITS", help="of a window")
    parser.add_argument("--folder", type=Path, help="for the store; removed at the end")
    parser.add_argument("--part", choices=("reader", "log", "restart"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        store = ObjectStore(options.folder)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "reader": lambda: measure_reader(store),
            "log": lambda: measure_log(store),
            "restart": lambda: measure_restart(store, options.append),
        }
        print(json.dumps(parts[options.part]()))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        result = measure(options.edits, options.append, Path(scratch) / "store")
    publish(_rounded(result), options.output)
    return 0 if all(result["is_within"].values()) else 1


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return value


if __name__ == "__main__":
    sys.exit(main())
