"""The whole method on a GPU that is not there: no tensor stays on the CPU, and the same results."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.fine_tuning import FineTuning
from liveedit_core.baselines.grace import Grace
from liveedit_core.baselines.in_context import InContext
from liveedit_core.baselines.live_edit import LiveEdit
from liveedit_core.baselines.lookup import Lookup
from liveedit_core.baselines.lora import Lora
from liveedit_core.baselines.projector_tuning import ProjectorTuning
from liveedit_core.baselines.protocol import ComparedEditor
from liveedit_core.baselines.settings import (
    FineTuningConfig,
    GraceConfig,
    InContextConfig,
    LoraConfig,
    TensorExpertConfig,
    WiseConfig,
)
from liveedit_core.baselines.tensor_experts import TensorExperts
from liveedit_core.baselines.wise import Wise
from liveedit_core.builtin.backbone import load_builtin_backbone
from liveedit_core.devices import CPU, chosen_device, chosen_dtype, moved
from liveedit_core.edited_model import EditedModel
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import FREE_GENERATION, PROTOCOLS, TEACHER_FORCED
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.explanation import explain
from liveedit_core.method.calibration import LEAST_IMAGES
from liveedit_core.method.config import (
    GeneratorConfig,
    PromptKeyRecipe,
    RefineSection,
    VisualKeyRecipe,
)
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.refine import Refiner
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.model_folder import read_model
from liveedit_core.training.losses import target_nll
from liveedit_core.training.micro_batches import draw
from liveedit_core.training.prompt_key_fit import fit_prompt_key
from liveedit_core.training.recipe import (
    PHASES,
    DiagnosticsRecipe,
    LossSection,
    OptimizationSection,
    Phase,
)
from liveedit_core.training.step import TrainingModule, calibrated_gain
from liveedit_core.training.validation import Validator
from liveedit_core.training.visual_key_fit import fit_visual_key
from tests.fake_cuda import CUDA, FakeCuda, MixedDevicesError, fake_gpu
from tests.gpu_backbone import tiny_backbone_on
from tests.random_states import random_expert
from tests.tiny_backbone import (
    AS_WRITTEN,
    OUR_CONFIG,
    PROMPT_SIZE,
    TINY_CONFIG,
    case,
    question,
    request,
    tiny_generator,
)
from tests.tiny_training import beginning, tiny_data
from workers.training_engine import TorchEngine

RUNNER_UP = OUR_CONFIG.with_changes(
    visual_filter="runner_up",
    visual_rank=6,
    visual_gate=0.0,
    min_gate=0.0,
    prompt_source="sentences",
    prompt_size=PROMPT_SIZE,
    prompt_rank=12,
)
"""Image views and embeddings of prompts."""
CONFIGS = {"paper": TINY_CONFIG, "ours": OUR_CONFIG, "runner_up": RUNNER_UP}
Computed = Callable[[VisionLanguageBackbone], Any]


@pytest.fixture
def gpu() -> Iterator[None]:
    with fake_gpu():
        yield


def is_same_on_both(compute: Computed, config: GeneratorConfig = TINY_CONFIG) -> None:
    """Compute on the CPU and on the GPU, and compare."""
    expected, found = (compute(tiny_backbone_on(name, config)) for name in ("cpu", "cuda"))
    assert found == expected


def empty_editor(backbone: VisionLanguageBackbone, config: GeneratorConfig) -> Editor:
    return Editor(backbone, tiny_generator(config), ExpertRepository.empty(config))


def test_the_fake_gpu_tells_what_a_gpu_would(gpu: None) -> None:
    row = torch.ones(3, device="cuda")
    mixed: Sequence[Callable[[], object]] = (
        lambda: row + torch.ones(3),
        lambda: torch.cat([row, torch.ones(3)]),
        lambda: torch.ones(3)[row.long()],
        lambda: torch.nn.Linear(3, 2)(row),
        lambda: row.__setitem__(slice(None), torch.ones(3)),
    )
    for wrong in mixed:
        with pytest.raises(MixedDevicesError):
            wrong()
    for refused in (row.numpy, lambda: pickle.dumps(row)):
        with pytest.raises(TypeError):
            refused()
    assert (row * 2).sum().item() == 6.0
    assert row[torch.tensor([0])].device == CUDA
    assert not isinstance(row.cpu(), FakeCuda)


@pytest.mark.parametrize("name", CONFIGS)
def test_edits_routing_and_scores_are_the_same_on_a_gpu(name: str, gpu: None) -> None:
    config = CONFIGS[name]
    requests, scored = [request(i) for i in range(3)], case(0)

    def compute(backbone: VisionLanguageBackbone) -> list[object]:
        empty = empty_editor(backbone, config)
        editor = empty.with_edits(requests)
        held = editor.repository
        on = {held.visual_features_NK.device, held.prompt_features_NK.device, held.down_LD.device}
        assert on == {backbone.device}
        assert held.ranks_N.device == CPU  # looked up
        scorer = CaseScorer(empty, batch_size=3)
        prepared = scorer.prepare([scored], free_case_ids=[scored.case_id], max_new_tokens=2)
        both = (TEACHER_FORCED, FREE_GENERATION)
        results = scorer.score(prepared, held, protocols=both, max_new_tokens=2)
        assert any(result.kept for result in results)
        return [results, explain(editor, question(0), {}), editor.calibration.offset]

    is_same_on_both(compute, config)


def test_a_model_learns_forgets_and_is_saved_on_a_gpu(tmp_path: Path, gpu: None) -> None:
    def compute(backbone: VisionLanguageBackbone) -> list[object]:
        model = EditedModel(backbone, tiny_generator(OUR_CONFIG), refine=AS_WRITTEN)
        first, _ = model.edit_many([request(0), request(1)])
        corrected = model.edit_many([replace(request(0), target="quiet harbor")])
        model.remove(*corrected)
        folder = tmp_path / str(backbone.device)
        model.save(folder)
        experts, facts = read_model(folder, backbone.digest, model.editor.generator)
        again = EditedModel(backbone, model.editor.generator, experts, facts, refine=AS_WRITTEN)
        again.edit_many([request(2)])
        kept = explain(again.editor, edit_input(request(0)), {}).kept
        return [model.edits, again.edits, [one.edit_id for one in kept], first in again.edits]

    is_same_on_both(compute, OUR_CONFIG)


@pytest.mark.parametrize("num_images", [0, 40])
def test_a_bank_says_how_strict_its_filter_is_on_a_gpu(num_images: int, gpu: None) -> None:
    """By its own edits, or by images of the traffic."""
    config = RUNNER_UP
    experts = [random_expert(seed, config) for seed in range(LEAST_IMAGES + 4)]
    drawn = torch.randn(num_images, config.visual_rank, generator=torch.Generator().manual_seed(1))
    traffic = torch.nn.functional.normalize(drawn, dim=-1) if num_images else None
    bank = replace(ExpertRepository.from_experts(config, experts), traffic_MR=traffic)

    def compute(backbone: VisionLanguageBackbone) -> list[object]:
        editor = Editor(backbone, tiny_generator(config), bank.to(backbone.device))
        calibration = editor.calibration
        assert calibration.source == ("images" if num_images else "bank")
        gain = calibrated_gain(editor.generator, backbone.encode([edit_input(request(0))]), 0.4)
        return [calibration, gain, explain(editor, question(0), {})]

    is_same_on_both(compute, config)


def test_keys_are_fitted_on_a_gpu(gpu: None) -> None:
    draw = torch.Generator().manual_seed(0)
    kinds = torch.arange(40).repeat_interleave(3)

    def rows(size: int) -> torch.Tensor:
        return torch.randn(40, size, generator=draw)[kinds] + 0.3 * torch.randn(120, size)

    recipes = VisualKeyRecipe(num_components=12), PromptKeyRecipe(num_components=12)
    found = []
    pyramids, embeddings = rows(RUNNER_UP.visual_size), rows(PROMPT_SIZE)
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        torch.manual_seed(0)
        generator = tiny_generator(RUNNER_UP).requires_grad_(False).to(device)
        seen = fit_visual_key(
            generator.visual_key, pyramids.to(device), kinds.to(device), recipes[0]
        )
        key = generator.prompt_key
        asked = fit_prompt_key(key, embeddings.to(device), kinds.to(device), recipes[1])
        found.append((seen, asked, key.projection.weight.tolist()))
    assert found[0] == found[1]


def test_experts_are_refined_on_a_gpu(gpu: None) -> None:
    edit = replace(request(0), also_asked=("Who is it?",))

    def compute(backbone: VisionLanguageBackbone) -> list[object]:
        empty = empty_editor(backbone, OUR_CONFIG)
        refiner = Refiner(backbone, empty.generator, max_steps=3)
        (expert,) = Editor(backbone, empty.generator, empty.repository, refiner).write_experts(
            [edit]
        )
        assert expert.down_RD.device == backbone.device
        return [expert.outcome.steps, expert.outcome.state, expert.down_RD.tolist()]

    assert RefineSection().max_steps > 3
    is_same_on_both(compute, OUR_CONFIG)


@pytest.mark.parametrize("phase", PHASES)
def test_a_training_step_is_the_same_on_a_gpu(phase: Phase, gpu: None) -> None:
    start, batch = beginning(phase), draw(tiny_data(), phase, 3, seed=3, step=0, number=0)
    found = []
    for name in ("cpu", "cuda"):
        generator = tiny_generator(start.config)
        generator.load_state_dict(start.model)
        suffix = tiny_backbone_on("cpu", start.config).suffix()
        module = TrainingModule(generator, suffix, LossSection())
        trained = module.train_only(phase)
        device = torch.device(name)
        engine = TorchEngine(module, trained, {}, OptimizationSection(), 1, device)
        figures = engine.backward(batch)
        norm = engine.step(1e-3)
        assert {tensor.device for tensor in engine.tensors().values()} == {CPU}
        found.append((figures, norm))
    assert found[0] == found[1]


def test_a_generator_is_validated_on_a_gpu(gpu: None) -> None:
    generator = tiny_generator(OUR_CONFIG)
    held_out = [replace(case(i), entity=f"entity {i}") for i in range(2)]

    def compute(backbone: VisionLanguageBackbone) -> dict[str, float]:
        validate = Validator(backbone, held_out, num_cases=1, limits=DiagnosticsRecipe())
        return validate(generator).figures

    is_same_on_both(compute, OUR_CONFIG)


_STEPS: dict[str, Any] = {"max_steps": 2, "learning_rate": 1e-2}
_UNRELATED = [question(50), BackboneInput(prompt="The opposite of hot is")]
BASELINES: dict[str, Callable[[VisionLanguageBackbone], ComparedEditor]] = {
    "FT-L": lambda b: FineTuning(b, FineTuningConfig(**_STEPS)),
    "FT-M": lambda b: ProjectorTuning(b, FineTuningConfig(**_STEPS)),
    "LoRA": lambda b: Lora(b, LoraConfig(**_STEPS)),
    "GRACE": lambda b: Grace(b, GraceConfig(**_STEPS)),
    "WISE": lambda b: Wise(b, WiseConfig(**_STEPS), unrelated=_UNRELATED),
    "TIME-like": lambda b: TensorExperts(b, TensorExpertConfig(**_STEPS), unrelated=_UNRELATED),
    "IKE": lambda b: InContext(b, InContextConfig(least_similarity=-1.0)),
    "LiveEdit": lambda b: LiveEdit(empty_editor(b, TINY_CONFIG)),
    "lookup": lambda b: Lookup(empty_editor(b, TINY_CONFIG)),
}


@pytest.mark.parametrize("name", BASELINES)
def test_a_compared_editor_is_the_same_on_a_gpu(name: str, gpu: None) -> None:
    own = replace(case(0), probes=case(0).probes[:2])

    def compute(backbone: VisionLanguageBackbone) -> list[object]:
        editor = BASELINES[name](backbone)
        scorer = CaseScorer(empty_editor(backbone, TINY_CONFIG))
        prepared = scorer.prepare([own], free_case_ids=[own.case_id], max_new_tokens=2)
        states = [backbone.encode([edit_input(own.edit)])[0] for _ in range(1)]
        editor.teach([own.edit], states)
        results = editor.score(prepared, protocols=PROTOCOLS, max_new_tokens=2)
        return [(r.score, r.answer_after) for r in results]

    is_same_on_both(compute)


def test_what_is_sent_leaves_the_gpu_at_once_and_what_stays_is_not_copied(gpu: None) -> None:
    experts: list[Any] = [torch.ones(2, device="cuda"), {"up": torch.zeros(3, device="cuda")}, "id"]
    sent = moved(experts, CPU)
    assert (sent[0].device, sent[1]["up"].device) == (CPU, CPU)
    assert pickle.loads(pickle.dumps(sent))[0].tolist() == [1.0, 1.0]
    here = (torch.ones(2), request(0), question(0))
    assert moved(here, CPU) is here


def test_losses_stay_on_the_gpu(gpu: None) -> None:
    logits = [torch.randn(2, 5, device="cuda")]
    assert target_nll(logits, [torch.tensor([1, 2], device="cuda")]).device == CUDA
    with pytest.raises(MixedDevicesError):
        target_nll(logits, [torch.tensor([1, 2])])


def test_auto_is_the_gpu_in_bfloat16_where_there_is_one(gpu: None) -> None:
    assert chosen_device("auto").type == chosen_device("spread").type == "cuda"
    assert chosen_dtype("auto", CUDA) == torch.bfloat16
    assert chosen_dtype("auto", CPU) == torch.float32
    assert chosen_dtype("float16", CPU) == torch.float16


@pytest.mark.parametrize("capability", ["amx_bf16", "avx512_bf16", ""])
def test_packed_layers_are_in_bfloat16_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, capability: True})
    expected = torch.bfloat16 if capability else torch.float32
    assert chosen_dtype("auto", CPU, is_packed=True) == expected
    assert chosen_dtype("float32", CPU, is_packed=True) == torch.float32
    assert load_builtin_backbone().dtype == expected
    if capability == "amx_bf16":
        trained = load_builtin_backbone(options=LoadOptions(keeps_float32=True))
        assert trained.dtype == torch.float32


def test_auto_is_float32_where_a_gpu_lacks_bfloat16() -> None:
    with fake_gpu(has_bfloat16=False):
        assert chosen_dtype("auto", CUDA) == torch.float32


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert chosen_device("auto") == CPU
    with pytest.raises(ConfigError, match="num_gpus"):
        chosen_device("cuda")
    assert LoadOptions(dtype="float16").dtype_in_memory == "float16"
    assert LoadOptions(dtype="float16", compute_dtype="float32").dtype_in_memory == "float32"


ALLOCATES = """
import resource, sys, torch
from liveedit_core.devices import keep_freed_memory
if sys.argv[1:]:
    keep_freed_memory()
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [torch.zeros(25_000) for _ in range(200)]
    del parts
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages of other systems are not counted")
def test_memory_that_is_freed_is_not_paged_in_anew() -> None:
    def faults_of(*arguments: str) -> list[int]:
        command = [sys.executable, "-c", ALLOCATES, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        faults: list[int] = json.loads(done.stdout)
        return faults

    if faults_of()[-1] < 1000:
        pytest.skip("this allocator keeps what is freed")
    assert faults_of("kept")[-1] < 100
