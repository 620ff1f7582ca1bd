"""The training loop: phases, one-cycle learning rate, checkpoints, resume.

All randomness of a step is drawn from (seed, phase, step), so a checkpoint is weights, optimizer
moments and a position; a resumed run computes what the undisturbed one would have.
"""

import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from liveedit_core.backbones.huggingface import HuggingFaceBackbone
from liveedit_core.config import GeneratorConfig
from liveedit_core.generator import LiveEditGenerator
from liveedit_core.training_step import (
    Losses,
    calibrated_gain,
    expert_losses,
    joint_losses,
    prompt_losses,
)
from liveedit_core.visual_key_fit import fit_visual_key
from pipelines.train_config import ModelSection, PhaseSection, TrainRecipe
from pipelines.training_material import Material

PHASES = ("prompt", "experts", "joint")
MAX_GRADIENT_NORM = 1.0
PRINT_EVERY = 20
CALIBRATION_EDITS = 32


class GeneratorTrainer:
    """Runs the phases of a recipe.

    Args:
        recipe: what to do.
        backbone: frozen model; only its layers after l_e run.
        material: encoded training data.
        folder: run folder; `checkpoint/` in it is resumed.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        backbone: HuggingFaceBackbone,
        material: Material,
        folder: Path,
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.material = material
        self.folder = folder / "checkpoint"
        self.curve: list[dict[str, float | str]] = []
        torch.manual_seed(recipe.seed)
        num_things = len(material.drawings.by_thing)
        config = generator_config(recipe.model, backbone, num_things)
        self.generator = LiveEditGenerator(config)
        # both sides begin alike: a question is its own best match from the start
        edit_side = self.generator.edit_extractor.state_dict()
        self.generator.input_extractor.load_state_dict(edit_side, strict=False)
        if recipe.model.relative_residual > 0:
            edits = [case.edit for case in material.data.cases[:CALIBRATION_EDITS]]
            size = recipe.model.relative_residual
            gain = calibrated_gain(self.generator, material.data.states(edits), size)
            self.generator.config = replace(config, gain=gain)
        self.steps: dict[str, Callable[[PhaseSection, int], Losses]] = {
            "prompt": self.prompt_step,
            "experts": self.experts_step,
            "joint": self.joint_step,
        }

    def fit_visual_key(self) -> None:
        """The closed form: no steps, half a minute."""
        drawings = self.material.drawings
        things_M = torch.tensor(
            [thing for thing, index in enumerate(drawings.by_thing) for _ in index]
        )
        index_M = torch.tensor([row for index in drawings.by_thing for row in index])
        report = fit_visual_key(
            self.generator.visual_key,
            drawings.rows[index_M].float(),
            things_M,
            self.recipe.visual_key,
        )
        figures = {name: round(value, 4) for name, value in vars(report).items()}
        self.curve.append({"phase": "visual_key", "step": 0, **figures})
        print(f"visual_key {figures}", flush=True)

    def run(self) -> None:
        """Train from the last checkpoint (or the beginning) to the end."""
        phase_done, first, moments = self.load()
        if self.generator.has_pyramid and not self.curve:
            self.fit_visual_key()
        for phase in PHASES[phase_done:]:
            section: PhaseSection = getattr(self.recipe, phase)
            optimizer = torch.optim.Adam(self.trained(phase), lr=section.learning_rate)
            if moments:
                self.restore(optimizer, moments, phase)
            for step in range(first, section.steps):
                self.descend(phase, section, optimizer, step)
                if (step + 1) % self.recipe.checkpoint.every_steps == 0:
                    self.save(phase, step + 1, optimizer)
            first, moments = 0, {}
            if section.steps:
                self.save(phase, section.steps, optimizer)

    def trained(self, phase: str) -> list[nn.Parameter]:
        """Parameters that a phase moves."""
        return [parameter for _, parameter in self.named(phase)]

    def named(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        """The same, with names."""
        return [
            (name, parameter)
            for name, parameter in self.generator.named_parameters()
            if phase in phases_of(name)
        ]

    def descend(
        self, phase: str, section: PhaseSection, optimizer: torch.optim.Optimizer, step: int
    ) -> None:
        """One optimizer step."""
        start = time.monotonic()
        rate = one_cycle(step, section)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = self.steps[phase](section, step)
        optimizer.zero_grad()
        losses.total.backward()
        nn.utils.clip_grad_norm_(self.trained(phase), MAX_GRADIENT_NORM)
        optimizer.step()
        if step % PRINT_EVERY == 0 or step == section.steps - 1:
            parts = {name: round(value, 4) for name, value in losses.parts.items()}
            seconds = time.monotonic() - start
            self.curve.append({"phase": phase, "step": step, "learning_rate": rate, **parts})
            print(f"{phase} {step}/{section.steps} {parts} {seconds:.2f} s", flush=True)

    def draws(self, phase: str, step: int) -> random.Random:
        """Source of all randomness of one step."""
        return random.Random(f"{self.recipe.seed} {phase} {step}")

    def prompt_step(self, section: PhaseSection, step: int) -> Losses:
        """Gate and ranking of prompts."""
        rng, data = self.draws("prompt", step), self.material.data
        chosen = rng.sample(range(len(data.cases)), min(section.batch_size, len(data.cases)))
        return prompt_losses(self.generator, data, chosen, rng)

    def experts_step(self, section: PhaseSection, step: int) -> Losses:
        """Half of the batch are cases, half are pairs with random targets."""
        rng, data = self.draws("experts", step), self.material.data
        num_pairs = min(section.batch_size // 2, len(data.pairs))
        cases = rng.choices(data.cases, k=section.batch_size - num_pairs)
        pairs = rng.sample(data.pairs, num_pairs)
        edits = [case.edit for case in cases] + [pair.edit for pair in pairs]
        asked = [rng.choice((case.edit, *case.generality)) for case in cases]
        asked += [rng.choice((pair.edit, pair.query, pair.query)) for pair in pairs]
        weights_rng = torch.Generator().manual_seed(rng.getrandbits(60))
        return expert_losses(
            self.generator,
            self.backbone,
            data.states(edits),
            data.states(asked),
            self.backbone.end_id,
            weights_rng,
        )

    def joint_step(self, section: PhaseSection, step: int) -> Losses:
        """The paper's step."""
        rng, data = self.draws("joint", step), self.material.data
        chosen = rng.sample(range(len(data.cases)), min(section.batch_size, len(data.cases)))
        masks_rng = torch.Generator().manual_seed(rng.getrandbits(60))
        return joint_losses(self.generator, self.backbone, data, chosen, rng, masks_rng)

    def save(self, phase: str, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Write weights, moments and position, atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{k}": v.contiguous() for k, v in self.generator.state_dict().items()}
        for name, parameter in self.named(phase):
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"moment.{name}.{key}"] = value
        partial = self.folder / "partial.safetensors"
        position = {"phase": phase, "step": step, "curve": self.curve}
        save_file(tensors, partial, metadata={"position": json.dumps(position)})
        partial.replace(self.folder / "last.safetensors")

    def load(self) -> tuple[int, int, dict[str, Tensor]]:
        """Index of the phase to run, its first step, and the optimizer moments."""
        from safetensors import safe_open

        path = self.folder / "last.safetensors"
        if not path.exists():
            return 0, 0, {}
        with safe_open(path, "pt") as file:
            position = json.loads(file.metadata()["position"])
        tensors = load_file(path)
        model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        self.generator.load_state_dict(model)
        self.curve = position["curve"]
        print(f"resumed at {position['phase']} {position['step']}", flush=True)
        phase, step = PHASES.index(position["phase"]), position["step"]
        if step >= getattr(self.recipe, position["phase"]).steps:
            return phase + 1, 0, {}
        return phase, step, {k: v for k, v in tensors.items() if k.startswith("moment.")}

    def restore(
        self, optimizer: torch.optim.Optimizer, moments: dict[str, Tensor], phase: str
    ) -> None:
        """Give the optimizer its moments back."""
        for name, parameter in self.named(phase):
            keys = ("step", "exp_avg", "exp_avg_sq")
            optimizer.state[parameter] = {k: moments[f"moment.{name}.{k}"] for k in keys}


def phases_of(parameter: str) -> frozenset[str]:
    """Phases that move a parameter. None moves the visual key: it has a closed form."""
    module, _, rest = parameter.partition(".")
    if module == "visual_key":
        return frozenset()
    if module in ("edit_extractor", "input_extractor"):
        is_prompt_side = rest.startswith(("psi", "prompt_norm"))
        return frozenset({"prompt", "joint"} if is_prompt_side else {"joint"})
    return frozenset({"joint"} if module == "visual_weight" else {"experts", "joint"})


def generator_config(
    model: ModelSection, backbone: HuggingFaceBackbone, num_things: int
) -> GeneratorConfig:
    """The generator's config for a backbone and a number of training things."""
    fields = dict(vars(model))
    for name in ("relative_residual", "visual_rank", "num_sentinels", "nearest_sentinels"):
        del fields[name]
    if model.visual_source == "tower_pyramid":
        num_sentinels = min(model.num_sentinels, num_things)
        fields |= {
            "visual_size": backbone.visual_size,
            "visual_rank": model.visual_rank,
            "num_sentinels": num_sentinels,
            "nearest_sentinels": min(model.nearest_sentinels, num_sentinels),
        }
    return GeneratorConfig(
        hidden_size=backbone.hidden_size,
        num_image_tokens=backbone.num_image_tokens,
        edit_layer=backbone.edit_layer,
        **fields,
    )


def one_cycle(step: int, section: PhaseSection) -> float:
    """Learning rate: linear warm-up, then half a cosine to zero."""
    warm = max(1, int(section.steps * section.warmup_fraction))
    if step < warm:
        return section.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, section.steps - warm)
    return section.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
