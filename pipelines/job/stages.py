"""The stages of the editing job; pools of actors and plain workers provide the same interface."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from infra.bank.fragments import FragmentWriter
from infra.bank.schema import BankIdentity
from infra.requests.request_reader import RequestReader
from workers.messages import (
    EmbedderFacts,
    EvaluationUnit,
    GeneratorFacts,
    ScoredUnit,
    StoredVersion,
    WrittenBatch,
)

Generated = Any
"""`GeneratedBatch`, or a reference to one, for the embedder."""
Asked = Any
"""What the edits of a batch ask, for `Subjects`: `AskedEdit`s, or a reference to them."""


class Generator(Protocol):
    """Numbers of requests in, experts out; takes micro-batches only while there is room."""

    def describe(self) -> GeneratorFacts:
        """Which backbone and generator write."""

    def stream(
        self, batches: Iterable[Sequence[int]], requests: RequestReader, /
    ) -> Iterable[Generated]:
        """One answer a micro-batch, in order, for `Embedder.stream`."""

    def close(self) -> None:
        """Release memory and cores."""


class Embedder(Protocol):
    """Experts in, uncommitted rows of the bank out."""

    def describe(self) -> EmbedderFacts:
        """Which image embedding is computed."""

    def stream(
        self, batches: Iterable[Generated], writer: FragmentWriter, /
    ) -> Iterable[tuple[WrittenBatch, Asked]]:
        """One answer a batch, in order."""

    def close(self) -> None:
        """Release memory and cores."""


class Subjects(Protocol):
    """What the edits of a window are about."""

    def stream(self, windows: Iterable[Sequence[Asked]], /) -> Iterable[dict[str, str]]:
        """The subject of each edit of a window, decided and stored."""

    def run(self, action: Callable[[], Any], /) -> Any:
        """What a commit does with files of rows."""

    def close(self) -> None:
        """Release memory and cores."""


class Evaluator(Protocol):
    """Cases and experts in, results out, while the caller continues."""

    def describe(self) -> GeneratorFacts:
        """Which backbone and generator score."""

    @property
    def num_waiting(self) -> int:
        """Units submitted and not yet collected."""

    def submit(self, version: StoredVersion, units: Sequence[EvaluationUnit], /) -> None:
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
        visual_width=generator.config.visual_width,
    )
