#!/usr/bin/env python
"""A new bank version examined on cases that were examined before, three ways, in one run.

    item by item    one probe after another, nothing remembered: image tower, all layers, the
                    unedited backbone asked again; how the authors' code evaluates
    one actor       suffix only, in batches, from cached states and remembered unedited answers
    two actors      the same work by two

    python -m tests.benchmarks.replay [--edits 1000] [--at-least 8] [--two-at-least 1.6]

Built-in backbone and generator, all probes, teacher-forced, against a bank of so many edits. The
first half of the edits is a version of its own, whose evaluation fills the cache and is not
counted: it happened when that version was new. An actor has one thread of torch. Item by item has
as many threads as there are cores, asks a random subset of the cases (`--sample`), and its time is
scaled to all of them by the number of probes. Scores of the subset must be equal; results of one
and of two actors must be equal in every field.
"""

import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infra.bank.expert_bank import ExpertBank
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.image_tower import ImageFeatureCache
from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.builtin.backbone import BUILTIN, load_named_backbone
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.evaluation.probes import TEACHER_FORCED, ProbeResult
from liveedit_core.evaluation.scoring import CaseProbe, CaseScorer
from liveedit_core.method.config import StateDtype
from liveedit_core.method.editor import Editor
from liveedit_core.schema import Case
from pipelines.evaluation.bank_evaluation import (
    BankEvaluation,
    EvaluationSettings,
    evaluate_bank_version,
)
from pipelines.job.ray_session import open_session
from pipelines.job.sections import EvaluationSection, RaySection
from pipelines.job.start_workers import start_evaluator
from tests.benchmarks.frame import machine, parser_of, publish
from tests.tiny_bank import bank_with_edits
from workers.evaluation_pool import EvaluationPool
from workers.models import CacheNames, ModelNames

SEED = 5
BATCH_SIZE = 32
SETTINGS = EvaluationSettings(protocols=(TEACHER_FORCED,), seed=SEED)
MODELS = ModelNames()


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What one way of examining gave, and how long it took."""

    results: tuple[ProbeResult, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A bank with two versions, and the cases of its edits."""

    store: ObjectStore
    bank: ExpertBank
    cases: Sequence[Case]
    cache: CacheNames

    @property
    def versions(self) -> list[int]:
        """The older and the new one."""
        return [window.version for window in self.bank.history()]

    def evaluate(self, pool: EvaluationPool, version: int, run: str) -> BankEvaluation:
        """Examine a version on all cases."""
        return evaluate_bank_version(
            store=self.store,
            bank=self.bank,
            version=version,
            cases=self.cases,
            settings=SETTINGS,
            pool=pool,
            run=run,
        )

    @contextmanager
    def pool(self, num_workers: int) -> Iterator[EvaluationPool]:
        """Actors of one thread."""
        pool = start_evaluator(
            MODELS,
            EvaluationSection(num_workers=num_workers, batch_size=BATCH_SIZE),
            max_in_flight=2 * num_workers,
            cache=self.cache,
            answers_uri=self.store.root_uri,
        )
        pool.describe()
        yield pool
        pool.close()


def replay(bench: Bench) -> tuple[Timed, Timed]:
    """By two actors, then by one; the actors are up before the clock starts."""
    older, newest = bench.versions
    timed = []
    for num_workers in (2, 1):
        with bench.pool(num_workers) as pool:
            start_s = time.perf_counter()
            bench.evaluate(pool, older, f"older, {num_workers}")
            say(f"older version by {num_workers}", start_s)
            start_s = time.perf_counter()
            done = bench.evaluate(pool, newest, f"newest, {num_workers}")
            say(f"new version by {num_workers}", start_s)
            timed.append(Timed(results=tuple(done.results), seconds=time.perf_counter() - start_s))
    return timed[0], timed[1]


def item_by_item(bench: Bench, cases: Sequence[Case]) -> Timed:
    """One probe after another against the new version."""
    torch.set_num_threads(os.cpu_count() or 1)
    generator = MODELS.load_generator()
    needed = generator.config.load_options(LoadOptions())
    backbone = load_named_backbone(BUILTIN, needed, builtin_batch_size=1)
    assert backbone.image_tower is not None
    backbone.image_tower.cache = ImageFeatureCache(0)  # nothing is cached
    repository = bench.bank.load_repository(generator.config, bench.versions[-1])
    scorer = CaseScorer(Editor(backbone, generator, repository), batch_size=1)
    results: list[ProbeResult] = []
    start_s = time.perf_counter()
    for case in cases:
        for index, probe in enumerate(case.all_probes()):
            alone = scorer.prepare_probes([CaseProbe(case, index, probe)])
            results += scorer.score(alone, repository)
    return Timed(results=tuple(results), seconds=time.perf_counter() - start_s)


def compare(num_edits: int, num_sampled: int, dtype: StateDtype) -> dict[str, Any]:
    """Examine three ways.

    Returns:
        Seconds, ratios, whether scores agree, and what they were measured with.
    """
    cases = load_builtin_cases("development")[:num_edits]
    sampled = random.Random(SEED).sample(cases, min(num_sampled, len(cases)))
    with tempfile.TemporaryDirectory() as folder:
        store = ObjectStore(Path(folder))
        start_s = time.perf_counter()
        half = (len(cases) + 1) // 2
        bank = bank_with_edits(store, MODELS, cases, window_edits=half)
        say(f"taught {len(cases)} edits", start_s)
        cache = CacheNames(store_uri=store.root_uri, dtype=dtype)
        bench = Bench(store=store, bank=bank, cases=cases, cache=cache)
        with open_session(RaySection(), needed_cpus=2):
            two, one = replay(bench)
        single = item_by_item(bench, sampled)
    scale = sum(len(case.all_probes()) for case in cases) / len(single.results)
    seconds = {
        "item by item, scaled": single.seconds * scale,
        "one actor": one.seconds,
        "two actors": two.seconds,
    }
    return {
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "times_faster": {
            name: round(seconds["item by item, scaled"] / value, 2)
            for name, value in seconds.items()
        },
        "two_actors_times_faster_than_one": round(one.seconds / two.seconds, 2),
        "num_probes": len(two.results),
        "num_probes_item_by_item": len(single.results),
        "num_scores_that_differ": num_different(single.results, two.results),
        "one_and_two_actors_are_equal": one.results == two.results,
        "num_edits": len(cases),
        "seed": SEED,
        "batch_size": BATCH_SIZE,
        "state_dtype": dtype,
        **machine(),
    }


def num_different(some: Sequence[ProbeResult], all_of_them: Sequence[ProbeResult]) -> int:
    """Probes whose scores differ."""
    scores = {(result.case_id, result.probe_index): result.score for result in all_of_them}
    return sum(scores[result.case_id, result.probe_index] != result.score for result in some)


def say(text: str, start_s: float) -> None:
    """One line with the time that it took."""
    print(f"{text}: {time.perf_counter() - start_s:.1f} s", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison; exit code 1 when scores differ or a ratio is too small."""
    parser = parser_of(__doc__)
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=40, help="cases asked item by item")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="RATIO")
    parser.add_argument("--two-at-least", type=float, default=0.0, metavar="RATIO")
    options = parser.parse_args(arguments)
    result = compare(options.edits, options.sample, options.dtype)
    publish(result, options.output)
    is_equal = not result["num_scores_that_differ"] and result["one_and_two_actors_are_equal"]
    is_fast = result["times_faster"]["two actors"] >= options.at_least
    scales = result["two_actors_times_faster_than_one"] >= options.two_at_least
    return 0 if is_equal and is_fast and scales else 1


if __name__ == "__main__":
    sys.exit(main())
