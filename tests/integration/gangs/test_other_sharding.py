"""Other backbones than the built-in one, shared by processes, compute what one process does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.generator import save_generator
from pipelines.job.ray_session import open_session
from pipelines.job.sections import GeneratorSection, RaySection
from pipelines.job.start_workers import start_generator
from pipelines.train_generator import parse_arguments, resolve_recipe
from pipelines.training import questions
from pipelines.training.cases import load_training_backbone
from pipelines.training.data import prepare_material
from pipelines.training.loop import GeneratorTrainer
from tests.other_backbones import TINY, cases_file, saved_family
from tests.tiny_backbone import request
from tests.tiny_families import FAMILIES
from tests.unit.tiny_inputs import logged
from workers.generator_worker import GeneratorWorker
from workers.models import ModelNames

pytestmark = pytest.mark.slow


@pytest.fixture
def session() -> Iterator[None]:
    with open_session(RaySection(object_store_memory_bytes=100 * 1024 * 1024), needed_cpus=3):
        yield


PROMPT_KEY = (
    "model.prompt_source=sentences",
    "model.prompt_rank=12",
)


@pytest.mark.parametrize("model", [(), PROMPT_KEY], ids=["paper", "prompt_key"])
def test_llava_is_trained_and_written_with_in_two_shards(
    session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: tuple[str, ...]
) -> None:
    """The losses of a gang, then the experts that another gang writes with what it trained."""
    few = [family[:4] for family in questions.question_families()[:12]]
    monkeypatch.setattr(questions, "question_families", lambda: few)
    backbone, cases = saved_family("llava", tmp_path / "llava"), cases_file(tmp_path / "cases")

    def train(*more: str) -> tuple[GeneratorTrainer, list[float]]:
        given = [
            f"--backbone={backbone}",
            f"--cases={cases}",
            f"run_root={tmp_path}",
            *TINY,
            *model,
        ]
        steps = ["prompt.steps=0", "experts.steps=0", "joint.steps=2", "joint.accumulation=2"]
        recipe = resolve_recipe(parse_arguments([*given, *steps, *more]))
        loaded = load_training_backbone(recipe)
        material = prepare_material(recipe, loaded, tmp_path / "material")
        totals: list[float] = []
        trainer = GeneratorTrainer(
            recipe,
            loaded,
            material,
            on_step=lambda phase, step, figures: totals.append(figures["total"]),
        )
        trainer.run()
        return trainer, totals

    _, alone = train()
    trainer, together = train("--shards=2", "sharding.timeout_s=60")
    assert len(alone) == 2
    assert together == pytest.approx(alone, abs=1e-4)

    folder = tmp_path / "generator"
    save_generator(trainer.generator, folder)
    models = ModelNames(backbone=backbone, generator=str(folder))
    requests = [request(seed) for seed in range(5)]
    requests[2] = replace(requests[2], also_asked=("What is it?", "Which thing is this?"))
    batches, log = logged(tmp_path / "log", [requests])
    expected = list(GeneratorWorker(models, InputLimits()).stream(batches, log))
    group = start_generator(models, InputLimits(), GeneratorSection(shards=2))
    found = [ray.get(batch) for _, batch in group.stream(batches, log)]
    group.close()
    for one, other in zip(expected[0].experts, found[0].experts, strict=True):
        for name in ("down_RD", "prompt_feature_QM"):
            a, b = getattr(one.expert, name), getattr(other.expert, name)
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), name


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_family_can_be_sharded() -> None:
    """All weights are shared out, in either number format, and no number changes."""
    project = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.gangs.every_family_sharded"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"family"')]
    assert [row["family"] for row in rows] == list(FAMILIES)
    for row in rows:
        assert row["whole"] == 0, row
        assert max(row["experts"], row["bfloat16"]) < 1e-5, row
        assert row["losses"] < 1e-4, row
