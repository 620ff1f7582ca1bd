"""A `StateSource` that reads states from the cache where it can and computes the others."""

import logging
import time
from collections.abc import Sequence

import torch

from infra.cache.state_cache import StateCache
from infra.cache.state_rows import rounded
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.devices import CPU, moved
from liveedit_core.errors import IntegrityError, StorageUnavailableError
from liveedit_core.state_source import StateSource
from liveedit_core.states import LayerStates

WRITE_AT_ONCE = 64
"""States per commit, where they are computed a few at a time."""
_WRITE_AFTER_S = 10.0

_logger = logging.getLogger(__name__)


class CachedStates:
    """Reads states from a cache; the others come from another source.

    Computed states are rounded to the dtype of the cache too, so an eviction changes no result. All
    are on `device`.
    """

    def __init__(
        self,
        cache: StateCache,
        source: StateSource | None,
        *,
        is_filling: bool = False,
        write_at_once: int = WRITE_AT_ONCE,
        device: torch.device = CPU,
    ) -> None:
        """`source` is None where nothing can be computed.

        `is_filling` writes computed states into the cache, `write_at_once` or more at a time, and
        records the use of all states.
        """
        self._cache = cache
        self._source = source
        self._is_filling = is_filling
        self._write_at_once = write_at_once
        self._device = device
        self._unwritten: dict[BackboneInput, LayerStates] = {}
        self._written_s = time.monotonic()

    def states(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """See `StateSource.states`; IntegrityError when a state is missing and has no source."""
        found = self._cache.read(inputs, has_record=self._is_filling)
        found = moved(found, self._device)
        states = {item: state for item, state in zip(inputs, found, strict=True) if state}
        states |= {item: self._unwritten[item] for item in inputs if item in self._unwritten}
        missing = [item for item in dict.fromkeys(inputs) if item not in states]
        computed = self._computed(missing)
        states |= computed
        if self._is_filling and computed:
            self._unwritten |= computed
            is_due = time.monotonic() - self._written_s > _WRITE_AFTER_S
            if is_due or len(self._unwritten) >= self._write_at_once:
                self.flush()
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
        computed = moved(self._source.states(inputs), self._device)
        states = [rounded(state, dtype) for state in computed]
        return dict(zip(inputs, states, strict=True))

    def flush(self) -> None:
        """Write computed states; an outage of the store only costs time later."""
        pairs, self._unwritten = self._unwritten, {}
        self._written_s = time.monotonic()
        if not pairs:
            return
        try:
            written = self._cache.writer.write(list(pairs), list(pairs.values()))
            self._cache.commit(written)
        except (IntegrityError, StorageUnavailableError) as error:
            _logger.warning("states were not written to the cache: %s", error)
