"""The audit log of a registered model: every change of its champion, in order, append-only.

audit/<model>/<sequence>.json   what was decided, by whom, why, on which numbers; created once
audit/<model>/<sequence>.done   the aliases were moved

A record is created exclusively under the next sequence number, so one of two concurrent decisions
fails; MLflow's aliases, which have no compare-and-set, follow the log. A process that dies before
it moved the aliases leaves a record without `.done`, which the next process applies first.
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
    """The new champion."""
    champion_before: int
    """0 for none."""
    previous_champion: int
    """Target of a rollback from here; 0 for none."""
    who: str
    why: str
    decided_at: str
    """ISO 8601, UTC."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Metrics behind the decision."""
    evidence: Mapping[str, str] = field(default_factory=dict)
    """Sources of the metrics: results, MLflow run, bank, digests."""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


class AuditLog:
    """The records of one model; all processes that promote must use one store."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._folder = f"audit/{model}/"

    def records(self) -> list[AuditRecord]:
        """All records, oldest first."""
        keys = [key for key in self._store.list(self._folder) if key.endswith(".json")]
        records = [self._read(key) for key in keys]
        found = [record.sequence for record in records]
        if found != list(range(1, len(found) + 1)):
            raise IntegrityError(f"{self._folder}: records are missing, there are {found}")
        return records

    def append(self, record: AuditRecord) -> bool:
        """Store a record if its sequence number is free; False if another process was first."""
        key = self._key(record, "json")
        if self._store.put_if_absent(key, json.dumps(asdict(record), indent=2).encode()):
            return True
        return self._read(key).token == record.token  # created, but the answer was lost

    def is_done(self, record: AuditRecord) -> bool:
        return self._store.exists(self._key(record, "done"))

    def mark_done(self, record: AuditRecord) -> None:
        self._store.put_if_absent(self._key(record, "done"), b"{}")

    def _read(self, key: str) -> AuditRecord:
        try:
            return AuditRecord(**json.loads(self._store.get(key)))
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"{key} is not an audit record: {error!r}") from error

    def _key(self, record: AuditRecord, suffix: str) -> str:
        return f"{self._folder}{record.sequence:012d}.{suffix}"
