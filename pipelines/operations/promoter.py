"""Moves the alias `champion`, one process at a time, with an audit record of every move.

    take the lease -> apply an unfinished record -> check the gates -> write the audit record
                   -> previous_champion, champion, tags -> mark the record done

The audit record is created exclusively under the next sequence number, so that even two processes
that both believe they hold the lease cannot both decide on the same state. MLflow's aliases follow
the log; a record that a dead process left unfinished is applied by the next call.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from infra.storage.checksums import sha256_of
from infra.storage.lease import Lease
from infra.storage.object_store import ObjectStore
from infra.tracking.audit_log import Action, AuditLog, AuditRecord, manifest_digest
from infra.tracking.model_registry import BANK_MODEL, ModelVersions, RegisteredVersion
from liveedit_core.errors import InputError, IntegrityError, LiveEditError
from pipelines.job.registered_models import newest_version
from pipelines.operations.audited import CHAMPION, PREVIOUS_CHAMPION, AuditedVersions
from pipelines.operations.evidence import gather_evidence
from pipelines.operations.gates import Evidence, GateResult, all_gates
from pipelines.operations.recipe import PromotionRecipe


class PromotionConflictError(LiveEditError):
    """Another process promotes or rolls back at the same time, and was first."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The result of a promotion or rollback."""

    version: int
    """The new champion, or the version that was refused."""
    champion_before: int
    """0 for none."""
    gates: tuple[GateResult, ...] = ()
    refusals: tuple[str, ...] = ()
    """Why nothing was changed; empty on success, or if nothing had to change."""
    record: AuditRecord | None = None
    """None if nothing was changed."""


@dataclass(frozen=True, kw_only=True)
class Promoter:
    """Promotes and rolls back bank versions of one registry."""

    recipe: PromotionRecipe
    versions: ModelVersions
    who: str
    why: str
    say: Callable[[str], None] = field(default=lambda text: None)

    def promote(self, uri: str = "") -> Decision:
        """Make `models:/liveedit-bank/7`, or the newest version, champion if it passes every gate.
        When MLflow fails after the decision, the next call applies it."""
        with self._lease():
            records = self._finished_records()
            candidate = self._candidate(uri)
            champion = self._alias(CHAMPION)
            if candidate.version == champion:
                return Decision(version=champion, champion_before=champion)
            evidence = gather_evidence(
                self.recipe,
                store=self._store,
                versions=self.versions,
                candidate=candidate,
                champion=champion,
                now=datetime.now(UTC),
            )
            gates = all_gates(evidence, self.recipe.gates, self.recipe.thresholds)
            refusals = tuple(f"{gate.name}: {gate.reason}" for gate in gates if not gate.passed)
            decision = Decision(
                version=candidate.version, champion_before=champion, gates=gates, refusals=refusals
            )
            if refusals:
                return decision
            record = self._record("promotion", records, candidate.version, champion, evidence)
            self._decide(record)
            return replace(decision, record=record)

    def roll_back(self) -> Decision:
        """Make the previous champion the champion again; its files are verified first."""
        with self._lease():
            records = self._finished_records()
            champion, previous = self._alias(CHAMPION), self._alias(PREVIOUS_CHAMPION)
            if not previous:
                refusal = "rollback: there is no previous champion"
                return Decision(version=champion, champion_before=champion, refusals=(refusal,))
            target = self.versions.find(f"models:/{BANK_MODEL}/{previous}")
            manifest = self._audited.manifest(target, PREVIOUS_CHAMPION)
            manifest.verified_bank(f"{BANK_MODEL} {previous}")
            record = self._record("rollback", records, previous, champion, None)
            self._decide(record)
            return Decision(version=previous, champion_before=champion, record=record)

    @property
    def _store(self) -> ObjectStore:
        return ObjectStore(self.recipe.store_uri)

    @property
    def _audited(self) -> AuditedVersions:
        return AuditedVersions(self.versions, self._store)

    @property
    def _log(self) -> AuditLog:
        return AuditLog(self._store, BANK_MODEL)

    @contextlib.contextmanager
    def _lease(self) -> Iterator[None]:
        self._store.check_exclusive_create()
        lease = Lease(self._store, f"promotion/{BANK_MODEL}", term_s=self.recipe.lease.term_s)
        other = lease.acquire()
        if other is not None:
            raise PromotionConflictError(
                f"{other.holder} is changing the champion of {BANK_MODEL} right now; look at what "
                "it decided, then try again"
            )
        with lease.kept():
            yield

    def _finished_records(self) -> list[AuditRecord]:
        """All records, after the last one was applied."""
        records = self._log.records()
        if records and not self._log.is_done(records[-1]):
            last = records[-1]
            self.say(
                f"finishing the interrupted {last.action} of version {last.version} by {last.who}"
            )
            self._apply(last)
        elif records:
            self._set_back(records[-1])
        return records

    def _set_back(self, last: AuditRecord) -> None:
        """Let the aliases follow the log again, which alone is trusted."""
        if problem := self._problem_of(CHAMPION, last.version):
            self.say(f"{problem}. It is set back to version {last.version}")
            self._apply(last)
        if problem := self._problem_of(PREVIOUS_CHAMPION, last.previous_champion):
            self.say(f"{problem}. It is set back to version {last.previous_champion or 'none'}")
            number = self._number_of(last.previous_champion)
            self.versions.set_alias(BANK_MODEL, PREVIOUS_CHAMPION, number)

    def _problem_of(self, alias: str, decided: int) -> str:
        """Why an alias does not point to the version that the log names; "" if it may."""
        found = self.versions.by_alias(BANK_MODEL, alias)
        if found is None:
            is_gone = alias == CHAMPION and decided > 0
            return f"the alias {alias!r} of {BANK_MODEL} is gone" if is_gone else ""
        if found.version == decided:
            return ""  # whoever opens it compares its manifest
        try:
            self._audited.manifest(found, alias)
        except IntegrityError as error:
            return error.message
        return ""

    def _candidate(self, uri: str) -> RegisteredVersion:
        found = self.versions.find(uri) if uri else newest_version(self.versions)
        if found.name != BANK_MODEL:
            raise InputError(f"only versions of {BANK_MODEL} can be promoted, got {uri!r}")
        return found

    def _alias(self, alias: str) -> int:
        found = self.versions.by_alias(BANK_MODEL, alias)
        return found.version if found else 0

    def _record(
        self,
        action: Action,
        records: list[AuditRecord],
        version: int,
        champion: int,
        evidence: Evidence | None,
    ) -> AuditRecord:
        previous = champion if action == "promotion" else _replaced_by(version, records)
        target = self.versions.find(f"models:/{BANK_MODEL}/{version}")
        return AuditRecord(
            sequence=len(records) + 1,
            action=action,
            version=version,
            champion_before=champion,
            previous_champion=previous,
            who=self.who,
            why=self.why,
            decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
            numbers=evidence.numbers if evidence else {},
            evidence=evidence.sources if evidence else {},
            manifest_sha256=sha256_of(self.versions.manifest_text(target).encode()),
            before_sha256=self._log.head(),
        )

    def _decide(self, record: AuditRecord) -> None:
        if not self._log.append(record):
            first = self._log.records()[record.sequence - 1]
            raise PromotionConflictError(
                f"{first.who} was first: {first.action} of version {first.version} at "
                f"{first.decided_at}. This call changed nothing; look at that decision, then try "
                "again"
            )
        self._apply(record)

    def _apply(self, record: AuditRecord) -> None:
        """Make aliases and tags follow the newest record; safe to repeat."""
        while True:
            champion = self._number_of(record.version)
            if not champion:
                raise IntegrityError(
                    f"version {record.version} of {BANK_MODEL}, the champion by audit record "
                    f"{record.sequence}, is not in MLflow ({self.versions.tracking_uri}): restore "
                    "its database, or run the job of its bank again, which registers the newest "
                    f"version; to begin without a champion, move audit/{BANK_MODEL} of the "
                    "operations store away"
                )
            previous = self._number_of(record.previous_champion)
            if previous or self._alias(PREVIOUS_CHAMPION):
                self.versions.set_alias(BANK_MODEL, PREVIOUS_CHAMPION, previous)
            self.versions.set_alias(BANK_MODEL, CHAMPION, champion)
            self._tag(record, champion)
            self._log.mark_done(record)
            # A process whose lease expired unnoticed must not leave an older state behind.
            newest = self._log.records()[-1]
            if newest.sequence == record.sequence:
                return
            record = newest

    def _number_of(self, version: int) -> int:
        """The number in MLflow of a version that the log names: another one in a registry that was
        made again; 0 if it is not there."""
        digest = manifest_digest(self._log.records(), version)
        known = sorted(self.versions.all(BANK_MODEL), key=lambda item: item.version != version)
        if not version or not digest:
            return version if any(item.version == version for item in known) else 0
        for item in known:
            if sha256_of(self.versions.manifest_text(item).encode()) == digest:
                return item.version
        return 0

    def _tag(self, record: AuditRecord, number: int) -> None:
        tags = {
            f"{record.action}.who": record.who,
            f"{record.action}.why": record.why,
            f"{record.action}.when": record.decided_at,
            f"{record.action}.audit_sequence": str(record.sequence),
            f"{record.action}.champion_before": str(record.champion_before),
        }
        if record.numbers:
            rounded = {name: round(value, 6) for name, value in sorted(record.numbers.items())}
            tags[f"{record.action}.numbers"] = json.dumps(rounded)
        self.versions.set_tags(BANK_MODEL, number, tags)
        run_id = record.evidence.get("mlflow_run_id", "")
        if run_id:
            self.versions.set_run_tags(run_id, tags)


def _replaced_by(version: int, records: list[AuditRecord]) -> int:
    """The champion that a version replaced when it was promoted; 0 if the log has no record."""
    for record in reversed(records):
        if record.version == version:
            return record.previous_champion
    return 0


def print_decision(decision: Decision) -> int:
    """Print what was decided; returns the exit code."""
    for gate in decision.gates:
        print(f"{'passed' if gate.passed else 'FAILED'}  {gate.name}: {gate.reason}")
    if decision.refusals:
        what = "was not promoted" if decision.gates else "stays the champion"
        if decision.version:
            print(f"refused: version {decision.version} {what}", file=sys.stderr)
        for refusal in decision.refusals:
            print(f"refused: {refusal}", file=sys.stderr)
        return 2
    if decision.record is None:
        print(f"version {decision.version} is the champion already, nothing to do")
        return 0
    before = f"version {decision.champion_before}" if decision.champion_before else "none"
    print(
        f"{decision.record.action}: version {decision.version} is the champion now, before: "
        f"{before}; audit record {decision.record.sequence}"
    )
    return 0
