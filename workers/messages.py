"""What travels between driver and workers: frozen, picklable values."""

from dataclasses import dataclass

from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.expert import Expert
from liveedit_core.schema import Case, EditRequest


@dataclass(frozen=True, kw_only=True)
class NumberedRequest:
    """A request and its number in the log."""

    sequence: int
    request: EditRequest


@dataclass(frozen=True, kw_only=True)
class GeneratorFacts:
    """Which models a worker runs; the same for all workers of a group or pool."""

    backbone_digest: str
    generator_digest: str
    config: GeneratorConfig


@dataclass(frozen=True, kw_only=True)
class GeneratedExpert:
    """An expert, with what the embedding stage needs of its request."""

    sequence: int
    subject_id: str
    image_bytes: bytes
    image_uri: str
    expert: Expert


@dataclass(frozen=True, kw_only=True)
class GeneratedBatch:
    """What became of a micro-batch of requests: each is an expert or a refusal."""

    experts: tuple[GeneratedExpert, ...]
    rejected: tuple[Rejected, ...]
    last_sequence: int
    """Largest number among the requests, refused ones included."""
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class EmbedderFacts:
    """Which image embedding a worker computes."""

    model: str
    size: int
    """C: width of an embedding."""


@dataclass(frozen=True, kw_only=True)
class WrittenBatch:
    """A micro-batch that lies in the store, not yet visible."""

    fragments: tuple[str, ...]
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
    """Those of the cases that free generation, where it is a protocol, scores."""
    groups: tuple[tuple[str, ...], ...] = ()
    """Of each case, the edits of the version that it is asked against; empty: all of them."""

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What tells apart how units are prepared."""
        return tuple(case.case_id for case in self.cases), self.free_case_ids


@dataclass(frozen=True, kw_only=True)
class ScoredUnit:
    """The results of one unit against one bank version."""

    bank_version: int
    results: tuple[ProbeResult, ...]
    duration_s: float
    """Time of a worker, encoding of the cases included where it was done for this unit."""
