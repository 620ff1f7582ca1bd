"""The stages of the editing job; pools of actors and plain workers provide the same interface."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from infra.bank.fragments import FragmentWriter
from infra.bank.schema import BankIdentity
from liveedit_core.method.repository import ExpertRepository
from workers.messages import (
    EmbedderFacts,
    EvaluationUnit,
    GeneratedBatch,
    GeneratorFacts,
    NumberedRequest,
    ScoredUnit,
    WrittenBatch,
)


class Generator(Protocol):
    """Requests in, experts out; takes micro-batches only while there is room."""

    def describe(self) -> GeneratorFacts:
        """Which backbone and generator write."""

    def stream(self, batches: Iterable[Sequence[NumberedRequest]], /) -> Iterator[GeneratedBatch]:
        """One answer a micro-batch, in order."""

    def close(self) -> None:
        """Release memory and cores."""


class Embedder(Protocol):
    """Experts in, uncommitted rows of the bank out."""

    def describe(self) -> EmbedderFacts:
        """Which image embedding is computed."""

    def stream(
        self, batches: Iterable[GeneratedBatch], writer: FragmentWriter, /
    ) -> Iterator[WrittenBatch]:
        """One answer a batch, in order."""

    def close(self) -> None:
        """Release memory and cores."""


class Evaluator(Protocol):
    """Cases and experts in, results out, while the caller continues."""

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
        """Discard pending units; results of running ones are not collected."""

    def collect(self, *, wait: bool) -> list[ScoredUnit]:
        """Units that are done; with `wait` at least one, if any was submitted."""


@dataclass(frozen=True, kw_only=True)
class ExpertWriters:
    """The two stages that write experts."""

    generator: Generator
    embedder: Embedder

    def bank_identity(self) -> BankIdentity:
        """What their experts have in common; waits until they have started."""
        return bank_identity(self.generator.describe(), self.embedder.describe())


def bank_identity(generator: GeneratorFacts, embedder: EmbedderFacts) -> BankIdentity:
    """What the experts of these workers have in common."""
    return BankIdentity(
        backbone_digest=generator.backbone_digest,
        generator_digest=generator.generator_digest,
        edit_layer=generator.config.edit_layer,
        hidden_size=generator.config.hidden_size,
        module_dim=generator.config.module_dim,
        num_queries=generator.config.num_queries,
        rank=generator.config.rank,
        embedding_model=embedder.model,
        embedding_size=embedder.size,
    )
