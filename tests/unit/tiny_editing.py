"""The editing job on plain workers, without Ray, on one store."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from infra.bank.expert_bank import ExpertBank
from infra.bank.fragments import FragmentWriter
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.results import ResultsTable
from liveedit_core.errors import StorageUnavailableError
from liveedit_core.inputs.limits import InputLimits
from pipelines.editing.intake import Item, Source
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.run import Outcome, run
from pipelines.evaluation.bank_evaluation import BankEvaluation
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.stages import Embedder, Generator
from tests.inline_evaluator import InlineEvaluator
from tests.unit.tiny_inputs import HashEmbedder
from tests.unit.tiny_models import IDENTITY, TinyModels
from workers.evaluation_worker import EvaluationWorker
from workers.expert_embedding_worker import ExpertEmbeddingWorker
from workers.generator_worker import GeneratorWorker
from workers.messages import AskedEdit, EmbedderFacts, GeneratedBatch, WrittenBatch

OVERRIDES = (
    "generator.batch_size=3",
    "bank.window_edits=4",
    "evaluation.at=[1, 5]",
    'evaluation.protocols=["teacher_forced"]',
)


@dataclass
class Notes:
    """Takes down what a run records."""

    evaluations: list[BankEvaluation] = field(default_factory=list)
    points: list[BankEvaluation] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    num_registered: int = 0

    def evaluated(self, bank: ExpertBank, evaluation: BankEvaluation) -> None:
        self.evaluations.append(evaluation)

    def curve(self, points: Sequence[BankEvaluation]) -> None:
        self.points += points

    def followed(self, bank: ExpertBank, lag_s: float) -> None:
        self.lags.append(lag_s)

    def register_newest(self, bank: ExpertBank) -> None:
        self.num_registered += 1


class Driver:
    """One store, and runs on it with plain workers."""

    def __init__(self, folder: Path) -> None:
        store = ObjectStore(folder)
        self.store = store
        self.bank = ExpertBank.open_or_create(store, "test", IDENTITY)
        self.log = RequestLog(store)
        self.results = ResultsTable(store, "test")
        self.generator: Generator = GeneratorWorker(
            TinyModels(poisoned_prompt="poison"), InputLimits(max_target_tokens=4)
        )
        self.embedder: Embedder = ExpertEmbeddingWorker(HashEmbedder)

    def run(
        self,
        items: Iterable[Item],
        *overrides: str,
        stop_after: int | None = None,
        on_window: Callable[[], None] = lambda: None,
    ) -> Outcome:
        config = load_recipe(LifelongEditRecipe, None, [*OVERRIDES, *overrides])
        return run(
            config,
            source=Source(name="test", digest="digest", items=items),
            generator=self.generator,
            embedder=self.embedder,
            evaluator=InlineEvaluator(EvaluationWorker(TinyModels())),
            bank=self.bank,
            request_log=self.log,
            results=self.results,
            records=Notes(),
            progress=CheckedProgress(),
            on_window=on_window,
            should_stop=lambda: stop_after is not None and self.bank.num_edits() >= stop_after,
        )

    def rows(self) -> pa.Table:
        return self.bank.load_rows(["edit_id", "sequence", "expert_down", "expert_up"])


class CheckedProgress:
    """Nobody watches; the numbers make sense."""

    def say(self, text: str) -> None:
        """Nobody listens."""

    def edits(self, num_done: int, num_total: int) -> None:
        assert 0 < num_done <= num_total

    def evaluations(self, num_waiting: int) -> None:
        assert num_waiting > 0


class DyingEmbedder:
    """Ends the run with an error after some batches, as a killed process would."""

    def __init__(self, num_batches: int) -> None:
        self._worker = ExpertEmbeddingWorker(HashEmbedder)
        self._num_batches = num_batches

    def describe(self) -> EmbedderFacts:
        return self._worker.describe()

    def stream(
        self, batches: Iterable[GeneratedBatch], writer: FragmentWriter
    ) -> Iterator[tuple[WrittenBatch, tuple[AskedEdit, ...]]]:
        for index, batch in enumerate(batches):
            if index == self._num_batches:
                raise StorageUnavailableError("the store is gone")
            yield self._worker.write(batch, writer)

    def close(self) -> None:
        """Has nothing."""
