"""A lease: one process at a time does a piece of work, and a dead one blocks it only for a while.

leases/<name>/<epoch>     who holds it, until when; each epoch is created exclusively, once

The holder writes its own epoch again to stay; another process may create the next epoch once the
newest one has expired, was released, or belongs to a dead process of the same machine. A holder
that finds a newer epoch, or comes too late to renew, has lost the lease and must stop. Machines are
expected to agree on the time to well within the lease's length. Two processes may still overlap for
a moment (one sleeps through its expiry), so the work under a lease must be safe to do twice; the
lease saves the double work, it does not guard the data.
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
    """An epoch of a lease."""

    token: str
    """Of the process that claimed it."""
    host: str
    pid: int
    machine: str
    """Names the running kernel and its process numbers; "" where that cannot be told."""
    expires_at: float
    """Seconds since 1970; 0 once it was given back."""

    @property
    def holder(self) -> str:
        """Who holds it, for people."""
        return f"process {self.pid} on {self.host}"

    def is_over(self, now_s: float) -> bool:
        """Whether another process may take the lease."""
        return now_s >= self.expires_at or self._is_of_dead_process()

    def _is_of_dead_process(self) -> bool:
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


class Lease:
    """One process's side of a lease."""

    def __init__(
        self,
        store: ObjectStore,
        name: str,
        *,
        term_s: float,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """Name the lease; nothing is claimed yet.

        Args:
            store: Where it lives.
            name: What it is about; the same name is the same lease.
            term_s: How long it lasts without being renewed.
            now_s: Seconds since 1970.
        """
        self._store = store
        self._name = name
        self._term_s = term_s
        self._now_s = now_s
        self._token = uuid.uuid4().hex
        self._epoch = 0
        self._expires_at = 0.0

    def acquire(self) -> LeaseClaim | None:
        """Claim the lease, without waiting.

        Returns:
            None when it is held now; otherwise the claim of the other process that holds it.

        Raises:
            StorageUnavailableError: The store does not answer.
        """
        while True:
            newest, claim = self._newest()
            if claim is not None and not claim.is_over(self._now_s()):
                return claim
            expires_at = self._now_s() + self._term_s
            epoch = newest + 1
            if self._store.put_if_absent(self._key(epoch), self._claim(expires_at)) or (
                self._read(epoch).token == self._token  # created, but the answer was lost
            ):
                self._epoch, self._expires_at = epoch, expires_at
                return None

    def renew(self) -> None:
        """Stay for another term.

        Raises:
            LeaseLostError: It expired, or another process has it.
            StorageUnavailableError: The store does not answer.
        """
        if self._now_s() >= self._expires_at:
            raise LeaseLostError(
                f"lease {self._name!r} expired before it was renewed; this process must stop, "
                "the same command goes on"
            )
        self.check()
        expires_at = self._now_s() + self._term_s
        self._store.put(self._key(self._epoch), self._claim(expires_at))
        self.check()
        self._expires_at = expires_at

    def check(self) -> None:
        """Fail when another process has taken the lease.

        Raises:
            LeaseLostError: It has.
        """
        if self._store.exists(self._key(self._epoch + 1)):
            holder = self._read(self._epoch + 1).holder
            raise LeaseLostError(f"lease {self._name!r} was taken over by {holder}")

    def release(self) -> None:
        """Give it back, so that the next process need not wait for the end of the term."""
        self._store.put(self._key(self._epoch), self._claim(0.0))

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Renew beside the work, and give the lease back at the end, also after an error.

        A lease that is lost on the way shows at the next `check` or `renew` of the work itself.
        """
        is_over = threading.Event()

        def renew_now_and_then() -> None:
            while not is_over.wait(self._term_s / _RENEWALS_PER_TERM):
                try:
                    self.renew()
                except StorageUnavailableError:
                    continue  # there is time for another try before the term ends
                except LiveEditError:
                    return

        thread = threading.Thread(target=renew_now_and_then, name="lease", daemon=True)
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
            raise IntegrityError(f"{self._key(epoch)} is no lease: {error!r}") from error

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
    """The boot of the kernel and the space of process numbers: within both, a pid is unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
