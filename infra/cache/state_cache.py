"""The state cache: rows at l_e of edits and probes, computed once for every job (METHOD.md 6).

    states/<backbone>-<layer>            one row an input
    states/<backbone>-<layer>-images   one row an image: its pyramid
    states/<backbone>-<layer>-uses/      who used what when (`UseLog`)

Content-addressed: a name says all that determines a row, so rows are never wrong, only missing.
Deleting the folder, wholly or in part, at any time, costs the time to compute it again.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from infra.cache.content_table import ContentTable, WrittenRows
from infra.cache.state_rows import (
    IMAGE_SCHEMA,
    STATE_SCHEMA,
    StateReader,
    StateWriter,
    WrittenStates,
)
from infra.cache.use_log import UseLog
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import IntegrityError, StorageUnavailableError
from liveedit_core.state_identity import StateIdentity
from liveedit_core.states import LayerStates

_SPARE_FRACTION = 0.05
"""Of the budget, freed beyond what is needed, so that not every commit has to make room."""

_logger = logging.getLogger(__name__)


class MissingState(NamedTuple):
    """An input that the cache does not hold."""

    position: int
    """Its first place in the inputs."""
    image_id: str
    """Empty for a text-only input."""


class StateCache:
    """States of one backbone, cut at one layer, in one number format."""

    def __init__(self, store: ObjectStore, identity: StateIdentity, *, max_bytes: int = 0) -> None:
        """Open the cache, made empty when there is none.

        Args:
            store: Where it lives.
            identity: What all its rows have in common. Rows of other formats or prompts live in
                the same tables under other names.
            max_bytes: Budget of all rows of the tables; 0 for none.
        """
        self.identity = identity
        self.max_bytes = max_bytes
        name = f"states/{identity.backbone_digest[:16]}-{identity.edit_layer}"
        self._store = store
        self._options = store.table_options()
        self._states = ContentTable(store, name, STATE_SCHEMA, key="state_id")
        self._images = ContentTable(store, f"{name}-images", IMAGE_SCHEMA, key="image_id")
        self._uses = UseLog(store, f"{name}-uses")
        self._reader = StateReader(identity)
        self._is_warned = False

    def __reduce__(self) -> tuple[Callable[..., "StateCache"], tuple[object, ...]]:
        """Pickle what names the cache; it is opened anew where it arrives."""
        return _opened, (self._store, self.identity, self.max_bytes)

    def __len__(self) -> int:
        """States held, as last read."""
        return len(self._states)

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows, as last read."""
        return self._states.num_bytes + self._images.num_bytes

    @property
    def writer(self) -> StateWriter:
        """The handle that workers write with."""
        return StateWriter(self._states.uri, self._images.uri, self._options, self.identity)

    def ids(self, inputs: Iterable[BackboneInput]) -> list[str]:
        """Names of inputs, in order."""
        return [self.identity.state_id(item) for item in inputs]

    def missing(self, inputs: Iterable[BackboneInput]) -> list[MissingState]:
        """What would have to be encoded, each once, in order; notes the use of all inputs.

        Args:
            inputs: Looked at one by one, so they need not fit into memory.
        """
        self.refresh()
        first: dict[str, MissingState] = {}
        for position, item in enumerate(inputs):
            image = item.image_bytes
            image_id = "" if image is None else self.identity.image_id(image)
            found = MissingState(position, image_id)
            first.setdefault(self.identity.state_id(item), found)
        self._uses.record(first)
        return [
            state
            for name, state in first.items()
            if name not in self._states or (state.image_id and state.image_id not in self._images)
        ]

    def refresh(self) -> None:
        """Read what other processes have changed."""
        self._images.refresh()
        self._states.refresh()

    def read(
        self, inputs: Sequence[BackboneInput], *, has_record: bool = False
    ) -> list[LayerStates | None]:
        """States of inputs, in order; None where the cache has none.

        Others may have written meanwhile: where one is not known here, the newest version is looked
        at.

        Args:
            inputs: Any number, repetitions included.
            has_record: Note the use of all of them.
        """
        names = self.ids(inputs)
        try:
            if any(name not in self._states for name in names):
                self.refresh()
            found = self._read(names)
        except IntegrityError:
            # Another process has evicted rows and dropped the version that was read here.
            found = self._read_again(names)
        except (StorageUnavailableError, ValueError) as error:
            self._warn(error)
            found = {}
        if has_record:
            self._record(names)
        return [found.get(name) for name in names]

    def _read(self, names: Sequence[str]) -> dict[str, LayerStates]:
        held = [name for name in dict.fromkeys(names) if name in self._states]
        if not held:
            return {}
        rows = self._states.take(held)
        wanted = dict.fromkeys(name for name in rows.column("image_id").to_pylist() if name)
        known = [name for name in wanted if name in self._images]
        pyramids = self._reader.pyramids(self._images.take(known)) if known else {}
        states = self._reader.states(rows, pyramids)
        found = zip(rows.column("state_id").to_pylist(), states, strict=True)
        return {name: state for name, state in found if state is not None}

    def _record(self, names: Iterable[str]) -> None:
        try:
            self._uses.record(names)
        except StorageUnavailableError as error:
            self._warn(error)

    def pyramids(self, images: Sequence[bytes]) -> dict[bytes, Tensor]:
        """Pyramids of those images that are held, float32 [E]."""
        names = {self.identity.image_id(image): image for image in images}
        known = [name for name in names if name in self._images]
        try:
            rows = self._reader.pyramids(self._images.take(known)) if known else {}
        except (IntegrityError, StorageUnavailableError, ValueError) as error:
            self._warn(error)
            return {}
        return {names[name]: pyramid_E for name, pyramid_E in rows.items()}

    def _read_again(self, names: Sequence[str]) -> dict[str, LayerStates]:
        try:
            self.refresh()
            return self._read(names)
        except (IntegrityError, StorageUnavailableError, ValueError) as error:
            self._warn(error)
            return {}

    def _warn(self, error: Exception) -> None:
        if not self._is_warned:
            self._is_warned = True
            _logger.warning(
                "the state cache cannot be read, states are computed instead: %s. If its files are "
                "damaged, delete %s; it is filled again",
                error,
                self._states.uri,
            )

    def commit(self, written: WrittenStates, *, keep: Collection[str] = ()) -> bool:
        """Make states visible, unless the budget forbids it.

        Args:
            written: From a `StateWriter`; committed twice it does no harm.
            keep: Names of states that must not leave for these.

        Returns:
            Whether they are there now.
        """
        if not self.make_room(written.num_bytes, keep=keep):
            return False
        # Images first: a state without its image would have to be computed again.
        self._images.commit([WrittenRows.from_json(written.images)])
        self._states.commit([WrittenRows.from_json(written.states)])
        return True

    def compact(self) -> None:
        """Make random reads fast, after much was written in small pieces."""
        self._images.compact()
        self._states.compact()

    def make_room(self, num_bytes: int, *, keep: Collection[str] = ()) -> bool:
        """Let the states go that were not used for the longest time, until there is room.

        Args:
            num_bytes: That will be added.
            keep: Names of states that stay in any case.

        Returns:
            Whether there is room now.
        """
        if not self.max_bytes:
            return True
        self.refresh()
        excess = self.num_bytes + num_bytes - self.max_bytes
        if excess > 0:
            self._evict(excess + int(self.max_bytes * _SPARE_FRACTION), frozenset(keep))
        return self.num_bytes + num_bytes <= self.max_bytes

    def _evict(self, num_bytes: int, keep: Collection[str]) -> None:
        names = self._states.names()
        used = self._uses.newest_first(names)
        # Rows that no record names are older than any that one does.
        unused = dict.fromkeys(names)
        for name in used:
            del unused[name]
        oldest = [*unused, *reversed(used)]
        leaving, freed = [], 0
        sizes = self._states.sizes()
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
        """Images go with the last state that asks about them."""
        needed = set(self._states.column("image_id"))
        self._images.remove([name for name in self._images.names() if name not in needed])


def _opened(store: ObjectStore, identity: StateIdentity, max_bytes: int) -> StateCache:
    return StateCache(store, identity, max_bytes=max_bytes)
