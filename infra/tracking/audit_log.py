"""The audit log of a registered model: every change of its champion, in order, append-only.

audit/<model>/<sequence>.json   what was decided, by whom, why, on which numbers; created once
audit/<model>/<sequence>.done   the aliases were moved

A record is created exclusively under the next sequence number, so one of two concurrent decisions
fails; MLflow's aliases, which have no compare-and-set, follow the log. A process that dies before
it moved the aliases leaves a record without `.done`, which the next process applies first.

The log, not MLflow, is trusted: a record holds the sha256 of the champion's manifest, and of the
record before it. Whoever alters or removes a record must alter all later ones; `head` is the digest
to note elsewhere against that.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from infra.storage.checksums import sha256_of
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError

Action = Literal["promotion", "rollback"]
NO_RECORD = "0" * 64
"""Stands for the record before the first."""
_CURE = "run pipelines/promotion.py, which sets it back and promotes by the gates"
_REPLACED = (
    "its manifest is not the one that the audit log names: it was replaced in MLflow. Restore it "
    "from a copy, or promote another version"
)


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
    manifest_sha256: str = ""
    """Of the new champion's manifest in MLflow; "" in records of earlier releases."""
    before_sha256: str = ""
    """Of the stored record before this one, zeros for the first; "" in records of earlier
    releases, which may only come first."""


class AuditLog:
    """The records of one model; all processes that promote must use one store."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._model = model
        self._folder = f"audit/{model}/"

    def records(self) -> list[AuditRecord]:
        """All records, oldest first."""
        return self._chain()[0]

    def head(self) -> str:
        """sha256 of the newest record; zeros when there is none."""
        return self._chain()[1]

    def _chain(self) -> tuple[list[AuditRecord], str]:
        """All records, each checked against the one before it, and the digest of the last."""
        records: list[AuditRecord] = []
        before = NO_RECORD
        for key in self._store.list(self._folder):
            if not key.endswith(".json"):
                continue
            data = self._store.get(key)
            record = _parsed(key, data)
            if record.sequence != len(records) + 1:
                raise IntegrityError(f"{key}: records are missing, there are {len(records)} before")
            is_chained = bool(records) and records[-1].before_sha256 != ""
            if (record.before_sha256 or is_chained) and record.before_sha256 != before:
                raise IntegrityError(
                    f"{key}: the record before it is not the one that this one was written after: "
                    "the audit log was altered. Compare it with a copy, and trust no champion"
                )
            records.append(record)
            before = sha256_of(data)
        return records, before

    def check(self, alias: str, version: int, manifest_sha256: str) -> None:
        """IntegrityError unless the log explains that an alias points to a version, or what a
        version is."""
        records = self.records()
        if alias in ("champion", "previous_champion"):
            self._check_alias(records, alias, version, manifest_sha256)
            return
        if manifest_digest(records, version) and manifest_sha256 not in {
            item.manifest_sha256 for item in records
        }:
            raise IntegrityError(f"{self._model} {version}: {_REPLACED}")

    def check_no_champion(self) -> None:
        """IntegrityError if the log says that there is a champion, though no alias points to it."""
        records = self.records()
        if not records:
            return
        last = records[-1]
        if self.is_done(last) or last.champion_before:
            raise IntegrityError(
                f"the alias 'champion' of {self._model} is gone, but the last audit record "
                f"({last.sequence}, by {last.who} at {last.decided_at}) says version "
                f"{last.version}: {_CURE}"
            )

    def _check_alias(
        self, records: Sequence[AuditRecord], alias: str, version: int, digest: str
    ) -> None:
        what = f"the alias {alias!r} of {self._model} points to version {version}"
        if not records:
            raise IntegrityError(
                f"{what}, but the audit log in {self._store.root_uri} has no record of a "
                f"promotion: {_CURE}. If promotions are logged elsewhere, name that store with "
                "LIVEEDIT_OPERATIONS"
            )
        last = records[-1]
        states = [(last.version, last.previous_champion)]
        if not self.is_done(last):  # its aliases are being moved
            before = records[-2].previous_champion if len(records) > 1 else 0
            states.append((last.champion_before, before))
        decided = [state[alias == "previous_champion"] for state in states]
        # A registry that was made again has other numbers, and the same manifests.
        expected = {number: manifest_digest(records, number) for number in decided}
        if not any(digest == expected[n] if expected[n] else n == version for n in decided):
            if version in decided:
                raise IntegrityError(f"{what}: {_REPLACED}")
            raise IntegrityError(
                f"{what}, which no audit record explains: the last one ({last.sequence}, by "
                f"{last.who} at {last.decided_at}) says version {decided[0]}. Somebody moved it by "
                f"other means: {_CURE}"
            )

    def append(self, record: AuditRecord) -> bool:
        """Store a record if its sequence number is free; False if another process was first."""
        key = self._key(record, "json")
        if self._store.put_if_absent(key, json.dumps(asdict(record), indent=2).encode()):
            return True
        stored = _parsed(key, self._store.get(key))
        return stored.token == record.token  # created, but the answer was lost

    def is_done(self, record: AuditRecord) -> bool:
        return self._store.exists(self._key(record, "done"))

    def mark_done(self, record: AuditRecord) -> None:
        self._store.put_if_absent(self._key(record, "done"), b"{}")

    def _key(self, record: AuditRecord, suffix: str) -> str:
        return f"{self._folder}{record.sequence:012d}.{suffix}"


def manifest_digest(records: Sequence[AuditRecord], version: int) -> str:
    """The manifest that the log names for a version; "" if it names none."""
    found = [item.manifest_sha256 for item in records if item.version == version]
    return found[-1] if found else ""


def _parsed(key: str, data: bytes) -> AuditRecord:
    try:
        return AuditRecord(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{key} is not an audit record: {error!r}") from error
