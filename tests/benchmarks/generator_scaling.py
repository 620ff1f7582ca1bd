#!/usr/bin/env python
"""Throughput of two generator actors against one, each with as many cores.

    python -m tests.benchmarks.generator_scaling --at-least 1.8         some minutes on two cores

The stages of the editing job in a real Ray session: its recipe, the built-in models, requests that
actors read from the log in micro-batches, encoded, taught, verified and refined, embedded and
written as fragments; nothing is cached. Both pools take turns on the same new requests, so that
they do equal work on the same machine; each has taken a few before. Each actor is held to cores of
its own, as many as it has threads, as a container's limit does: an actor embeds in a thread beside
the one that generates, and would else take a part of a core that is idle. With `--free` it may, as
in the quickstart; one actor then has more than one core.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.builtin.benchmark import load_builtin_cases
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.writers import model_names, start_writers
from pipelines.job.ray_session import open_session
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.stages import ExpertWriters
from tests.benchmarks.frame import machine, parser_of, publish
from workers.actor_pool import ActorPool

NUM_ACTORS = (1, 2)
_SETTINGS = ("generator.num_cpus=0.1", "states.is_cached=false")
"""Three actors stay up; CPUs are reserved for none, as one pool works at a time."""


def config_of(num_actors: int, settings: Sequence[str]) -> LifelongEditRecipe:
    return load_recipe(
        LifelongEditRecipe, None, [*_SETTINGS, *settings, f"generator.gangs={num_actors}"]
    )


def logged(log: RequestLog, count: int, batch_size: int) -> list[list[int]]:
    """Micro-batches of so many requests of the built-in training split, new to the log."""
    edits = {case.edit.edit_id: case.edit for case in load_builtin_cases("train")}
    if count > len(edits):
        raise SystemExit(f"the built-in training split has {len(edits)} edits, not {count}")
    chosen = list(edits.values())[:count]
    numbers = [item.sequence for item in log.append(chosen, source="built-in")]
    return [numbers[start : start + batch_size] for start in range(0, count, batch_size)]


def seconds_of(
    writers: ExpertWriters, bank: ExpertBank, log: RequestLog, batches: Sequence[Sequence[int]]
) -> float:
    """Until the last of these batches is in the store, as the windows of a job take them."""
    start_s = time.perf_counter()
    generated = writers.generator.stream(batches, log.reader())
    written = [batch for batch, _ in writers.embedder.stream(generated, bank.fragment_writer())]
    seconds = time.perf_counter() - start_s
    num_edits = sum(batch.num_experts + len(batch.rejected) for batch in written)
    assert num_edits == sum(map(len, batches))
    return seconds


def hold_to(actor: Any, cores: Sequence[int]) -> None:
    """Let all threads of an actor, and those that they start, run on these cores alone."""

    def hold(_: Any) -> None:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), cores)

    ray.get(actor.__ray_call__.remote(hold))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    configs = {count: config_of(count, options.settings) for count in NUM_ACTORS}
    config = configs[1]
    pools = {count: start_writers(each, model_names(each)) for count, each in configs.items()}
    threads = config.generator.num_threads
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < max(NUM_ACTORS) * threads:
        raise SystemExit(f"{max(NUM_ACTORS)} actors need {max(NUM_ACTORS) * threads} cores")
    for pool in pools.values() if not options.free else ():
        assert isinstance(pool.generator, ActorPool)
        for index, actor in enumerate(pool.generator.actors):
            hold_to(actor, cores[index * threads : (index + 1) * threads])
    store = ObjectStore(folder)
    bank = ExpertBank.open_or_create(store, "main", pools[1].bank_identity())
    log = RequestLog(store)
    size = config.generator.batch_size
    a_turn = -(-options.edits // size)
    batches = logged(log, (options.turns + 1) * a_turn * size, size)
    seconds: dict[int, list[float]] = {count: [] for count in NUM_ACTORS}
    for turn in range(options.turns + 1):
        for count in NUM_ACTORS if turn % 2 else NUM_ACTORS[::-1]:
            chosen = batches[turn * a_turn : (turn + 1) * a_turn]
            took_s = seconds_of(pools[count], bank, log, chosen)
            if turn:  # in the first, models are loaded
                seconds[count].append(took_s)
    one_s, two_s = (statistics.median(seconds[count]) for count in NUM_ACTORS)
    num_edits = a_turn * size
    return {
        "machine": machine(),
        "settings": list(options.settings),
        "threads_per_actor": threads,
        "cores_per_actor": "any" if options.free else threads,
        "micro_batch": size,
        "edits_a_turn": num_edits,
        "turns": options.turns,
        "edits_per_s": {"one_actor": num_edits / one_s, "two_actors": num_edits / two_s},
        "ratio": one_s / two_s,
        "ratio_of_turns": [one / two for one, two in zip(*seconds.values(), strict=True)],
    }


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--edits", type=int, default=64, help="of one turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--free", action="store_true", help="let the actors share all cores")
    parser.add_argument("--at-least", type=float, default=0.0, help="fail below this ratio")
    parser.add_argument("settings", nargs="*", help="of the recipe, such as refine.mode=off")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(1, options.settings)
        with open_session(config.ray, needed_cpus=1):
            result = measure(options, Path(folder))
    publish(result, options.output)
    return int(result["ratio"] < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
