"""What travels between driver and workers: frozen, picklable values."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from infra.bank.policy import MatrixPlace
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import Backbone
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.expert import Expert
from liveedit_core.method.features import EditQuestion
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Case, EditRequest

if TYPE_CHECKING:
    from infra.bank.fragments import WrittenFragment
    from liveedit_core.training.data import TrainingData


@dataclass(frozen=True, kw_only=True)
class NumberedRequest:
    """A request with its number in the log."""

    sequence: int
    request: EditRequest


@dataclass(frozen=True, kw_only=True)
class GeneratorFacts:
    """The models that all workers of a pool run."""

    backbone_digest: str
    generator_digest: str
    config: GeneratorConfig
    place: str = ""
    """Device and dtype of the backbone, for people: "cuda:0 in bfloat16"."""

    @classmethod
    def of(cls, backbone: Backbone, generator: LiveEditGenerator) -> Self:
        dtype = str(getattr(backbone, "dtype", "float32")).removeprefix("torch.")
        return cls(
            backbone_digest=backbone.digest,
            generator_digest=generator.digest,
            config=generator.config,
            place=f"{backbone.device} in {dtype}",
        )


@dataclass(frozen=True, kw_only=True)
class GeneratedExpert:
    """An expert with its request."""

    sequence: int
    request: EditRequest
    expert: Expert


@dataclass(frozen=True, kw_only=True)
class GeneratedBatch:
    """An expert or a refusal for each request of a micro-batch."""

    experts: tuple[GeneratedExpert, ...]
    rejected: tuple[Rejected, ...]
    last_sequence: int
    """Largest number of the requests, including refused ones."""
    duration_s: float
    refine_s: float = 0.0
    """The part of it that verified and refined."""

    @property
    def num_bytes(self) -> int:
        """Of images and tensors."""
        images = (len(item.request.image_bytes or b"") for item in self.experts)
        return sum(images) + sum(tensor_bytes(item.expert) for item in self.experts)


def tensor_bytes(item: object) -> int:
    """Of the tensors among the fields of an object."""
    return sum(value.nbytes for value in vars(item).values() if isinstance(value, Tensor))


@dataclass(frozen=True, kw_only=True)
class AskedEdit:
    """What tells which older edits a written one corrects."""

    sequence: int
    edit_id: str
    visual_feature_QM: Tensor
    prompt_feature_QM: Tensor
    question: EditQuestion | None


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
    refine_s: float
    """The part of it that verified and refined."""
    embed_s: float


CaseLoader = Callable[[Sequence[Case]], Sequence[Case]]
UnitKey = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class EvaluationUnit:
    """Some cases to score under some protocols, always in the same batch."""

    cases: tuple[Case, ...]
    protocols: tuple[str, ...]
    free_case_ids: tuple[str, ...] = ()
    """The cases that free generation, if it is one of the protocols, scores."""
    groups: tuple[tuple[str, ...], ...] = ()
    """For each case, the edits it is evaluated against; empty: all edits of the version."""
    load: CaseLoader | None = None
    """Gives the cases their images, where the driver sends them without."""

    def loaded(self) -> Self:
        """With images."""
        return replace(self, cases=tuple(self.load(self.cases)), load=None) if self.load else self

    @property
    def key(self) -> UnitKey:
        """Units with the same key are prepared alike."""
        named = (f"{case.case_id}, {len(case.probes)} probes" for case in self.cases)
        return tuple(named), self.free_case_ids


@dataclass(frozen=True, kw_only=True)
class StoredVersion:
    """A bank version by its name; picklable and small."""

    store: ObjectStore
    bank: str
    version: int
    matrices: MatrixPlace = "auto"

    @property
    def key(self) -> tuple[str, int]:
        """Of one store."""
        return self.bank, self.version

    def load(self, config: GeneratorConfig) -> ExpertRepository:
        """Its experts, for the generator of this process."""
        from infra.bank.expert_bank import ExpertBank

        bank = ExpertBank.open(self.store, self.bank)
        return bank.load_repository(config, self.version, matrices=self.matrices)


@dataclass(frozen=True, kw_only=True)
class RefusedProbe:
    """A probe that the backbone cannot take."""

    case_id: str
    probe_index: int
    reason: Rejected


@dataclass(frozen=True, kw_only=True)
class ScoredUnit:
    """The results of one unit against one bank version."""

    bank_version: int
    results: tuple[ProbeResult, ...]
    score_s: float
    prepare_s: float
    """Of the encoding of the cases; 0 if that was done for an earlier version."""
    refused: tuple[RefusedProbe, ...] = ()
    """Probes without results."""


@dataclass(frozen=True)
class SharedRepository:
    """The experts of one bank version as NumPy arrays.

    Ray keeps arrays once a node in shared memory, which every actor of the node reads; torch
    tensors would be copied into each call. Of matrices that are read on demand, only the location
    is sent.
    """

    fields: dict[str, Any]

    @classmethod
    def of(cls, repository: ExpertRepository) -> Self:
        """The same memory as arrays."""
        fields = vars(repository).items()
        return cls({name: v.numpy() if isinstance(v, Tensor) else v for name, v in fields})

    def repository(self) -> ExpertRepository:
        """The same memory as torch tensors, which must not be written to."""
        fields = dict(self.fields)
        with warnings.catch_warnings():
            # Torch has no read-only tensors and warns; a repository is never written to.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            for name, value in fields.items():
                if isinstance(value, np.ndarray):
                    fields[name] = torch.from_numpy(value)
        return ExpertRepository(**fields)


@dataclass(frozen=True, kw_only=True)
class TrainingSource:
    """What a worker reads; picklable if the worker is in another process."""

    load_backbone: Callable[[], Backbone]
    data: "TrainingData"
    """Inputs and states are read where they lie: each process must reach the run folder and the
    state cache."""
