"""Whoever opens a champion compares it with the audit log: nightly runs, promotions, rollbacks."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from infra.tracking.model_registry import BANK_MODEL
from liveedit_core.errors import IntegrityError
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.recipe_loader import load_recipe
from pipelines.operations.promote_at_end import promote_at_end
from pipelines.operations.promoter import print_decision
from tests.unit.tiny_operations import LAX, Operations, SyntheticEvaluation, some_cases

CASES = some_cases(1, 6)


def replace_manifest(operations: Operations, version: int) -> None:
    """As somebody with access to MLflow may."""
    found = operations.versions.find(f"models:/{BANK_MODEL}/{version}")
    (path,) = operations.root.glob(f"mlflow_artifacts/**/{found.model_id}/**/manifest.json")
    path.write_text(path.read_text() + " ")


@pytest.fixture
def taught(operations: Operations) -> Operations:
    """Three versions, of which the second is the champion after the first."""
    versions = [operations.teach([case]) for case in CASES[:3]]
    for version in versions[:2]:
        champion = operations.versions.by_alias(BANK_MODEL, "champion")
        SyntheticEvaluation(operations).record(version, champion=champion)
        promoter = operations.promoter(*LAX)
        assert promoter.promote(f"models:/{BANK_MODEL}/{version.version}").record is not None
    return operations


def test_a_nightly_run_against_a_champion_that_nobody_promoted_is_refused(
    taught: Operations,
) -> None:
    taught.versions.set_alias(BANK_MODEL, "champion", 1)
    with pytest.raises(IntegrityError, match="no audit record explains"):
        taught.nightly("moved", CASES)
    taught.versions.set_alias(BANK_MODEL, "champion", 3)  # would be compared with itself
    with pytest.raises(IntegrityError, match="no audit record explains"):
        taught.nightly("itself", CASES)


def test_a_champion_whose_alias_was_deleted_is_not_taken_for_none(taught: Operations) -> None:
    taught.versions.set_alias(BANK_MODEL, "champion", 0)
    with pytest.raises(IntegrityError, match="'champion' of liveedit-bank is gone"):
        taught.nightly("gone", CASES)
    said: list[str] = []
    promoter = replace(taught.promoter(*LAX), say=said.append)
    assert promoter.promote(f"models:/{BANK_MODEL}/2").record is None
    assert taught.alias("champion") == 2
    assert "is gone" in said[0]


def test_a_champion_is_found_by_its_manifest_in_a_registry_that_was_made_again(
    taught: Operations,
) -> None:
    champion, previous = (
        int(taught.versions.find(f"models:/{BANK_MODEL}/{number}").tags["bank_version"])
        for number in (2, 1)
    )
    taught.tracker.connect().client.delete_registered_model(BANK_MODEL)
    with pytest.raises(IntegrityError, match="is not in MLflow"):
        taught.promoter(*LAX).roll_back()
    for bank_version in (taught.bank.version, champion, previous):  # other numbers than before
        taught.registry.register_bank_version(taught.bank, bank_version)
    assert taught.promoter(*LAX).promote(f"models:/{BANK_MODEL}/2").record is None
    assert (taught.alias("champion"), taught.alias("previous_champion")) == (2, 3)


def test_a_nightly_run_opens_no_replaced_manifest(taught: Operations) -> None:
    assert (
        replace(taught.make_nightly("first"), should_stop=lambda: True).run(lambda: CASES).outcome
        is None
    )
    replace_manifest(taught, 2)
    for label in ("first", "second"):  # begun before, and anew
        with pytest.raises(IntegrityError, match="it was replaced in MLflow"):
            taught.nightly(label, CASES)


@pytest.mark.parametrize("damage", ["alias", "manifest"])
def test_nothing_is_promoted_against_a_champion_that_nobody_promoted(
    run_root: Path, damage: str
) -> None:
    uri = (run_root / "store").as_uri()
    operations = Operations(run_root, store_uri=uri)
    versions = [operations.teach([case]) for case in CASES[:2]]
    SyntheticEvaluation(operations).record(versions[0])
    operations.promoter(*LAX).promote(f"models:/{BANK_MODEL}/1")
    if damage == "alias":
        operations.versions.set_alias(BANK_MODEL, "champion", 2)
    else:
        replace_manifest(operations, 1)
    config = load_recipe(
        LifelongEditRecipe, None, [f"run_root={run_root}", f"store={uri}", "bank.name=main"]
    )
    with pytest.raises(IntegrityError, match="audit"):
        promote_at_end(config, Console(quiet=True))


def test_a_rollback_goes_where_the_log_says(taught: Operations) -> None:
    said: list[str] = []
    taught.versions.set_alias(BANK_MODEL, "previous_champion", 3)
    decision = replace(taught.promoter(), say=said.append).roll_back()
    assert (decision.version, taught.alias("champion")) == (1, 1)
    assert "'previous_champion'" in said[0]
    assert "It is set back to version 1" in said[0]


def test_a_rollback_to_a_replaced_manifest_is_refused(taught: Operations) -> None:
    replace_manifest(taught, 1)
    with pytest.raises(IntegrityError, match="it was replaced in MLflow"):
        taught.promoter().roll_back()
    assert taught.alias("champion") == 2


def test_where_there_is_no_champion_none_is_said_to_stay(
    operations: Operations, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_decision(operations.promoter().roll_back()) == 2
    said = capsys.readouterr().err
    assert said == "refused: rollback: there is no previous champion\n"
