"""The state cache of a job: opened from its recipe, and filled before training."""

import contextlib
import functools
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from infra.cache.cached_states import CachedStates
from infra.cache.state_cache import MissingState, StateCache
from infra.cache.state_rows import StateWriter, WrittenStates
from infra.cache.stored_inputs import ChosenInputs, StoredInputs
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.errors import ConfigError, StorageUnavailableError
from liveedit_core.method.config import StateDtype
from liveedit_core.state_source import BackboneStates, StateIdentity, StateSource
from pipelines.job.gpus import gpus_of_each, placed
from pipelines.job.ray_session import open_session
from pipelines.job.sections import RaySection, StatesSection
from workers.actor_pool import WorkerPool, actor_options
from workers.failures import retried
from workers.models import CacheNames, ModelSource
from workers.state_encoder import StateEncoder, StateEncoderActor

CHUNK_SIZE = 256
"""Inputs of one commit: enough to sort by length, few enough to repeat."""


class Encoder(Protocol):
    """Inputs in, uncommitted rows of the cache out; takes chunks only while there is room."""

    def describe(self, dtype: StateDtype, /) -> StateIdentity:
        """What the states that it encodes have in common."""

    def stream(
        self, chunks: Iterator[Sequence[BackboneInput]], writer: StateWriter, /
    ) -> Iterable[WrittenStates]:
        """One answer a chunk, in order."""

    def each_pyramids(self, chunks: Iterable[Sequence[bytes]], /) -> Iterable[Tensor]:
        """The pyramids of the images of each chunk, float16 [B, E], in order."""


def cache_names(section: StatesSection, run_root: str) -> CacheNames | None:
    """The cache of a recipe for workers; None when it is switched off."""
    if not section.is_cached:
        return None
    return CacheNames(
        store_uri=section.store_uri(run_root), dtype=section.dtype, max_bytes=section.max_bytes
    )


def open_cache(section: StatesSection, run_root: str, backbone: Backbone) -> StateCache | None:
    """The cache of a recipe; None when it is switched off."""
    if not section.is_cached:
        return None
    store = ObjectStore(section.store_uri(run_root))
    identity = StateIdentity.of(backbone, section.dtype)
    return StateCache(store, identity, max_bytes=section.max_bytes)


@contextlib.contextmanager
def state_source(
    section: StatesSection, run_root: str, backbone: Backbone
) -> Iterator[StateSource]:
    """The backbone, behind the cache where the recipe asks for one."""
    computed = BackboneStates(backbone)
    cache = open_cache(section, run_root, backbone)
    if cache is None:
        yield computed
        return
    cached = CachedStates(cache, computed, is_filling=True, device=backbone.device)
    yield cached
    cached.flush()


def training_source(
    cache: StateCache | None, backbone: Backbone, models: ModelSource
) -> StateSource:
    """Where training reads states: the cache, and the backbone for what it lacks. Sent to another
    process, the source leaves the backbone behind and loads `models` there."""
    computed = BackboneStates(backbone, models.load_backbone)
    return computed if cache is None else CachedStates(cache, computed)


@contextlib.contextmanager
def state_encoder(
    section: StatesSection, backbone: Backbone, models: ModelSource
) -> Iterator[Encoder]:
    """Encodes a split: workers that load `models` in a Ray session, or here with `backbone`."""
    if section.num_workers == 0:
        yield EncoderHere(lambda: backbone)
        return
    with open_session(RaySection(), needed_cpus=section.num_cpus * section.num_workers):
        num_gpus = gpus_of_each(section)
        load_backbone = placed(models, section, num_gpus).load_backbone
        pool = start_encoders(load_backbone, section, num_gpus)
        try:
            yield pool
        finally:
            pool.close()


class EncoderHere(StateEncoder):
    """Encodes in this process."""

    def each_pyramids(self, chunks: Iterable[Sequence[bytes]]) -> Iterator[Tensor]:
        return map(self.pyramids, chunks)


class EncoderPool(WorkerPool[Sequence[BackboneInput], WrittenStates, StateIdentity]):
    """Encodes in actors."""

    def each_pyramids(self, chunks: Iterable[Sequence[bytes]]) -> Iterable[Tensor]:
        pool = WorkerPool[Sequence[bytes], Tensor, None](
            self.name,
            self.actors,
            lambda actor, images: actor.pyramids.remote(images),
            max_in_flight=self.max_in_flight,
        )
        return pool.stream(chunks)


def start_encoders(
    load_backbone: Callable[[], Backbone], section: StatesSection, num_gpus: float = 0.0
) -> EncoderPool:
    """Actors that encode chunks, in an open Ray session."""
    options = actor_options(
        num_cpus=section.num_cpus, num_gpus=num_gpus, node_resource=section.node_resource
    )
    worker = StateEncoderActor.options(**options)
    return EncoderPool(
        "state-encoding pool",
        [
            worker.remote(load_backbone, num_threads=section.num_threads)
            for _ in range(section.num_workers)
        ],
        lambda actor, chunk, writer: actor.write.remote(chunk, writer),
        max_in_flight=section.max_in_flight,
    )


def fill_cache(
    cache: StateCache,
    encoder: Encoder,
    inputs: Sequence[BackboneInput],
    report: Callable[[int, int], None],
    *,
    chunk_size: int = CHUNK_SIZE,
) -> int:
    """Encode the inputs that the cache lacks, one commit a chunk; returns how many were added.
    Workers read the inputs themselves. States of other jobs are evicted to stay within the budget.
    When these inputs alone exceed it, the rest is computed when it is needed. `report` is called
    with (held, total) inputs."""
    missing = cache.missing(inputs)
    if not missing:
        return 0
    found = encoder.describe(cache.identity.dtype)
    if found != cache.identity:
        raise ConfigError(
            f"states: the encoder has {found}, the cache is for {cache.identity}; name the same "
            "backbone and edit layer for both"
        )
    wanted = frozenset(cache.ids(inputs))
    is_full = False
    num_added = 0

    def chunks(readable: Sequence[BackboneInput]) -> Iterator[Sequence[BackboneInput]]:
        for chunk in image_chunks(missing, chunk_size):
            if is_full:
                return
            yield ChosenInputs(readable, tuple(chunk))

    with _readable(inputs, encoder, cache.store) as readable:
        for written in encoder.stream(chunks(readable), cache.writer):
            if not retried(functools.partial(cache.commit, written, keep=wanted)):
                is_full = True
                continue
            num_added += written.num_states
            report(len(wanted) - len(missing) + num_added, len(wanted))
    cache.compact()
    return num_added


@contextlib.contextmanager
def _readable(
    inputs: Sequence[BackboneInput], encoder: Encoder, store: ObjectStore
) -> Iterator[Sequence[BackboneInput]]:
    """The inputs where the encoder can read them: for workers in the store, in a copy for as long
    as the context lasts."""
    if isinstance(inputs, StoredInputs) or isinstance(encoder, EncoderHere):
        yield inputs
        return
    copy = StoredInputs(store, f"inputs/{uuid.uuid4().hex}")
    try:
        retried(functools.partial(copy.write, inputs))
        yield copy
    finally:
        with contextlib.suppress(StorageUnavailableError):
            copy.delete()


def image_chunks(missing: Sequence[MissingState], size: int = CHUNK_SIZE) -> Iterator[list[int]]:
    """Positions in chunks of about `size`; those of one image share a chunk, so that the image
    tower encodes it once."""
    by_image: dict[str, list[int]] = {}
    for state in missing:
        by_image.setdefault(state.image_id, []).append(state.position)
    text_only = by_image.pop("", [])
    chunk: list[int] = []
    for group in [*by_image.values(), *([position] for position in text_only)]:
        if chunk and len(chunk) + len(group) > size:
            yield chunk
            chunk = []
        chunk += group
    if chunk:
        yield chunk
