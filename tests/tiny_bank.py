"""Banks of the tiny backbone with its random generator, as the editing job would write them."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from infra.bank.expert_bank import ExpertBank
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.schema import Case
from pipelines.job.stages import bank_identity
from tests.tiny_backbone import AS_WRITTEN, OUR_CONFIG, tiny_backbone, tiny_generator
from tests.unit.tiny_inputs import HashEmbedder
from workers.expert_embedding_worker import ExpertEmbeddingWorker
from workers.generator_worker import GeneratorWorker
from workers.messages import EmbedderFacts, NumberedRequest
from workers.models import ModelSource

T = TypeVar("T")
EMBEDDER = EmbedderFacts(model=HashEmbedder.name, size=HashEmbedder.size)


class SmallModels:
    """Names the tiny backbone, whose experts are strong enough to change answers; picklable."""

    def load_backbone(self) -> VisionLanguageBackbone:
        return tiny_backbone()

    def load_generator(self) -> LiveEditGenerator:
        generator = tiny_generator(OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0))
        generator.digest = "small"
        return generator


def bank_with_edits(
    store: ObjectStore,
    models: ModelSource,
    cases: Sequence[Case],
    *,
    name: str = "main",
    window_edits: int = 1000,
    batch_size: int = 16,
) -> ExpertBank:
    """A bank that holds the edits of some cases, one version per window."""
    worker = GeneratorWorker(models, InputLimits(), refine=AS_WRITTEN)
    embedder = ExpertEmbeddingWorker(HashEmbedder)
    identity = bank_identity(worker.describe(), EMBEDDER)
    bank = ExpertBank.open_or_create(store, name, identity)
    epoch = bank.acquire_writer()
    requests = [NumberedRequest(sequence=n + 1, request=c.edit) for n, c in enumerate(cases)]
    for window in chunks(requests, window_edits):
        batches = map(worker.generate, chunks(window, batch_size))
        written = list(embedder.stream(batches, bank.fragment_writer()))
        bank.commit([item for batch, _ in written for item in batch.fragments], epoch=epoch)
    return bank


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Items in pieces of one size; the last may be smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
