"""A `StateSource` that remembers: from the cache where it can, computed where it must."""

import logging
import time
from collections.abc import Sequence

from infra.cache.state_cache import StateCache
from infra.cache.state_rows import at_rest
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import IntegrityError, StorageUnavailableError
from liveedit_core.state_source import StateSource
from liveedit_core.states import LayerStates

WRITE_AT_ONCE = 64
"""States that are worth a commit, where they come a few at a time."""
_WRITE_AFTER_S = 10.0

_logger = logging.getLogger(__name__)


class CachedStates:
    """Reads states of a cache; those that are not there come from another source.

    Every state is rounded to the number format of the cache, read or computed, so that an eviction
    does not change what a job computes.
    """

    def __init__(
        self,
        cache: StateCache,
        source: StateSource | None,
        *,
        is_filling: bool = False,
        write_at_once: int = WRITE_AT_ONCE,
    ) -> None:
        """Put a cache before a source.

        Args:
            cache: Read without telling when it fails: it only saves time.
            source: Computes what the cache does not hold; None where nothing can be computed.
            is_filling: Write what was computed into the cache, and note what was used. A job whose
                states are filled beforehand leaves both out.
            write_at_once: So many computed states are written at once; the last few are lost when
                the process ends. 1 writes those of every call.
        """
        self._cache = cache
        self._source = source
        self._is_filling = is_filling
        self._write_at_once = write_at_once
        self._unwritten: dict[BackboneInput, LayerStates] = {}
        self._written_s = time.monotonic()

    def states(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """See `StateSource.states`.

        Raises:
            IntegrityError: A state is not in the cache and there is no other source.
        """
        found = self._cache.read(inputs, has_record=self._is_filling)
        states = {item: state for item, state in zip(inputs, found, strict=True) if state}
        states |= {item: self._unwritten[item] for item in inputs if item in self._unwritten}
        lost = [item for item in dict.fromkeys(inputs) if item not in states]
        computed = self._computed(lost)
        states |= computed
        if self._is_filling and computed:
            self._unwritten |= computed
            self._write_some()
        return [states[item] for item in inputs]

    def _computed(self, inputs: Sequence[BackboneInput]) -> dict[BackboneInput, LayerStates]:
        if not inputs:
            return {}
        if self._source is None:
            raise IntegrityError(
                f"{len(inputs)} states are not in the cache, the first that of prompt "
                f"{inputs[0].prompt[:60]!r}; encode them first"
            )
        dtype = self._cache.identity.dtype
        states = [at_rest(state, dtype) for state in self._source.states(inputs)]
        return dict(zip(inputs, states, strict=True))

    def _write_some(self) -> None:
        is_late = time.monotonic() - self._written_s > _WRITE_AFTER_S
        if len(self._unwritten) >= self._write_at_once or is_late:
            self.flush()

    def flush(self) -> None:
        """Write what was computed; a store that is away now only costs time later."""
        pairs, self._unwritten = self._unwritten, {}
        self._written_s = time.monotonic()
        if not pairs:
            return
        try:
            written = self._cache.writer.write(list(pairs), list(pairs.values()))
            self._cache.commit(written)
        except (IntegrityError, StorageUnavailableError) as error:
            _logger.warning("states were not written to the cache: %s", error)
