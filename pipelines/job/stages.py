"""What the editing job asks of its stages; groups, pools and plain workers all provide it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from infra.bank.expert_bank import FragmentWriter
from liveedit_core.method.repository import ExpertRepository
from workers.messages import (
    EvaluationUnit,
    GeneratedBatch,
    GeneratorFacts,
    NumberedRequest,
    ScoredUnit,
    WrittenBatch,
)


class Generator(Protocol):
    """Requests in, experts out; micro-batches are taken only as there is room."""

    def stream(self, batches: Iterable[Sequence[NumberedRequest]]) -> Iterator[GeneratedBatch]:
        """One answer a micro-batch, in order."""

    def close(self) -> None:
        """Nothing more will be asked: give memory and cores back."""


class Embedder(Protocol):
    """Experts in, uncommitted rows of the bank out."""

    def stream(
        self, batches: Iterable[GeneratedBatch], writer: FragmentWriter
    ) -> Iterator[WrittenBatch]:
        """One answer a batch, in order."""

    def close(self) -> None:
        """Nothing more will be asked: give memory and cores back."""


class Evaluator(Protocol):
    """Cases and experts in, results out, while the caller goes on."""

    def describe(self) -> GeneratorFacts:
        """Which backbone and generator score."""

    @property
    def num_waiting(self) -> int:
        """Units submitted and not yet collected."""

    def submit(
        self, bank_version: int, repository: ExpertRepository, units: Sequence[EvaluationUnit]
    ) -> None:
        """Queue the evaluation of one bank version."""

    def drop(self) -> None:
        """Forget the units that wait; what is in progress is not collected any more."""

    def collect(self, *, wait: bool) -> list[ScoredUnit]:
        """Units that are done; with `wait` at least one, if any was submitted."""
