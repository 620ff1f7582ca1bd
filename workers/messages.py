"""What travels between driver and workers: frozen, picklable values."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.expert import Expert
from liveedit_core.schema import Case, EditRequest

if TYPE_CHECKING:
    from infra.bank.fragments import WrittenFragment


@dataclass(frozen=True, kw_only=True)
class NumberedRequest:
    """A request with its number in the log."""

    sequence: int
    request: EditRequest


@dataclass(frozen=True, kw_only=True)
class GeneratorFacts:
    """The models of a worker; the same for all workers of a pool."""

    backbone_digest: str
    generator_digest: str
    config: GeneratorConfig


@dataclass(frozen=True, kw_only=True)
class GeneratedExpert:
    """An expert, with the parts of its request that the embedding stage needs."""

    sequence: int
    subject_id: str
    image_bytes: bytes
    image_uri: str
    expert: Expert


@dataclass(frozen=True, kw_only=True)
class GeneratedBatch:
    """The outcome of a micro-batch: an expert or a refusal for each request."""

    experts: tuple[GeneratedExpert, ...]
    rejected: tuple[Rejected, ...]
    last_sequence: int
    """Largest number of the requests, including refused ones."""
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class EmbedderFacts:
    """The image embedding that a worker computes."""

    model: str
    size: int
    """C: width of an embedding."""


@dataclass(frozen=True, kw_only=True)
class WrittenBatch:
    """A micro-batch that is in the store, not yet visible."""

    fragments: tuple["WrittenFragment", ...]
    """For `ExpertBank.commit`."""
    num_experts: int
    rejected: tuple[Rejected, ...]
    """Refusals of both stages."""
    last_sequence: int
    generate_s: float
    embed_s: float


@dataclass(frozen=True, kw_only=True)
class EvaluationUnit:
    """Some cases to score under some protocols: one piece of work, always the same batch."""

    cases: tuple[Case, ...]
    protocols: tuple[str, ...]
    free_case_ids: tuple[str, ...] = ()
    """The cases that free generation, if it is one of the protocols, scores."""
    groups: tuple[tuple[str, ...], ...] = ()
    """For each case, the edits it is evaluated against; empty: all edits of the version."""

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Units with the same key are prepared alike."""
        return tuple(case.case_id for case in self.cases), self.free_case_ids


@dataclass(frozen=True, kw_only=True)
class ScoredUnit:
    """The results of one unit against one bank version."""

    bank_version: int
    results: tuple[ProbeResult, ...]
    duration_s: float
    """Worker time, including the encoding of the cases if it was done for this unit."""
