"""No job reads a sealed test split without saying and recording so."""

import ast
from pathlib import Path

import pytest

from liveedit_core.builtin.benchmark import is_validation_entity, load_builtin_cases, load_entities
from liveedit_core.errors import ConfigError
from pipelines.job import sealed_test
from pipelines.job.cases import load_builtin, load_evaluation_cases
from pipelines.job.sealed_test import load_test_cases, read_looks
from pipelines.job.sections import BenchmarkSection

ROOT = Path(__file__).parents[4]


def test_the_test_split_is_sealed() -> None:
    with pytest.raises(ConfigError, match="sealed"):
        load_builtin_cases("test")


def test_only_the_module_of_looks_reads_it() -> None:
    readers = set()
    for path in ROOT.glob("*/**/*.py"):
        if path.parts[len(ROOT.parts)] == "tests":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "is_look":
                readers.add(path.relative_to(ROOT).as_posix())
    assert readers == {"pipelines/job/sealed_test.py"}


@pytest.fixture(autouse=True)
def _own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_test, "LOOKS_FILE", tmp_path / "looks.jsonl")


def test_a_look_is_announced_and_recorded_once() -> None:
    said: list[str] = []
    for reader in ("tuning", "tuning", "final numbers"):
        load_test_cases("emblem_edit", reader, said.append)
    assert [look.reader for look in read_looks()] == ["tuning", "final numbers"]
    assert said[0].endswith("Looked at before: never")
    assert said[1] == said[2]
    assert "tuning" in said[1]
    assert all("sealed test split" in text for text in said)


def test_every_job_announces_it() -> None:
    section = BenchmarkSection(name="emblem_edit", split="test")
    said: list[str] = []
    load_builtin(section, "lifelong_edit quickstart", said.append)
    load_evaluation_cases(section, reader="compare_editors", say=said.append)
    assert len(said) == 2
    assert [look.reader for look in read_looks()] == [
        "lifelong_edit quickstart",
        "compare_editors",
    ]


def test_validation_is_a_third_of_the_development_entities() -> None:
    names = {entity.name for entity in load_entities("evaluation")}
    chosen = {e.name for e in load_entities("evaluation") if is_validation_entity(e.entity_id)}
    development = load_builtin_cases("development")
    validation = load_builtin_cases("validation")
    assert {case.case_id for case in validation} < {case.case_id for case in development}
    assert {case.entity for case in validation} <= chosen
    assert not {case.entity for case in development if case not in validation} & chosen
    assert 0.28 < len(chosen) / len(names) < 0.39
