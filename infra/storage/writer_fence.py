"""Writer epochs: a new writer of a bank fences every earlier one, also one that still runs."""

import json
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import LiveEditError


class WriterFencedError(LiveEditError):
    """A newer writer has taken over; this process must stop writing."""


@dataclass(frozen=True)
class WriterFence:
    """Consecutive epochs of one bank, each claimed by creating its object exclusively."""

    _store: ObjectStore
    _bank: str

    def _key(self, epoch: int) -> str:
        return f"writers/{self._bank}/{epoch:012d}"

    def acquire(self) -> int:
        self._store.check_exclusive_create()
        keys = self._store.list(f"writers/{self._bank}/")
        epoch = int(keys[-1].rpartition("/")[2]) if keys else 0
        claim = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "acquired_at": datetime.now(UTC).isoformat(),
        }
        while True:
            epoch += 1
            if self._store.put_if_absent(self._key(epoch), json.dumps(claim).encode()):
                return epoch

    def check(self, epoch: int) -> None:
        """WriterFencedError unless this epoch was claimed and is the newest."""
        if not self._store.exists(self._key(epoch)):
            raise WriterFencedError(
                f"bank {self._bank!r}: no writer ever claimed epoch {epoch}; acquire_writer()"
            )
        if self._store.exists(self._key(epoch + 1)):
            newer = self._store.get(self._key(epoch + 1)).decode()
            raise WriterFencedError(
                f"bank {self._bank!r}: writer epoch {epoch} is fenced by a newer writer {newer}; "
                "this process must stop, the newer one repeats its uncommitted work"
            )
