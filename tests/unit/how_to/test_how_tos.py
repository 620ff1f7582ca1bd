"""The how-tos of CONTRIBUTING.md: each is followed, outside of the package where that is possible,
and what comes of it passes the tests that all of its kind pass."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

import liveedit_core
from liveedit_core.baselines.settings import FineTuningConfig
from liveedit_core.evaluation.probes import TEACHER_FORCED
from liveedit_core.evaluation.summaries import summarize
from liveedit_core.schema import ProbeKind
from liveedit_core.state_source import BackboneStates
from pipelines.baselines.compare import GroupRunner, plan
from pipelines.baselines.editors import EditorRow
from pipelines.baselines.recipe import CompareRecipe
from tests import tiny_families
from tests.tiny_backbone import case, tiny_backbone
from tests.unit.how_to.attention_tuning import AttentionTuning
from tests.unit.how_to.changed_sources import (
    BENCHMARK,
    EDITOR,
    METRIC,
    ROOT,
    TRAINED_EDITOR,
    Changes,
    changed_sources,
)

EDITOR_NAME = AttentionTuning.name
EDITOR_PROTOCOL = "tests/unit/liveedit_core/baselines/test_editor_protocol.py"
RIVAL_TRAINING = "tests/unit/pipelines/training/test_editors.py"
ANY_FILE = "tests/unit/liveedit_core/published/test_any_file.py"
EVERY_BENCHMARK = "tests/unit/pipelines/job/test_cases.py"
CONTRACTS = {
    "new_family": ("vipllava", "tests/unit/liveedit_core/backbones/test_families.py", 12),
    "new_editor": (EDITOR_NAME, EDITOR_PROTOCOL, 3),
}
"""Plugin, name of what it adds, its contract tests, and how many there are at least."""


def run(*arguments: str | Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=path, env=environment, capture_output=True, text=True
    )


def passes(files: Sequence[str], name: str, least: int, *options: str, path: Path = ROOT) -> None:
    """At least so many tests of some files are about a name, and all of them pass."""
    done = run(
        "-m", "pytest", *files, "-q", "-p", "no:cacheprovider", "-k", name, *options, path=path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= least


@pytest.mark.slow
@pytest.mark.parametrize("plugin", CONTRACTS)
def test_something_new_passes_the_tests_of_its_kind(plugin: str) -> None:
    name, file, least = CONTRACTS[plugin]
    passes([file], name, least, "-p", f"tests.unit.how_to.{plugin}")


def test_a_new_editor_is_compared_without_being_listed(tmp_path: Path) -> None:
    recipe = CompareRecipe(
        edits=(2,), groups=(1,), free_cases=0, max_new_tokens=4, run_root=str(tmp_path)
    )
    backbone = tiny_backbone()
    config = FineTuningConfig(max_steps=60, learning_rate=3e-2)
    row = EditorRow(
        name=EDITOR_NAME,
        configuration=EDITOR_NAME,
        editor=AttentionTuning(backbone, config),
        trained_on="nothing",
        identity=config.model_dump_json(),
    )
    (group,) = plan(recipe, [case(seed) for seed in range(4)])
    (rung,) = GroupRunner(recipe, backbone, BackboneStates(backbone)).run([row], group)[EDITOR_NAME]
    summary = summarize(rung.results)
    assert summary[ProbeKind.RELIABILITY, TEACHER_FORCED].mean > 0.4
    assert len(rung.right_after) == 1
    assert len(rung.unrelated) == 2


def test_a_new_metric_reaches_every_table(tmp_path: Path) -> None:
    """Its kind is a line in `ProbeKind`, so the sources are copied and changed as the text says."""
    sources = changed_sources(tmp_path / "sources", METRIC)
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "a.png")
    (tmp_path / "cases.jsonl").write_text(
        '{"edit": {"image": "a.png", "prompt": "What?", "target": "a"}, "probes": '
        '[{"kind": "caption_locality", "image": "a.png", "prompt": "Describe it."}]}\n'
    )
    script = Path(__file__).with_name("new_metric.py")
    done = run(script, tmp_path, path=sources)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.5", "True"]
    without = run(script, tmp_path)
    assert "caption_locality" in without.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "name", "files", "least"),
    [
        (TRAINED_EDITOR, "rates", (EDITOR_PROTOCOL, RIVAL_TRAINING), 4),
        (BENCHMARK, "garden", (ANY_FILE, EVERY_BENCHMARK), 2),
    ],
    ids=["trained editor", "benchmark"],
)
def test_what_is_listed_passes_the_tests_of_its_kind(
    changes: Changes, name: str, files: tuple[str, ...], least: int, tmp_path: Path
) -> None:
    passes(files, name, least, path=changed_sources(tmp_path / "sources", changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        (EDITOR, "ft-attention", {"editor": EDITOR_NAME, "train_s": None}),
        (TRAINED_EDITOR, "rates", {"editor": "rates", "train_s": 1.5}),
    ],
    ids=["editor", "trained editor"],
)
def test_a_listed_editor_is_compared_by_its_name(
    changes: Changes, name: str, expected: dict[str, object], tmp_path: Path
) -> None:
    sources = changed_sources(tmp_path / "sources", changes)
    done = run(Path(__file__).with_name("compared.py"), name, tmp_path, path=sources)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"num_edits": 2, "num_trials": 8} | expected


def test_a_family_is_one_short_entry_in_the_core_and_one_in_the_tests() -> None:
    source = (ROOT / "liveedit_core/backbones/families.py").read_text(encoding="utf-8")
    own: dict[str, int] = {}  # lines of each module constant, which an entry may name
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "FAMILIES":
            entries = node.value
        elif isinstance(node, ast.Assign):
            own[ast.unparse(node.targets[0])] = num_lines(node)
    assert isinstance(entries, ast.Dict)
    lines: dict[str, int] = {}
    for key, value in zip(entries.keys, entries.values, strict=True):
        assert isinstance(key, ast.Constant)
        named = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
        lines[str(key.value)] = num_lines(value) + sum(own.get(name, 0) for name in named)
    assert max(lines.values()) <= 40
    assert set(lines) == set(tiny_families.FAMILIES) - {"minigpt4"}  # BLIP-2 with Llama


def num_lines(node: ast.expr | ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_contributing_lists_these_how_tos() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = page[page.index("## Recipes for common changes") :]
    items = re.findall(r"^- (.*?)[:.]", listed, re.MULTILINE)
    assert items == [
        "A backbone family",
        "Another editor to compare with",
        "An editor with a trained part",
        "A published benchmark",
        "A metric",
    ]
    assert Path(liveedit_core.__path__[0]).parent == ROOT
