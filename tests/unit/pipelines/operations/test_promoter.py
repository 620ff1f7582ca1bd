"""Aliases, tags and the audit log: in order, together, after crashes, with rivals."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.bank.manifest import BankManifest
from infra.storage.lease import Lease
from infra.tracking.audit_log import AuditLog
from infra.tracking.evaluation_log import EvaluationLog
from infra.tracking.model_registry import BANK_MODEL, ModelVersions, RegisteredVersion
from liveedit_core.errors import InputError, IntegrityError, TrackingError
from pipelines.operations.promoter import Decision, PromotionConflictError
from tests.unit.tiny_operations import LAX, Operations, SyntheticEvaluation, some_cases


@pytest.fixture
def versions(operations: Operations) -> list[RegisteredVersion]:
    """Three registered versions of one bank."""
    return [operations.teach(some_cases(n, n)) for n in (1, 2, 3)]


def promote(operations: Operations, version: RegisteredVersion, who: str = "anna") -> Decision:
    """Evaluate beside the champion, all right, then promote."""
    champion = operations.versions.by_alias(BANK_MODEL, "champion")
    SyntheticEvaluation(operations).record(version, champion=champion)
    promoter = operations.promoter(*LAX, who=who, why="a test")
    return promoter.promote(f"models:/{BANK_MODEL}/{version.version}")


def log_of(operations: Operations) -> AuditLog:
    return AuditLog(operations.operations_store, BANK_MODEL)


def test_a_promotion_moves_both_aliases_and_says_who_when_why(
    operations: Operations, versions: list[RegisteredVersion]
) -> None:
    assert promote(operations, versions[0]).champion_before == 0
    assert operations.alias("previous_champion") == 0
    decision = promote(operations, versions[1])
    assert decision.record is not None
    assert all(gate.passed for gate in decision.gates)
    assert (operations.alias("champion"), operations.alias("previous_champion")) == (2, 1)
    tags = operations.versions.find(f"models:/{BANK_MODEL}@champion").tags
    assert (tags["promotion.who"], tags["promotion.why"]) == ("anna", "a test")
    assert datetime.fromisoformat(tags["promotion.when"]) <= datetime.now(UTC)
    assert '"reliability.teacher_forced": 1.0' in tags["promotion.numbers"]
    connection = operations.tracker.connect()
    run_tags = connection.client.get_run(connection.run_id).data.tags
    assert run_tags["promotion.audit_sequence"] == "2"
    record = log_of(operations).records()[-1]
    assert record == decision.record
    assert record.evidence["compared_with"] == "version 1"
    assert log_of(operations).is_done(record)


def test_what_is_the_champion_already_is_left_alone(
    operations: Operations, versions: list[RegisteredVersion]
) -> None:
    promote(operations, versions[0])
    decision = promote(operations, versions[0])
    assert (decision.record, decision.refusals) == (None, ())
    assert len(log_of(operations).records()) == 1


def test_the_newest_version_is_meant_when_none_is_named(
    operations: Operations, versions: list[RegisteredVersion]
) -> None:
    SyntheticEvaluation(operations).record(versions[-1])
    assert operations.promoter(*LAX).promote().version == versions[-1].version
    with pytest.raises(InputError, match="versions there: 1, 2, 3"):
        operations.promoter(*LAX).promote(f"models:/{BANK_MODEL}/9")


def test_a_refusal_names_every_gate_and_changes_nothing(
    operations: Operations, versions: list[RegisteredVersion]
) -> None:
    promote(operations, versions[0])
    old = datetime.now(UTC) - timedelta(days=3)
    wrong = SyntheticEvaluation(operations, evaluated_at=old)
    wrong.record(versions[1], (0.0,) * 12, champion=versions[0])
    decision = operations.promoter(*LAX, "thresholds.reliability=0.9").promote(
        f"models:/{BANK_MODEL}/{versions[1].version}"
    )
    assert [refusal.split(":")[0] for refusal in decision.refusals] == [
        "freshness",
        "thresholds",
        "no_regression",
    ]
    assert operations.alias("champion") == versions[0].version
    assert len(log_of(operations).records()) == 1


def test_results_that_are_missing_are_noticed(
    operations: Operations, versions: list[RegisteredVersion]
) -> None:
    record = SyntheticEvaluation(operations).record(versions[0])
    wanted = replace(record, newest=replace(record.newest, num_results=30))
    EvaluationLog(operations.operations_store, BANK_MODEL).add(wanted)
    decision = operations.promoter(*LAX).promote(f"models:/{BANK_MODEL}/1")
    assert "evaluation_complete: 6 results are missing: run the evaluation again" in (
        decision.refusals
    )


def test_a_damaged_shard_stops_promotion_and_rollback(
    operations: Operations, versions: list[RegisteredVersion]
) -> None:
    promote(operations, versions[0])
    promote(operations, versions[1])
    (key,) = operations.bank.file_keys(int(versions[0].tags["bank_version"]))
    shard = Path(operations.store.table_uri(key))  # of the first window, so of every version
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    decision = promote(operations, versions[2])
    (refusal,) = decision.refusals
    assert f"shards: banks/main/data/{shard.name} is altered" in refusal
    with pytest.raises(IntegrityError, match=f"liveedit-bank 1 is damaged.*{shard.name}"):
        operations.promoter().roll_back()
    assert operations.alias("champion") == versions[1].version


def test_rollbacks_walk_back_and_stop_at_the_first_champion(
    operations: Operations, versions: list[RegisteredVersion]
) -> None:
    for version in versions:
        promote(operations, version)
    seen = []
    for _ in versions[1:]:
        decision = operations.promoter(who="boris").roll_back()
        assert decision.record is not None
        seen.append((decision.champion_before, decision.version))
    assert seen == [(3, 2), (2, 1)]
    assert (operations.alias("champion"), operations.alias("previous_champion")) == (1, 0)
    assert operations.promoter().roll_back().refusals == (
        "rollback: there is no previous champion",
    )
    actions = [record.action for record in log_of(operations).records()]
    assert actions == ["promotion"] * 3 + ["rollback"] * 2


def test_while_another_process_promotes_this_one_says_so(
    operations: Operations, versions: list[RegisteredVersion]
) -> None:
    Lease(operations.operations_store, f"promotion/{BANK_MODEL}", term_s=60.0).acquire()
    with pytest.raises(PromotionConflictError, match=r"process \d+ on .* is changing the champion"):
        promote(operations, versions[0])
    assert operations.alias("champion") == 0


def test_of_two_that_decided_on_one_state_the_first_wins(
    operations: Operations, versions: list[RegisteredVersion]
) -> None:
    """The second one's lease had run out without its noticing: the record's number decides."""
    evaluation = SyntheticEvaluation(operations)
    first, second = evaluation.record(versions[0]), evaluation.record(versions[1])
    rival = operations.promoter(*LAX, who="boris")
    slow = operations.promoter(*LAX, who="anna")
    log = log_of(operations)

    class RivalFirst(ModelVersions):
        """Lets the rival decide while this process looks at the files."""

        def manifest(self, version: RegisteredVersion) -> BankManifest:
            if not log.records():
                for key in operations.operations_store.list("leases/"):
                    operations.operations_store.delete(key)
                assert rival.promote(f"models:/{BANK_MODEL}/{second.newest.version}").record
            return super().manifest(version)

    slow = replace(slow, versions=RivalFirst(operations.versions.tracking_uri))
    with pytest.raises(PromotionConflictError, match="boris was first: promotion of version 2"):
        slow.promote(f"models:/{BANK_MODEL}/{first.newest.version}")
    assert operations.alias("champion") == second.newest.version
    assert [record.who for record in log.records()] == ["boris"]


@pytest.mark.parametrize("num_calls", [0, 1, 2, 3])
def test_what_a_killed_promotion_left_is_finished_by_the_next_call(
    operations: Operations, versions: list[RegisteredVersion], num_calls: int
) -> None:
    promote(operations, versions[0])
    SyntheticEvaluation(operations).record(versions[1], champion=versions[0])

    class DyingVersions(ModelVersions):
        """Lets some writes through, then is gone."""

        num_left = num_calls

        def _count(self) -> None:
            if self.num_left == 0:
                raise TrackingError("the connection is gone")
            self.num_left -= 1

        def set_alias(self, name: str, alias: str, version: int) -> None:
            self._count()
            super().set_alias(name, alias, version)

        def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
            self._count()
            super().set_tags(name, version, tags)

        def set_run_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
            self._count()
            super().set_run_tags(run_id, tags)

    dying = operations.promoter(*LAX, who="anna")
    dying = replace(dying, versions=DyingVersions(operations.versions.tracking_uri))
    with pytest.raises(TrackingError, match="connection is gone"):
        dying.promote(f"models:/{BANK_MODEL}/{versions[1].version}")
    last = log_of(operations).records()[-1]
    assert (last.version, log_of(operations).is_done(last)) == (versions[1].version, False)

    decision = operations.promoter(*LAX).promote(f"models:/{BANK_MODEL}/{versions[1].version}")
    assert (decision.record, decision.refusals) == (None, ())
    assert (operations.alias("champion"), operations.alias("previous_champion")) == (2, 1)
    assert log_of(operations).is_done(last)
    tags = operations.versions.find(f"models:/{BANK_MODEL}/2").tags
    assert (tags["promotion.who"], tags["promotion.audit_sequence"]) == ("anna", "2")
