"""The whole method on a GPU that is not there: no tensor stays on the CPU, and the same results."""

import copy
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.builtin.backbone import FAMILY
from liveedit_core.devices import CPU, chosen_device, chosen_dtype, device_of, moved
from liveedit_core.edited_model import EditedModel
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.explanation import explain
from liveedit_core.method.config import GeneratorConfig, RefineSection
from liveedit_core.method.editor import Editor
from liveedit_core.method.refine import Refiner
from liveedit_core.method.repository import ExpertRepository
from tests import tiny_backbone as tiny
from tests.fake_cuda import CUDA, FakeCuda, MixedDevicesError, fake_gpu

RUNNER_UP = tiny.OUR_CONFIG.with_changes(
    visual_filter="runner_up", visual_rank=8, visual_gate=0.0, min_gate=0.0
)
CONFIGS = {"paper": tiny.TINY_CONFIG, "ours": tiny.OUR_CONFIG, "runner_up": RUNNER_UP}


@pytest.fixture
def gpu() -> Iterator[None]:
    with fake_gpu():
        yield


def on_gpu(backbone: VisionLanguageBackbone) -> VisionLanguageBackbone:
    """A copy of the tiny backbone on the fake GPU."""
    from liveedit_core.backbones.image_tower import ImageTower

    model, tower = copy.deepcopy(backbone.model).to("cuda"), backbone.image_tower
    assert tower is not None
    return VisionLanguageBackbone(
        model,
        backbone.processor,
        edit_layer=backbone.edit_layer,
        digest=backbone.digest,
        family=FAMILY,
        image_tower=ImageTower(model, backbone.processor, levels=tower.levels, cache_bytes=0),
        batch_size=backbone.batch_size,
    )


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (t for item in value.values() for t in tensors_in(item))
    elif isinstance(value, list | tuple):
        yield from (t for item in value for t in tensors_in(item))
    elif hasattr(value, "__dataclass_fields__"):
        yield from tensors_in(vars(value))


def test_the_fake_gpu_tells_what_a_gpu_would(gpu: None) -> None:
    row = torch.ones(3, device="cuda")
    for wrong in (
        lambda: row + torch.ones(3),
        lambda: torch.cat([row, torch.ones(3)]),
        lambda: torch.ones(3)[row.long()],
        lambda: torch.nn.Linear(3, 2)(row),
    ):
        with pytest.raises(MixedDevicesError):
            wrong()
    for wrong in (lambda: row.numpy(), lambda: pickle.dumps(row)):
        with pytest.raises(TypeError):
            wrong()
    assert (row * 2).sum().item() == 6.0
    assert row[torch.tensor([0])].device == CUDA
    assert not isinstance(row.cpu(), FakeCuda)


@pytest.mark.parametrize("name", CONFIGS)
def test_edits_routing_and_answers_are_the_same_on_a_gpu(name: str, gpu: None) -> None:
    config = CONFIGS[name]
    requests, cases = [tiny.request(i) for i in range(3)], [tiny.case(i) for i in range(2)]

    def run(backbone: VisionLanguageBackbone) -> tuple[list[object], Editor]:
        generator = tiny.tiny_generator(config).to(backbone.device)
        empty = Editor(backbone, generator, ExpertRepository.empty(config))
        editor = empty.with_edits(requests)
        scorer = CaseScorer(empty, batch_size=3)
        prepared = scorer.prepare(cases, free_case_ids=[c.case_id for c in cases], max_new_tokens=6)
        results = scorer.score(
            prepared,
            editor.repository,
            protocols=(TEACHER_FORCED, FREE_GENERATION),
            max_new_tokens=6,
        )
        why = explain(editor, tiny.question(0), {})
        return [results, why, editor.calibration.offset], editor

    expected, _ = run(tiny.tiny_backbone())
    found, editor = run(on_gpu(tiny.tiny_backbone()))
    assert found == expected
    held = editor.repository
    assert {held.visual.device, held.prompt.device, held.down_LD.device} == {CUDA}
    assert held.ranks_N.device == CPU
