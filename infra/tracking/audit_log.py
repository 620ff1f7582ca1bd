"""The audit log of a registered model: every change of its champion, in order, for ever.

audit/<model>/<sequence>.json   what was decided, by whom, why, on which numbers; created once
audit/<model>/<sequence>.done   the aliases show it

A record is created exclusively under the next number, so of two processes that decided on the same
state one wins and the other learns it. MLflow's aliases know no such comparison; the log decides,
the aliases follow. The record is the intent: a process that dies before the aliases have moved
leaves a record without `.done`, which the next process carries out first.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError

Action = Literal["promotion", "rollback"]


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """One change of a champion."""

    sequence: int
    """1 for the first change of the model."""
    action: Action
    version: int
    """The champion from now on."""
    champion_before: int
    """0 for none."""
    previous_champion: int
    """Where a rollback from here leads; 0 for nowhere."""
    who: str
    why: str
    decided_at: str
    """ISO 8601, UTC."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Metrics that decided."""
    evidence: Mapping[str, str] = field(default_factory=dict)
    """Where they come from: results, MLflow run, bank, digests."""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tells this record from any other."""


class AuditLog:
    """Append-only records of one model."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        """Name the log; nothing is read yet.

        Args:
            store: Where it lives: one store for all processes that promote.
            model: Registered model, "liveedit-bank".
        """
        self._store = store
        self._folder = f"audit/{model}/"

    def records(self) -> list[AuditRecord]:
        """All records, oldest first.

        Raises:
            IntegrityError: One is missing or unreadable.
        """
        keys = [key for key in self._store.list(self._folder) if key.endswith(".json")]
        records = [self._read(key) for key in keys]
        found = [record.sequence for record in records]
        if found != list(range(1, len(found) + 1)):
            raise IntegrityError(f"{self._folder}: records are missing, there are {found}")
        return records

    def append(self, record: AuditRecord) -> bool:
        """Write a record, if its number is still free.

        Returns:
            Whether it was; otherwise another process decided first.

        Raises:
            StorageUnavailableError: The store does not answer.
        """
        key = self._key(record.sequence)
        if self._store.put_if_absent(key, json.dumps(asdict(record), indent=2).encode()):
            return True
        return self._read(key).token == record.token  # created, but the answer was lost

    def is_done(self, record: AuditRecord) -> bool:
        """Whether the aliases were moved."""
        return self._store.exists(self._done_key(record.sequence))

    def mark_done(self, record: AuditRecord) -> None:
        """Note that the aliases show the record."""
        self._store.put_if_absent(self._done_key(record.sequence), b"{}")

    def _read(self, key: str) -> AuditRecord:
        try:
            return AuditRecord(**json.loads(self._store.get(key)))
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"{key} is no audit record: {error!r}") from error

    def _key(self, sequence: int) -> str:
        return f"{self._folder}{sequence:012d}.json"

    def _done_key(self, sequence: int) -> str:
        return f"{self._folder}{sequence:012d}.done"
