"""The expert-embedding worker: experts in, rows of the bank out.

Owns: one image-embedding model, loaded when it starts; no other state.
Receives: micro-batches of experts with their images, by reference, and the handle to write with.
Returns: the fragments it wrote, invisible until the driver commits them, and what the subject
    assigner compares, which stays in the object store. An expert or embedding with NaN is a
    refusal.
When it dies: nothing is lost. The pool restarts the process and sends the unfinished batches again;
    files of the dead process are never committed, and a second row of an edit_id would be skipped.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import ray

from infra.bank.fragments import FragmentWriter
from infra.bank.schema import ExpertRow
from liveedit_core.backbones.protocol import Backbone
from liveedit_core.errors import NumericsError, ShapeError
from liveedit_core.inputs.datasets import known_good
from liveedit_core.method.generator import LiveEditGenerator
from workers.evaluation_worker import EvaluationWorker
from workers.failures import converted_failures, outcomes
from workers.generator_worker import GeneratorWorker, refusal_of
from workers.messages import (
    AskedEdit,
    EmbedderFacts,
    EvaluationUnit,
    GeneratedBatch,
    GeneratedExpert,
    ScoredUnit,
    SharedRepository,
    StoredVersion,
    WrittenBatch,
)
from workers.models import limit_threads

WRITING, EVALUATING = "write", "evaluate"
EVALUATIONS_AT_ONCE = 2


class Embedder(Protocol):
    """Turns encoded images into unit vectors."""

    name: str
    size: int

    def embed(self, images: list[bytes]) -> npt.NDArray[np.float32]:
        """Rows of length 1, [B, C]."""


class ExpertEmbeddingWorker:
    """Adds an image embedding to experts and writes them to the store."""

    @converted_failures
    def __init__(
        self, load_embedder: Callable[[], Embedder], *, batch_size: int = 32, num_threads: int = 1
    ) -> None:
        limit_threads(num_threads)
        self._embedder = load_embedder()
        self._batch_size = batch_size

    def describe(self) -> EmbedderFacts:
        return EmbedderFacts(model=self._embedder.name, size=self._embedder.size)

    @converted_failures
    def write(
        self, batch: GeneratedBatch, writer: FragmentWriter
    ) -> tuple[WrittenBatch, tuple[AskedEdit, ...]]:
        """Embed the images of a batch and write its experts as fragments of the bank."""
        start_s = time.perf_counter()
        rows: list[ExpertRow] = []
        rejected = list(batch.rejected)
        for start in range(0, len(batch.experts), self._batch_size):
            part = batch.experts[start : start + self._batch_size]
            for item, embedding in zip(part, self._embeddings(part), strict=True):
                if isinstance(embedding, Exception):
                    rejected.append(refusal_of(item.expert.edit_id, embedding))
                    continue
                row = _row(item, embedding)
                try:
                    row.check(writer.identity)
                    rows.append(row)
                except (NumericsError, ShapeError) as error:
                    rejected.append(refusal_of(row.expert.edit_id, error))
        asked = tuple(
            AskedEdit(
                sequence=row.sequence,
                edit_id=row.expert.edit_id,
                visual_feature_QM=row.expert.visual_feature_QM,
                prompt_feature_QM=row.expert.prompt_feature_QM,
                question=row.expert.question,
            )
            for row in rows
        )
        written = WrittenBatch(
            fragments=tuple(writer.write(rows)),
            num_experts=len(rows),
            rejected=tuple(rejected),
            last_sequence=batch.last_sequence,
            generate_s=batch.duration_s,
            refine_s=batch.refine_s,
            embed_s=time.perf_counter() - start_s,
        )
        return written, asked

    def _embeddings(
        self, items: Sequence[GeneratedExpert]
    ) -> list[npt.NDArray[np.float32] | Exception]:
        def embed(some: Sequence[GeneratedExpert]) -> list[npt.NDArray[np.float32] | Exception]:
            images = [item.request.image_bytes for item in some]
            shown = [image for image in images if image is not None]
            found = iter(self._embedder.embed(shown) if shown else ())
            none = np.zeros(self._embedder.size, np.float32)
            return [none if image is None else next(found) for image in images]

        def check() -> None:
            self._embedder.embed([known_good().image_bytes or b""])

        return outcomes(items, embed, check)

    def stream(
        self, batches: Iterable[GeneratedBatch], writer: FragmentWriter
    ) -> Iterator[tuple[WrittenBatch, tuple[AskedEdit, ...]]]:
        """The interface of `WorkerPool`, in this process."""
        return (self.write(batch, writer) for batch in batches)

    def close(self) -> None:
        """Nothing to release."""


def _row(item: GeneratedExpert, embedding: npt.NDArray[np.float32]) -> ExpertRow:
    return ExpertRow(
        expert=item.expert,
        sequence=item.sequence,
        subject_id=item.request.subject_id,
        clip_embedding=embedding,
        provenance={"image_uri": item.request.image_uri} if item.request.image_uri else {},
    )


def load_embedder(model: str, pretrained: str, device: str, dtype: str) -> Embedder:
    """An OpenCLIP model; open_clip is imported only in the worker."""
    from workers.clip_embedder import load_clip_embedder

    return load_clip_embedder(model, pretrained, device=device, dtype=dtype)


class WritingGeneratorWorker(GeneratorWorker):
    """A generator worker that also embeds, writes and evaluates experts: one process and one copy
    of the models where there were four."""

    @converted_failures
    def __init__(
        self,
        *models: Any,
        load_embedder: Callable[[], Embedder],
        images_at_once: int = 32,
        evaluation: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """`models` and `options` are those of `GeneratorWorker`, `evaluation` holds those of
        `EvaluationWorker`."""
        super().__init__(*models, **options)
        threads = options.get("num_threads", 1)
        self._embedding = ExpertEmbeddingWorker(
            load_embedder, batch_size=images_at_once, num_threads=threads
        )
        self._evaluation = dict(evaluation or {})
        self._free: list[EvaluationWorker] = []

    def describe_embedder(self) -> EmbedderFacts:
        return self._embedding.describe()

    def write(
        self, batch: GeneratedBatch, writer: FragmentWriter
    ) -> tuple[WrittenBatch, tuple[AskedEdit, ...]]:
        """See `ExpertEmbeddingWorker.write`."""
        return self._embedding.write(batch, writer)

    def load_backbone(self) -> Backbone:
        """That of this process: a worker is the `ModelSource` of its evaluations."""
        return self._backbone

    def load_generator(self) -> LiveEditGenerator:
        return self._generator

    @ray.method(concurrency_group=EVALUATING)
    def load(self, version: StoredVersion) -> SharedRepository:
        """See `EvaluationWorker.load`."""
        with self._evaluator() as worker:
            return worker.load(version)

    @ray.method(concurrency_group=EVALUATING)
    def evaluate(
        self, bank_version: int, shared: SharedRepository, unit: EvaluationUnit
    ) -> ScoredUnit:
        """See `EvaluationWorker.evaluate`."""
        with self._evaluator() as worker:
            return worker.evaluate(bank_version, shared, unit)

    @contextlib.contextmanager
    def _evaluator(self) -> Iterator[EvaluationWorker]:
        """One that no other thread uses; what they share are the models."""
        try:
            worker = self._free.pop()
        except IndexError:
            worker = EvaluationWorker(self, **self._evaluation)
        yield worker
        self._free.append(worker)


ExpertEmbeddingActor = ray.remote(ExpertEmbeddingWorker)
# Experts are written in a thread of their own, before the batches that wait to be generated.
WritingGeneratorActor = ray.remote(  # type: ignore[call-overload]
    concurrency_groups={WRITING: 1, EVALUATING: EVALUATIONS_AT_ONCE}
)(WritingGeneratorWorker)
