"""The state cache: hidden states at l_e of edits and probes, shared by all jobs (METHOD.md 6).

    states/<backbone>-<layer>            one row per input
    states/<backbone>-<layer>-images     one row per image: its pyramid
    states/<backbone>-<layer>-uses/      which process used what, and when (`UseLog`)

States with embeddings of prompts have tables of their own,
`states/<backbone>-<layer>-prompts` and so on.

An id covers everything that determines a state, so rows are never wrong, only missing; any of them
may be deleted at any time.
"""

import functools
import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from infra.cache.content_table import ContentTable
from infra.cache.state_rows import (
    IMAGE_SCHEMA,
    StateWriter,
    WrittenStates,
    state_schema,
    to_pyramids,
    to_states,
)
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import IntegrityError, StorageUnavailableError
from liveedit_core.state_source import StateIdentity
from liveedit_core.states import LayerStates

_SPARE_FRACTION = 0.05
"""Fraction of the budget freed beyond what is needed, so that not every commit evicts."""
_ID_BYTES = 32
_MIN_PAUSE_S = 60.0
_MOST_USED = 100_000
"""Ids in one use record; a process that uses more writes another."""
_KEPT_S = 86_400
"""Younger use records are kept: their states may not be committed yet."""

_logger = logging.getLogger(__name__)


class MissingState(NamedTuple):
    position: int
    """Its first place in the inputs."""
    image_id: str


class UseLog:
    """Last use of states: objects `<prefix>/<time>-<token>` with the 32-byte ids of a process.

    A process replaces its newest object at most once a minute. If it is killed, the uses of its
    last minute are lost, which costs at most a recomputation.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._token = uuid.uuid4().hex
        self._used: set[str] = set()
        self._key = ""
        self._written_s = float("-inf")
        self._num_written = 0

    def record(self, names: Iterable[str]) -> None:
        """Record used ids (sha256 in hex); stored at once, then at most once a minute."""
        self._used.update(names)
        is_due = time.monotonic() - self._written_s >= _MIN_PAUSE_S
        if is_due and len(self._used) > self._num_written:
            self.flush()

    def flush(self) -> None:
        """Store all uses, in place of the object that this process wrote before."""
        earlier, now_us = self._key, time.time_ns() // 1000
        self._key = f"{self._prefix}/{now_us:020d}-{self._token}"
        self._store.put(self._key, b"".join(bytes.fromhex(name) for name in sorted(self._used)))
        if earlier and earlier != self._key:
            self._store.delete(earlier)
        self._written_s, self._num_written = time.monotonic(), len(self._used)
        if len(self._used) >= _MOST_USED:
            self._key, self._num_written = "", 0
            self._used.clear()

    def newest_first(self, held: Collection[str]) -> list[str]:
        """The held ids by last use; deletes old objects that add nothing."""
        rest = set(held)
        ordered: list[str] = []
        for key in reversed(self._store.list(f"{self._prefix}/")):
            try:
                data = self._store.get(key)
            except IntegrityError:
                continue  # its process has just replaced it
            names = (data[i : i + _ID_BYTES].hex() for i in range(0, len(data), _ID_BYTES))
            known = [name for name in names if name in rest]
            ordered += known
            rest.difference_update(known)
            written_s = int(key.rpartition("/")[2].partition("-")[0]) / 1e6
            if not known and time.time() - written_s > _KEPT_S:
                self._store.delete(key)
        return ordered


class StateCache:
    """States of one backbone at one layer, in one dtype."""

    def __init__(self, store: ObjectStore, identity: StateIdentity, *, max_bytes: int = 0) -> None:
        """Open the cache, created empty when there is none.

        Other dtypes or prompt formats have other ids in the same tables; `max_bytes` limits the
        rows of all of them, unless it is 0.
        """
        self.identity = identity
        self.max_bytes = max_bytes
        name = f"states/{identity.backbone_digest[:16]}-{identity.edit_layer}"
        if identity.prompt_size:
            name += "-prompts"
        self.store = store
        self._states = ContentTable(store, name, state_schema(identity), key="state_id")
        self._images = ContentTable(store, f"{name}-images", IMAGE_SCHEMA, key="image_id")
        self._uses = UseLog(store, f"{name}-uses")
        self._is_warned = False

    def __reduce__(self) -> tuple[Callable[..., "StateCache"], tuple[object, ...]]:
        reopened = functools.partial(StateCache, max_bytes=self.max_bytes)
        return reopened, (self.store, self.identity)

    def __len__(self) -> int:
        return len(self._states)

    @property
    def num_bytes(self) -> int:
        return self._states.num_bytes + self._images.num_bytes

    @property
    def writer(self) -> StateWriter:
        return StateWriter(self._states.table, self._images.table, self.identity)

    def ids(self, inputs: Iterable[BackboneInput]) -> list[str]:
        return [self.identity.state_id(item) for item in inputs]

    def missing(self, inputs: Iterable[BackboneInput]) -> list[MissingState]:
        """What would have to be encoded, each once; records the use of all inputs.

        Inputs are consumed one by one, so they need not fit into memory.
        """
        self.refresh()
        first: dict[str, MissingState] = {}
        for position, item in enumerate(inputs):
            image = item.image_bytes
            image_id = "" if image is None else self.identity.image_id(image)
            found = MissingState(position, image_id)
            first.setdefault(self.identity.state_id(item), found)
        self._uses.record(first)
        states = self._states.held(first)
        images = self._images.held({state.image_id for state in first.values()} - {""})
        return [
            state
            for name, state in first.items()
            if name not in states or (state.image_id and state.image_id not in images)
        ]

    def refresh(self) -> None:
        self._images.refresh()
        self._states.refresh()

    def read(
        self, inputs: Sequence[BackboneInput], *, has_record: bool = False
    ) -> list[LayerStates | None]:
        """States of inputs, in order, None where the cache has none; may record their use."""
        ids = self.ids(inputs)
        found: dict[str, LayerStates] = {}
        try:
            found = self._read(ids)
            if any(key not in found for key in ids):
                # Others may have written them, or evicted rows and deleted the version read here.
                self.refresh()
                found = self._read(ids)
        except (IntegrityError, StorageUnavailableError, ValueError) as error:
            self._warn(error)
        if has_record:
            try:
                self._uses.record(ids)
            except StorageUnavailableError as error:
                self._warn(error)
        return [found.get(key) for key in ids]

    def _read(self, names: Sequence[str]) -> dict[str, LayerStates]:
        rows = self._states.rows(names)
        wanted = {name for name in rows.column("image_id").to_pylist() if name}
        return to_states(rows, self._pyramids(wanted), self.identity)

    def _pyramids(self, image_ids: Collection[str]) -> dict[str, Tensor]:
        return to_pyramids(self._images.rows(image_ids), self.identity.dtype)

    def pyramids(self, images: Sequence[bytes]) -> dict[bytes, Tensor]:
        """Pyramids of those images that are held, float32 [E]."""
        names = {self.identity.image_id(image): image for image in images}
        try:
            found = self._pyramids(names)
        except (IntegrityError, StorageUnavailableError, ValueError) as error:
            self._warn(error)
            return {}
        return {names[name]: pyramid_E for name, pyramid_E in found.items()}

    def _warn(self, error: Exception) -> None:
        if not self._is_warned:
            self._is_warned = True
            _logger.warning(
                "the state cache cannot be read, states are computed instead: %s. If its files are "
                "damaged, delete %s; it is filled again",
                error,
                self._states.table.uri,
            )

    def commit(self, written: WrittenStates, *, keep: Collection[str] = ()) -> bool:
        """Commit states if they fit without evicting ids in `keep`; returns whether it did."""
        if not self._has_room(written.num_bytes, keep):
            return False
        # Images first: a state without its image would have to be computed again.
        self._images.commit(written.images)
        self._states.commit(written.states)
        return True

    def compact(self) -> None:
        """Make random reads fast after many small writes."""
        self._images.compact()
        self._states.compact()

    def _has_room(self, num_bytes: int, keep: Collection[str]) -> bool:
        """Whether `num_bytes` fit, after least recently used states were evicted."""
        if not self.max_bytes:
            return True
        self.refresh()
        excess = self.num_bytes + num_bytes - self.max_bytes
        if excess > 0:
            self._evict(excess + int(self.max_bytes * _SPARE_FRACTION), frozenset(keep))
        return self.num_bytes + num_bytes <= self.max_bytes

    def _evict(self, num_bytes: int, keep: Collection[str]) -> None:
        sizes = self._states.sizes()
        used = self._uses.newest_first(sizes)
        # States without a recorded use are older than any with one.
        unused = dict.fromkeys(sizes)
        for name in used:
            del unused[name]
        oldest = [*unused, *reversed(used)]
        leaving, freed = [], 0
        for name in oldest:
            if freed >= num_bytes:
                break
            if name not in keep:
                leaving.append(name)
                freed += sizes[name]
        if leaving:
            self._states.remove(leaving)
            self._remove_orphans()

    def _remove_orphans(self) -> None:
        needed = set(self._states.column("image_id"))
        self._images.remove([name for name in self._images.ids() if name not in needed])
