"""A driver of the tiny backbone on a real Ray, as a process that tests kill.

python -m tests.integration.faults.edit_driver --store URI --address HOST:PORT --marks FOLDER

It does what the editing job does after its models are named: the same stages, actors and commits.
Each actor leaves a mark with its process id and node, so that a test can kill it.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from infra.bank.expert_bank import ExpertBank
from infra.bank.fragments import WrittenFragment
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.results import ResultsTable
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import LiveEditError
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.states import LayerStates
from pipelines.editing.follow import Follower
from pipelines.editing.intake import Source
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.run import run
from pipelines.job.progress import ProgressView
from pipelines.job.ray_session import StopRequest, open_session
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.sections import GeneratorSection, RaySection
from pipelines.job.stages import bank_identity
from pipelines.job.start_workers import (
    EmbedderPool,
    embedding_pool,
    start_generator,
    start_subjects,
)
from tests.inline_evaluator import InlineEvaluator
from tests.unit.tiny_editing import Notes
from tests.unit.tiny_inputs import HashEmbedder, case
from tests.unit.tiny_models import TinyBackbone, TinyModels
from workers.actor_pool import actor_options
from workers.evaluation_worker import EvaluationWorker
from workers.expert_embedding_worker import ExpertEmbeddingActor

BANK = "main"
WORK = "work"
"""Resource of the nodes that actors run on."""
WINDOW_EDITS = 4
BATCH_SIZE = 2


class SlowBackbone(TinyBackbone):
    """Takes its time, so that a kill meets work under way."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s

    def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        time.sleep(self._pause_s)
        return super().encode(inputs)


@dataclass(frozen=True)
class MarkedModels(TinyModels):
    """Loads the tiny models; the process that does so leaves a mark."""

    marks: str = ""
    pause_s: float = 0.0

    def load_backbone(self) -> SlowBackbone:
        leave_mark(self.marks, "generator")
        return SlowBackbone(self.pause_s)


@dataclass(frozen=True)
class MarkedEmbedder:
    """Makes the embedder, with a mark."""

    marks: str

    def __call__(self) -> HashEmbedder:
        leave_mark(self.marks, "embedder")
        return HashEmbedder()


def start_hash_embedder(marks: str) -> EmbedderPool:
    """The pool of the job, with an embedder that needs no weights."""
    options = actor_options(num_cpus=0.1, node_resource=WORK)
    actor = ExpertEmbeddingActor.options(**options).remote(MarkedEmbedder(marks))
    return embedding_pool([actor], max_in_flight=2)


class MortalBank(ExpertBank):
    """Loses its power when the fragments of a window lie there and are not committed."""

    last_commit = -1

    def commit(self, fragments: Sequence[WrittenFragment], *, epoch: int, **values: Any) -> int:
        self.last_commit -= 1
        if self.last_commit == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().commit(fragments, epoch=epoch, **values)


def leave_mark(folder: str, kind: str) -> None:
    """Say who runs here: the file's name has the process id, its content the node."""
    node = ray.get_runtime_context().get_node_id()
    (Path(folder) / f"{kind}-{os.getpid()}").write_text(node)


def recipe_of(options: argparse.Namespace) -> LifelongEditRecipe:
    batch_size = 1 if options.follow else BATCH_SIZE
    overrides = [
        f"store={options.store}",
        f"run_root={options.marks}",
        f"bank.window_edits={WINDOW_EDITS}",
        f"generator.batch_size={batch_size}",
        "evaluation.at=[]",
        'evaluation.protocols=["teacher_forced"]',
        f"follow.is_on={str(options.follow).lower()}",
        "follow.poll_s=0.1",
        "follow.settle_s=0.0",
        "follow.window_s=0.5",
        "follow.wait_s=0.5",
    ]
    return load_recipe(LifelongEditRecipe, None, overrides)


def drive(options: argparse.Namespace) -> int:
    """Follow the inbox, or teach so many cases; returns the exit code."""
    config = recipe_of(options)
    view = ProgressView(Console(soft_wrap=True))
    stop = StopRequest(view.say)
    store = ObjectStore(config.store_uri)
    models = MarkedModels(marks=options.marks, pause_s=options.pause_s)
    session = RaySection(address=options.address)
    with ExitStack() as stack:
        stack.enter_context(open_session(session, needed_cpus=1))
        stack.enter_context(stop.installed())
        generator = start_generator(
            models,
            InputLimits(),
            GeneratorSection(num_cpus=0.1, node_resource=WORK),
            max_in_flight=2,
        )
        embedder = start_hash_embedder(options.marks)
        identity = bank_identity(generator.describe(), embedder.describe())
        bank = MortalBank.open_or_create(store, BANK, identity)
        assert isinstance(bank, MortalBank)
        bank.last_commit = options.die_at_commit
        log = RequestLog(store)
        subjects = start_subjects(store, BANK, generator.describe())
        if options.follow:
            outcome = Follower(
                config=config,
                bank=bank,
                request_log=log,
                generator=generator,
                embedder=embedder,
                records=Notes(),
                progress=view,
                subjects=subjects,
                should_stop=stop,
            ).follow()
        else:
            outcome = run(
                config,
                source=Source(
                    name="cases", digest="cases", items=map(case, range(options.num_edits))
                ),
                generator=generator,
                embedder=embedder,
                evaluator=InlineEvaluator(EvaluationWorker(TinyModels())),
                bank=bank,
                request_log=log,
                results=ResultsTable(store, "faults"),
                records=Notes(),
                progress=view,
                subjects=subjects,
                should_stop=stop,
            )
        view.say(f"ended with {outcome.num_edits} edits")
    return stop.exit_code if outcome.was_stopped else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--marks", required=True)
    parser.add_argument("--num-edits", type=int, default=0)
    parser.add_argument("--pause-s", type=float, default=0.0)
    parser.add_argument("--die-at-commit", type=int, default=-1)
    parser.add_argument("--follow", action="store_true")
    return parser.parse_args()


def main() -> int:
    """Run; errors are said as the job says them."""
    try:
        return drive(parse())
    except LiveEditError as error:
        print(f"error: {error.message}", flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
