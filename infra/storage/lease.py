"""A lease: one process at a time does a piece of work; the lease of a dead process expires.

leases/<name>/<epoch>     who holds it, until when; each epoch is created exclusively, once

The holder renews by writing its own epoch again. Another process may create the next epoch once the
newest one has expired, was released, or belongs to a dead process of the same machine. A holder
that finds a newer epoch, or renews too late, must stop. Clocks must agree to well within the term.
A lease avoids double work but does not protect data: a process that sleeps through its expiry may
overlap with the next one, so the work must be safe to do twice.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError, LiveEditError, StorageUnavailableError

_RENEWALS_PER_TERM = 4


class LeaseLostError(LiveEditError):
    """Another process holds the lease now; this one must stop."""


@dataclass(frozen=True, kw_only=True)
class LeaseClaim:
    token: str
    host: str
    pid: int
    machine: str
    """Identifies the running kernel and its pid namespace; "" where that is unknown."""
    expires_at: float
    """Seconds since 1970; 0 once it was released."""

    @property
    def holder(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_over(self, now_s: float) -> bool:
        return now_s >= self.expires_at or self._is_of_dead_process()

    def _is_of_dead_process(self) -> bool:
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


class Lease:
    """One process's side of a lease, which lasts `term_s` without a renewal."""

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        *,
        term_s: float,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._name = name
        self._term_s = term_s
        self._now_s = now_s
        self._token = uuid.uuid4().hex
        self._epoch = 0
        self._expires_at = 0.0

    def acquire(self) -> LeaseClaim | None:
        """Claim the lease without waiting; returns None, or the claim of another process."""
        while True:
            newest, claim = self._newest()
            if claim is not None and not claim.is_over(self._now_s()):
                return claim
            expires_at = self._now_s() + self._term_s
            epoch = newest + 1
            if self._store.put_if_absent(self._key(epoch), self._claim(expires_at)) or (
                self._read(epoch).token == self._token  # created, but the response was lost
            ):
                self._epoch, self._expires_at = epoch, expires_at
                return None

    def renew(self) -> None:
        """Extend the lease by another term; LeaseLostError when it has expired or was taken."""
        if self._now_s() >= self._expires_at:
            raise LeaseLostError(
                f"lease {self._name!r} expired before it was renewed; this process must stop, "
                "run the same command again to resume"
            )
        self.check()
        expires_at = self._now_s() + self._term_s
        self._store.put(self._key(self._epoch), self._claim(expires_at))
        self.check()
        self._expires_at = expires_at

    def check(self) -> None:
        """LeaseLostError when another process has taken the lease."""
        if self._store.exists(self._key(self._epoch + 1)):
            holder = self._read(self._epoch + 1).holder
            raise LeaseLostError(f"lease {self._name!r} was taken over by {holder}")

    def release(self) -> None:
        self._store.put(self._key(self._epoch), self._claim(0.0))

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Renew in a thread during the work, and release the lease at the end, also after an error.

        A lost lease shows at the next `check` or `renew` of the work itself.
        """
        is_over = threading.Event()

        def renew_regularly() -> None:
            while not is_over.wait(self._term_s / _RENEWALS_PER_TERM):
                try:
                    self.renew()
                except StorageUnavailableError:
                    continue  # retried before the term ends
                except LiveEditError:
                    return

        thread = threading.Thread(target=renew_regularly, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            with contextlib.suppress(StorageUnavailableError):
                self.release()

    def _newest(self) -> tuple[int, LeaseClaim | None]:
        keys = self._store.list(f"leases/{self._name}/")
        if not keys:
            return 0, None
        epoch = int(keys[-1].rpartition("/")[2])
        return epoch, self._read(epoch)

    def _read(self, epoch: int) -> LeaseClaim:
        try:
            return LeaseClaim(**json.loads(self._store.get(self._key(epoch))))
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"{self._key(epoch)} is not a valid lease: {error!r}") from error

    def _claim(self, expires_at: float) -> bytes:
        claim = LeaseClaim(
            token=self._token,
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            expires_at=expires_at,
        )
        return json.dumps(asdict(claim)).encode()

    def _key(self, epoch: int) -> str:
        return f"leases/{self._name}/{epoch:012d}"


def _machine() -> str:
    """Kernel boot and pid namespace: within both, a pid is unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
