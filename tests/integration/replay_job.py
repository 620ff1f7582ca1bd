"""Evaluates the bank of a store with two actors, slowly, as a process that a test kills.

python -m tests.integration.replay_job STORE RUN
"""

import sys
import time
from collections.abc import Callable, Sequence
from unittest.mock import patch

from torch import Tensor

from infra.bank.expert_bank import ExpertBank
from infra.storage.object_store import ObjectStore
from liveedit_core.states import LayerStates
from pipelines.evaluation import bank_evaluation
from pipelines.evaluation.bank_evaluation import (
    BankEvaluation,
    EvaluationSettings,
    evaluate_bank_version,
)
from pipelines.job.ray_session import open_session
from pipelines.job.sections import EvaluationSection, RaySection
from pipelines.job.stages import Evaluator
from pipelines.job.start_workers import start_evaluator
from tests.unit.tiny_inputs import case
from tests.unit.tiny_models import TinyBackbone, TinyModels
from workers.evaluation_pool import EvaluationPool
from workers.models import CacheNames

UNIT_CASES = 8
CASES = [case(number) for number in range(60)]
"""Seven full pieces of work and one that is not."""
SETTINGS = EvaluationSettings(free_generation_cases=20)
NUM_RESULTS = (60 + 20) * 4
SESSION = RaySection(object_store_memory_bytes=100 * 1024 * 1024)


class SlowBackbone(TinyBackbone):
    """Takes its time, also where all states are known."""

    def target_logits(
        self, states: Sequence[LayerStates], hidden_BTD: Tensor, *, has_end: bool = False
    ) -> list[Tensor]:
        time.sleep(0.15)
        return super().target_logits(states, hidden_BTD, has_end=has_end)


class SlowModels(TinyModels):
    """Loads it."""

    def load_backbone(self) -> SlowBackbone:
        return SlowBackbone()


def silent(num_done: int, num_units: int) -> None:
    """Report nothing."""


def evaluate(
    store: ObjectStore,
    pool: Evaluator,
    run: str,
    on_progress: Callable[[int, int], None] = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> BankEvaluation:
    """Evaluate the newest version of the store's bank."""
    bank = ExpertBank.open(store, "main")
    with patch.object(bank_evaluation, "UNIT_CASES", UNIT_CASES):
        return evaluate_bank_version(
            store=store,
            bank=bank,
            version=bank.version,
            cases=CASES,
            settings=SETTINGS,
            pool=pool,
            run=run,
            on_progress=on_progress,
            should_stop=should_stop,
        )


def slow_pool(store: ObjectStore, *, num_workers: int = 2) -> EvaluationPool:
    """Actors that read states and answers from the store."""
    cache = CacheNames(store_uri=store.root_uri, dtype="float32")
    return start_evaluator(
        SlowModels(),
        EvaluationSection(num_workers=num_workers),
        max_in_flight=3,
        cache=cache,
        answers_uri=store.root_uri,
    )


def main(root: str, run: str) -> None:
    """Evaluate, and say how far it is."""
    with open_session(SESSION, needed_cpus=2):
        store = ObjectStore(root)
        pool = slow_pool(store)
        evaluate(
            store, pool, run, lambda done, total: print(f"scored {done} of {total}", flush=True)
        )
        pool.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
