"""Two versions are compared by stored results alone, and the exit code says what was found."""

from dataclasses import replace
from pathlib import Path

import pytest

from infra.storage.object_store import ObjectStore
from infra.tracking.results import ResultsTable
from liveedit_core.evaluation.comparable import ComparableGroup
from pipelines.compare_versions import main
from tests.unit.tiny_versions import NUM_CASES, compare, filled, put, versions


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """A store on disk."""
    return filled(ObjectStore(tmp_path / "store"))


def test_a_regression_is_reported_and_shown(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = versions(store)
    put(store, "run", older, NUM_CASES // 2, 1.0)
    put(store, "run", newer, NUM_CASES, 0.0)
    page = tmp_path / "page.html"
    assert compare(store, page, "--old", str(older)) == 3
    shown = capsys.readouterr()
    assert "WORSE   reliability.teacher_forced: 1.000 -> 0.000" in shown.out
    assert "6 of 12 results of version" in shown.err  # the cases that the older one lacked
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") == NUM_CASES // 2
    assert "Who is 0?" in text
    assert f"version {newer} against version {older}" in text


def test_equal_versions_are_fine(store: ObjectStore, tmp_path: Path) -> None:
    older, newer = versions(store)
    put(store, "run", older, 4, 1.0)
    put(store, "run", newer, 4, 1.0)
    assert compare(store, tmp_path / "page.html", "--old", str(older)) == 0


def test_versions_measured_differently_are_not_compared(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = versions(store)
    group = ComparableGroup(
        benchmark="E-VQA",
        cases="a",
        prompts="chat",
        backbone="b",
        edits="whole bank",
        max_new_tokens=12,
    )
    for version in (older, newer):
        put(store, "run", version, 4, 1.0)
    table = ResultsTable(store, "run")
    keys = {key.bank_version: key for key in table.evaluations()}
    table.set_comparable_group(keys[older], group)
    assert compare(store, tmp_path / "page.html", "--old", str(older)) == 0  # before groups
    table.set_comparable_group(keys[newer], replace(group, prompts="paper"))
    assert compare(store, tmp_path / "page.html", "--old", str(older)) == 2
    assert "prompts 'chat' and 'paper'" in capsys.readouterr().err
    table.set_comparable_group(keys[newer], replace(group, cases="more"))
    assert compare(store, tmp_path / "page.html", "--old", str(older)) == 0


def test_missing_results_are_named_with_what_there_is(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, "run", 2, 4, 1.0)
    assert compare(store, tmp_path / "page.html", "--old", "77") == 1
    assert "it has: main version 2 (4 edits)" in capsys.readouterr().err


def test_settings_are_checked_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "store is not set" in capsys.readouterr().err
    assert main(["old.nonsense=1"]) == 2
    assert main(["--dry-run", "--old", "3"]) == 0
    assert "version = 3" in capsys.readouterr().out
