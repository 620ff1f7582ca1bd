"""The how-tos of CONTRIBUTING.md: each is followed, outside of the package where that is possible,
and what comes of it passes the tests that all of its kind pass."""

import os
import re
import subprocess
import sys
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
from tests.tiny_backbone import case, tiny_backbone
from tests.unit.how_to.new_editor import NAME as EDITOR
from tests.unit.how_to.new_editor import AttentionTuning

ROOT = Path(__file__).resolve().parents[3]
CONTRACTS = {
    "new_family": ("vipllava", "tests/unit/liveedit_core/backbones/test_families.py", 12),
    "new_editor": (EDITOR, "tests/unit/liveedit_core/baselines/test_editor_protocol.py", 3),
}
"""Plugin, name of what it adds, its contract tests, and how many there are at least."""


def run(*arguments: str | Path, path: str | Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("plugin", CONTRACTS)
def test_something_new_passes_the_tests_of_its_kind(plugin: str) -> None:
    name, file, least = CONTRACTS[plugin]
    options = ("-q", "-p", "no:cacheprovider", "-p", f"tests.unit.how_to.{plugin}", "-k", name)
    done = run("-m", "pytest", file, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= least


def test_a_new_editor_is_compared_without_being_listed(tmp_path: Path) -> None:
    recipe = CompareRecipe(
        edits=(2,), groups=(1,), free_cases=0, max_new_tokens=4, run_root=str(tmp_path)
    )
    backbone = tiny_backbone()
    config = FineTuningConfig(max_steps=60, learning_rate=3e-2)
    row = EditorRow(
        name=EDITOR,
        configuration=EDITOR,
        editor=AttentionTuning(backbone, config),
        trained_on="nothing",
        identity=config.model_dump_json(),
    )
    (group,) = plan(recipe, [case(seed) for seed in range(4)])
    (rung,) = GroupRunner(recipe, backbone, BackboneStates(backbone)).run([row], group)[EDITOR]
    summary = summarize(rung.results)
    assert summary[ProbeKind.RELIABILITY, TEACHER_FORCED].mean > 0.4
    assert len(rung.right_after) == 1
    assert len(rung.unrelated) == 2


KIND = '    CORRECTION = "correction"\n'
NOTE = "METRIC_NOTES = {\n"


def test_a_new_metric_reaches_every_table(tmp_path: Path) -> None:
    """Its kind is a line in `ProbeKind`, so the sources are copied and changed as the text says."""
    changes = {
        "liveedit_core/schema.py": (KIND, KIND + '    CAPTION_LOCALITY = "caption_locality"\n'),
        "infra/reports/metrics.py": (NOTE, NOTE + '    ProbeKind.CAPTION_LOCALITY: "a caption",\n'),
    }
    sources = tmp_path / "sources"
    for file, (old, new) in changes.items():
        link_all_but(sources, Path(file))
        text = (ROOT / file).read_text(encoding="utf-8")
        assert text.count(old) == 1
        (sources / file).write_text(text.replace(old, new), encoding="utf-8")
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


def link_all_but(target: Path, file: Path) -> None:
    """The tree of the project by links, but for one file and the folders that it lies in."""
    for folder in (Path(), *reversed(file.parents[:-1])):
        (target / folder).mkdir(parents=True, exist_ok=True)
        for item in (ROOT / folder).iterdir():
            link = target / folder / item.name
            if link.is_symlink() and file.is_relative_to(folder / item.name):
                link.unlink()  # of an earlier file's turn
            elif not link.exists() and not file.is_relative_to(folder / item.name):
                link.symlink_to(item)


def test_contributing_lists_these_how_tos() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = page[page.index("## Recipes for common changes") :]
    items = re.findall(r"^- (.*?)[:.]", listed, re.MULTILINE)
    assert items == ["A backbone family", "Another editor to compare with", "A metric"]
    assert Path(liveedit_core.__path__[0]).parent == ROOT
