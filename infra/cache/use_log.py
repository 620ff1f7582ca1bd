"""When the rows of a cache were last used, at the price of one small object for each process.

A process keeps the set of names that it used, and overwrites its one object with it now and then.
What is lost when it is killed is the use of its last minute, which costs at most a recomputation.
"""

import time
import uuid
from collections.abc import Collection, Iterable

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError

_NAME_BYTES = 32
_MIN_PAUSE_S = 60.0
_KEPT_S = 86_400
"""A record of rows that are still on their way says nothing of those held, but soon will."""


class UseLog:
    """Objects `<prefix>/<time>-<token>`: the 32-byte names that a process used."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        """Begin with nothing used.

        Args:
            store: Where the objects live.
            prefix: Key before the last slash.
        """
        self._store = store
        self._prefix = prefix
        self._token = uuid.uuid4().hex
        self._used: set[str] = set()
        self._key = ""
        self._written_s = float("-inf")
        self._num_written = 0

    def record(self, names: Iterable[str]) -> None:
        """Note uses; written down at once the first time, then at most once a minute.

        Args:
            names: sha256 in hex.
        """
        self._used.update(names)
        is_due = time.monotonic() - self._written_s >= _MIN_PAUSE_S
        if is_due and len(self._used) > self._num_written:
            self.flush()

    def flush(self) -> None:
        """Write all uses down, in place of what this process wrote before."""
        earlier, now_us = self._key, time.time_ns() // 1000
        self._key = f"{self._prefix}/{now_us:020d}-{self._token}"
        self._store.put(self._key, b"".join(bytes.fromhex(name) for name in sorted(self._used)))
        if earlier and earlier != self._key:
            self._store.delete(earlier)
        self._written_s, self._num_written = time.monotonic(), len(self._used)

    def newest_first(self, held: Collection[str]) -> list[str]:
        """Names by their last use; old records that say nothing more about them are deleted.

        Args:
            held: Names of interest.
        """
        rest = set(held)
        ordered: list[str] = []
        for key in reversed(self._store.list(f"{self._prefix}/")):
            try:
                data = self._store.get(key)
            except IntegrityError:
                continue  # its process has just replaced it
            names = (data[i : i + _NAME_BYTES].hex() for i in range(0, len(data), _NAME_BYTES))
            known = [name for name in names if name in rest]
            ordered += known
            rest.difference_update(known)
            if not known and time.time() - _recorded_s(key) > _KEPT_S:
                self._store.delete(key)
        return ordered


def _recorded_s(key: str) -> float:
    """Seconds since 1970 at which an object was written, read off its key."""
    return int(key.rpartition("/")[2].partition("-")[0]) / 1e6
