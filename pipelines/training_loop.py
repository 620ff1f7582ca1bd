"""The training loop: phases, one-cycle learning rate, checkpoints, resume.

All randomness of a step is drawn from (seed, phase, step), so a checkpoint is weights, optimizer
moments and a position; a resumed run computes what the undisturbed one would have.
"""

import json
import math
import random
import time
from collections.abc import Callable
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
    visual_losses,
)
from pipelines.train_config import ModelSection, PhaseSection, TrainRecipe
from pipelines.training_material import Drawings, Material

PHASES = ("visual", "prompt", "experts", "joint")
STRANGERS = 128
SAME_DRAWING_SHARE = 0.2
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
        self.generator = LiveEditGenerator(generator_config(recipe.model, backbone, gain=1.0))
        # both sides begin alike: a picture's own key is its best match from the start
        edit_side = self.generator.edit_extractor.state_dict()
        self.generator.input_extractor.load_state_dict(edit_side, strict=False)
        if recipe.model.relative_residual > 0:
            edits = [case.edit for case in material.data.cases[:CALIBRATION_EDITS]]
            size = recipe.model.relative_residual
            gain = calibrated_gain(self.generator, material.data.states(edits), size)
            self.generator.config = generator_config(recipe.model, backbone, gain=gain)
        self.steps: dict[str, Callable[[PhaseSection, int], Losses]] = {
            "visual": self.visual_step,
            "prompt": self.prompt_step,
            "experts": self.experts_step,
            "joint": self.joint_step,
        }

    def run(self) -> None:
        """Train from the last checkpoint (or the beginning) to the end."""
        phase_done, first, moments = self.load()
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
        sides = ("edit_extractor.", "input_extractor.")
        visual = ("phi", "visual_norm", "sentinel", "log_scale")
        chosen = []
        for name, parameter in self.generator.named_parameters():
            is_routing = name.startswith(sides)
            is_visual = is_routing and name.split(".", 1)[1].startswith(visual)
            belongs = {
                "visual": is_visual,
                "prompt": is_routing and not is_visual,
                "experts": not is_routing and name != "visual_weight",
                "joint": True,
            }
            if belongs[phase]:
                chosen.append((name, parameter))
        return chosen

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

    def visual_step(self, section: PhaseSection, step: int) -> Losses:
        """Another drawing of each of B things, and pictures of other things."""
        rng, drawings = self.draws("visual", step), self.material.drawings
        batch = min(section.batch_size, len(drawings.by_thing) * 2 // 3)
        things = rng.sample(range(len(drawings.by_thing)), len(drawings.by_thing))
        asked, stored = [], []
        for thing in things[:batch]:
            first, second = rng.sample(drawings.by_thing[thing], 2)
            second = first if rng.random() < SAME_DRAWING_SHARE else second
            asked.append(drawing(drawings, first, rng))
            stored.append(drawing(drawings, second, rng))
        strangers = [
            drawing(drawings, rng.choice(drawings.by_thing[thing]), rng)
            for thing in things[batch : batch + STRANGERS]
        ]
        stacked = [torch.stack(rows).float() for rows in (asked, stored, strangers)]
        return visual_losses(self.generator, *stacked)

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


def generator_config(
    model: ModelSection, backbone: HuggingFaceBackbone, *, gain: float
) -> GeneratorConfig:
    """The generator's config for a backbone."""
    fields = dict(vars(model))
    del fields["relative_residual"]
    is_tower = model.visual_source == "image_tower"
    return GeneratorConfig(
        hidden_size=backbone.hidden_size,
        num_image_tokens=backbone.num_image_tokens,
        edit_layer=backbone.edit_layer,
        visual_size=backbone.visual_size if is_tower else 0,
        gain=gain,
        **fields,
    )


def one_cycle(step: int, section: PhaseSection) -> float:
    """Learning rate: linear warm-up, then half a cosine to zero."""
    warm = max(1, int(section.steps * section.warmup_fraction))
    if step < warm:
        return section.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, section.steps - warm)
    return section.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def drawing(drawings: Drawings, picture: int, rng: random.Random) -> Tensor:
    """Rows of a picture or of one of its variants; the picture itself half of the time."""
    variants = drawings.rows.shape[1]
    is_original = variants == 1 or rng.random() < 0.5
    return drawings.rows[picture, 0 if is_original else rng.randrange(1, variants)]
