#!/usr/bin/env python
"""What an edit costs the driver of the editing job, against a driver that relays everything.

    python -m tests.benchmarks.driver_load                            a minute on two cores
    python -m tests.benchmarks.driver_load --output tests/benchmarks/driver_load.json

Real pools, log, fragments and commits; only the models are stubs, which make experts of the small
backbone's shape (rank 8, hidden size 576, features 4 x 256) from images of 30 KB. The relaying
driver reads requests, sends them, takes experts back and sends them on, as this job once did. Both
drivers take turns, so that they meet the same machine.

CPU seconds are those of the driver's process (all its threads) while edits pass; commits are timed
apart: the relaying driver committed files as they were written, now an actor makes one of those of
a window. Compaction, which is the same for both, is not counted. Bytes are the pickled sizes of
what a call takes and gives, references as they are. `two_actors` has stubs that wait 50 ms an edit,
as a GPU would compute.
"""

import argparse
import hashlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray import cloudpickle

from infra.bank import fragments as fragments_module
from infra.bank.compaction import Compaction
from infra.bank.expert_bank import ExpertBank
from infra.bank.policy import GrowthPolicy
from infra.requests.request_log import RequestLog
from infra.requests.request_reader import RequestReader
from infra.storage.object_store import ObjectStore
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.features import EditQuestion
from liveedit_core.schema import EditRequest
from pipelines.job.ray_session import open_session
from pipelines.job.sections import RaySection
from pipelines.job.start_workers import embedding_pool, start_subjects
from tests.benchmarks.bank_growth import CONFIG
from tests.benchmarks.frame import machine, parser_of, publish
from tests.random_states import random_expert
from tests.small_rows import identity_of
from tests.unit.tiny_inputs import HashEmbedder
from workers.actor_pool import WorkerPool, actor_options
from workers.expert_embedding_worker import ExpertEmbeddingActor
from workers.generator_worker import read_batch
from workers.messages import (
    AskedEdit,
    GeneratedBatch,
    GeneratedExpert,
    GeneratorFacts,
    NumberedRequest,
    WrittenBatch,
)
from workers.subject_assigner import SubjectAssigner

BATCH_SIZE = 8
IMAGE_BYTES = 30_000
IDENTITY = identity_of(
    CONFIG,
    backbone_digest="stub",
    generator_digest="stub",
    embedding_model=HashEmbedder.name,
    embedding_size=HashEmbedder.size,
)
FACTS = GeneratorFacts(backbone_digest="stub", generator_digest="stub", config=CONFIG)


class StubGenerator:
    """Makes experts of random numbers, after a pause for each."""

    def __init__(self, config: GeneratorConfig, pause_s: float) -> None:
        self._config = config
        self._pause_s = pause_s

    def generate(self, batch: Sequence[NumberedRequest]) -> GeneratedBatch:
        experts = []
        for item in batch:
            time.sleep(self._pause_s)
            expert = random_expert(item.sequence, self._config)
            question = EditQuestion(
                visual_QM=expert.visual_feature_QM,
                prompt_QM=expert.prompt_feature_QM,
                threshold=0.0,
                own_margin=float("inf"),
            )
            expert = replace(expert, edit_id=item.request.edit_id, question=question)
            experts.append(
                GeneratedExpert(sequence=item.sequence, request=item.request, expert=expert)
            )
        last = max(item.sequence for item in batch)
        return GeneratedBatch(
            experts=tuple(experts), rejected=(), last_sequence=last, duration_s=0.0
        )

    def generate_logged(
        self, sequences: Sequence[int], requests: RequestReader
    ) -> tuple[int, GeneratedBatch]:
        batch = self.generate(read_batch(requests, sequences))
        return batch.num_bytes, batch


def requests_of(start: int, count: int) -> Iterator[EditRequest]:
    """Requests whose images nobody decodes."""
    for number in range(start, start + count):
        data = np.random.default_rng(number).bytes(IMAGE_BYTES)
        yield EditRequest(
            image_bytes=data,
            prompt="What is shown here?",
            target=f"entity {number}",
            pixel_digest=hashlib.sha256(data).hexdigest(),
        )


class Bench:
    """Actors, and two drivers for them."""

    def __init__(self, folder: Path) -> None:
        self._store = ObjectStore(folder)
        self._log = RequestLog(self._store)
        self._bank = ExpertBank.open_or_create(self._store, "main", IDENTITY)
        self._epoch = self._bank.acquire_writer()
        self._compaction = Compaction(self._store, "main", GrowthPolicy())
        self._subjects = start_subjects(self._store, "main", FACTS)
        self._own_subjects = SubjectAssigner(self._store, "main", FACTS)
        embedder = ExpertEmbeddingActor.options(**actor_options(num_cpus=0.1))
        self._embedders = [embedder.remote(HashEmbedder)]
        self._num_bytes = 0

    def generators(self, count: int, pause_s: float) -> list[Any]:
        actor = ray.remote(StubGenerator).options(**actor_options(num_cpus=0.1))
        return [actor.remote(CONFIG, pause_s) for _ in range(count)]

    def logged(self, count: int) -> list[list[int]]:
        """Micro-batches of new requests, for a bank in order."""
        self._compaction.run()
        numbers: list[int] = []
        for start in range(0, count, 128):
            new = list(requests_of(len(self._log), min(128, count - start)))
            numbers += [item.sequence for item in self._log.append(new)]
        return [numbers[start : start + BATCH_SIZE] for start in range(0, count, BATCH_SIZE)]

    def _passes(self, *values: Any) -> None:
        self._num_bytes += sum(len(cloudpickle.dumps(value)) for value in values)

    def relayed(
        self, generators: list[Any], batches: Iterable[Sequence[int]], *, is_counted: bool = False
    ) -> list[WrittenBatch]:
        """All passes through this process."""
        writer = self._bank.fragment_writer()

        def generate(actor: Any, batch: Sequence[NumberedRequest]) -> Any:
            return actor.generate.remote(batch)

        def write(actor: Any, batch: GeneratedBatch) -> Any:
            if is_counted:
                self._passes(batch, batch)  # in and out
            return actor.write.remote(batch, writer)

        first = WorkerPool[Any, Any, None]("relayed", generators, generate, max_in_flight=4)
        second = WorkerPool[Any, Any, None]("relayed", self._embedders, write, max_in_flight=4)
        items: Iterable[list[NumberedRequest]]
        items = (read_batch(self._log.reader(), batch) for batch in batches)
        if is_counted:
            items = map(self._seen, items)
        answers: list[tuple[WrittenBatch, tuple[AskedEdit, ...]]] = list(
            second.stream(first.stream(items))
        )
        if is_counted:
            self._passes(*answers)
        self._assign([asked for _, asked in answers], self._own_subjects)
        return [written for written, _ in answers]

    def _seen(self, items: list[NumberedRequest]) -> list[NumberedRequest]:
        self._passes(items)
        return items

    def by_reference(
        self, generators: list[Any], batches: list[list[int]], *, is_counted: bool = False
    ) -> list[WrittenBatch]:
        """As the editing job does it."""
        pool = WorkerPool[Any, Any, None](
            "stub generators",
            generators,
            lambda actor, *batch: actor.generate_logged.options(num_returns=2).remote(*batch),
            max_in_flight=4,
        )
        embedder = embedding_pool(self._embedders, max_in_flight=4)
        generated = pool.stream(batches, self._log.reader())
        answers = list(embedder.stream(generated, self._bank.fragment_writer()))
        asked = [reference for _, reference in answers]
        (subjects,) = self._subjects.stream([asked])
        if is_counted:
            self._passes(*batches, *[written for written, _ in answers], subjects)
            self._passes(*[(len(batch), str(asked[0])) for batch in batches], *map(str, asked))
        return [written for written, _ in answers]

    def _assign(self, asked: Sequence[Any], assigner: SubjectAssigner) -> None:
        assigner.assign(*asked)

    def commit(self, batches: Sequence[WrittenBatch], *, is_relayed: bool = False) -> float:
        """CPU seconds of the driver; the relaying one committed files as they were written."""
        run = (lambda action: action()) if is_relayed else self._subjects.run
        fragments = [fragment for batch in batches for fragment in batch.fragments]
        with pytest.MonkeyPatch.context() as patch:
            if is_relayed:
                patch.setattr(fragments_module, "LARGE_FILE_BYTES", 0)
            start_s = time.process_time()
            self._bank.commit(fragments, epoch=self._epoch, run=run)
            return time.process_time() - start_s

    def bytes_of(self, drive: Any, generators: list[Any], count: int) -> float:
        """Bytes through the driver per edit."""
        self._num_bytes = 0
        written = drive(generators, self.logged(count), is_counted=True)

        def counted(action: Any) -> Any:
            done = self._subjects.run(action)
            self._passes(action, done)
            return done

        self._bank.commit(
            [fragment for batch in written for fragment in batch.fragments],
            epoch=self._epoch,
            run=counted,
        )
        return self._num_bytes / count

    def cpu_of(self, drive: Any, generators: list[Any], count: int) -> tuple[float, float]:
        """CPU seconds of the driver per edit, without and of commits."""
        batches = self.logged(count)
        start_s = time.process_time()
        written = drive(generators, batches)
        used_s = time.process_time() - start_s
        commit_s = self.commit(written, is_relayed=drive == self.relayed)
        return used_s / count, commit_s / count

    def seconds_of(self, generators: list[Any], count: int) -> float:
        batches = self.logged(count)
        self.by_reference(generators, batches[:4])
        start_s = time.perf_counter()
        self.by_reference(generators, batches[4:])
        return time.perf_counter() - start_s


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    bench = Bench(folder)
    generators = bench.generators(2, 0.0)
    drivers = {"relayed": bench.relayed, "by_reference": bench.by_reference}
    for drive in drivers.values():
        bench.commit(drive(generators, bench.logged(16)))
    cpu: dict[str, list[tuple[float, float]]] = {name: [] for name in drivers}
    for name in itertools.chain(*[drivers] * options.turns):
        cpu[name].append(bench.cpu_of(drivers[name], generators, options.edits))
    medians = {
        name: [statistics.median(part) for part in zip(*values, strict=True)]
        for name, values in cpu.items()
    }
    whole = {name: sum(parts) for name, parts in medians.items()}
    passed = {name: bench.bytes_of(drive, generators, 64) for name, drive in drivers.items()}
    for actor in generators:
        ray.kill(actor)
    slow = bench.generators(2, 0.05)
    wall: dict[int, list[float]] = {1: [], 2: []}
    for count in (1, 2) * options.turns:
        wall[count].append(bench.seconds_of(slow[:count], 96 + 4 * BATCH_SIZE))
    one_s, two_s = (statistics.median(values) for values in wall.values())
    return {
        "machine": machine(),
        "edits_a_turn": options.edits,
        "turns": options.turns,
        "cpu_ms_per_edit": {name: 1000 * parts[0] for name, parts in medians.items()},
        "commit_cpu_ms_per_edit": {name: 1000 * parts[1] for name, parts in medians.items()},
        "cpu_ratio": medians["relayed"][0] / medians["by_reference"][0],
        "cpu_ratio_with_commits": whole["relayed"] / whole["by_reference"],
        "bytes_per_edit": passed,
        "two_actors": {"one_s": one_s, "two_s": two_s, "ratio": one_s / two_s},
    }


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--edits", type=int, default=256, help="of one turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--at-least", type=float, default=0.0, help="fail below this CPU ratio")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        session = RaySection(object_store_memory_bytes=500 * 1024 * 1024)
        with open_session(session, needed_cpus=2):
            result = measure(options, Path(folder))
    publish(result, options.output)
    return int(result["cpu_ratio_with_commits"] < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
