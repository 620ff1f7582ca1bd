#!/usr/bin/env python
"""The two stages of the editing job on Ray Data, against our pools, in turns within one process.

    python -m tests.benchmarks.ray_data --output tests/benchmarks/ray_data.json      some minutes

The stubs are those of `driver_load`: generators that wait 50 ms an edit, an embedder that hashes.
Pools keep their actors; a Ray Data execution starts its own, as it must. CPU seconds are those of
the driver's process.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ray import cloudpickle

from infra.bank.fragments import FragmentWriter
from infra.requests.request_reader import RequestReader
from pipelines.job.ray_session import open_session
from pipelines.job.sections import RaySection
from pipelines.job.start_workers import embedding_pool
from tests.benchmarks.bank_growth import CONFIG
from tests.benchmarks.driver_load import Bench, StubGenerator
from tests.benchmarks.frame import machine, parser_of, publish
from tests.unit.tiny_inputs import HashEmbedder
from workers.actor_pool import WorkerPool
from workers.expert_embedding_worker import ExpertEmbeddingWorker

PAUSE_S = 0.05
GENERATORS = 2


class Generate:
    """First stage: a row of numbers to a pickled batch of experts."""

    def __init__(self, reader: RequestReader) -> None:
        self._generator = StubGenerator(CONFIG, PAUSE_S)
        self._reader = reader

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        numbers = [list(map(int, row)) for row in rows["numbers"]]
        batches = [self._generator.generate_logged(row, self._reader)[1] for row in numbers]
        return {"batch": np.array([cloudpickle.dumps(batch) for batch in batches], object)}


class Embed:
    """Second stage: to what the driver commits."""

    def __init__(self, writer: FragmentWriter) -> None:
        self._worker = ExpertEmbeddingWorker(HashEmbedder)
        self._writer = writer

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        written = [
            self._worker.write(cloudpickle.loads(row), self._writer) for row in rows["batch"]
        ]
        return {"written": np.array([cloudpickle.dumps(one) for one in written], object)}


def on_data(bench: Bench, batches: Sequence[Sequence[int]]) -> Iterable[Any]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    retried: dict[str, Any] = {
        "num_cpus": 0.1,
        "max_restarts": -1,
        "max_task_retries": 3,
        "batch_size": 1,
    }
    items = [{"numbers": list(batch)} for batch in batches]
    source = ray.data.from_items(items, override_num_blocks=len(items))
    reader, writer = bench._log.reader(), bench._bank.fragment_writer()
    experts = source.map_batches(
        Generate, fn_constructor_args=(reader,), concurrency=GENERATORS, **retried
    )
    rows = experts.map_batches(Embed, fn_constructor_args=(writer,), concurrency=1, **retried)
    return rows.iter_rows()


def on_pools(bench: Bench, generators: list[Any], batches: list[list[int]]) -> Iterable[Any]:
    pool = WorkerPool[Any, Any, None](
        "stub generators",
        generators,
        lambda actor, *batch: actor.generate_logged.options(num_returns=2).remote(*batch),
        max_in_flight=4,
    )
    embedder = embedding_pool(bench._embedders, max_in_flight=4)
    return embedder.stream(pool.stream(batches, bench._log.reader()), bench._bank.fragment_writer())


def timed(rows: Iterable[Any]) -> dict[str, float]:
    start_s, used_s = time.perf_counter(), time.process_time()
    arrived = [time.perf_counter() - start_s for _ in rows]
    return {
        "seconds": time.perf_counter() - start_s,
        "first_row_s": arrived[0],
        "driver_cpu_s": time.process_time() - used_s,
        "rows": len(arrived),
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    bench = Bench(folder)
    generators = bench.generators(GENERATORS, PAUSE_S)
    found: dict[str, list[dict[str, float]]] = {"pools": [], "ray_data": []}
    start = timed(on_pools(bench, generators, bench.logged(16)))
    for _ in range(options.turns):
        found["pools"].append(timed(on_pools(bench, generators, bench.logged(options.edits))))
        found["ray_data"].append(timed(on_data(bench, bench.logged(options.edits))))
    settings = {"machine": machine(), "edits_a_turn": options.edits}
    return {**settings, "start_of_the_pools": start, **found}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--edits", type=int, default=128, help="of one turn")
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        session = RaySection(object_store_memory_bytes=500 * 1024 * 1024)
        with open_session(session, needed_cpus=4):
            result = measure(options, Path(folder))
    publish(result, options.output)


if __name__ == "__main__":
    main()
