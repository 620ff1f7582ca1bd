"""The training loop: phases, checkpoints, resume; what happens in a step is the worker's.

The same loop drives a worker in this process and a gang of many. A run is its position (weights,
moments, phase, step); everything random is drawn from it, so a resumed run computes what the
undisturbed one would have.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from liveedit_core.backbones.protocol import TrainableBackbone
from liveedit_core.errors import ConfigError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.training.recipe import PHASES, Phase
from liveedit_core.training.step import calibrated_gain
from liveedit_core.training.visual_key_fit import fit_visual_key
from pipelines.training.data import Material
from pipelines.training.recipe import ModelSection, TrainRecipe
from pipelines.training.training_backbone import suffix_models
from workers.training_messages import (
    MODEL,
    LoadedSource,
    SentSource,
    Snapshot,
    StepFigures,
    TrainingSource,
)

PRINT_EVERY = 20
MOST_STEPS_AT_ONCE = 10
"""Steps between two looks at a gang: how late figures may come."""
CALIBRATION_EDITS = 32

OnStep = Callable[[Phase, int, dict[str, float]], None]
"""Called after each step with phase, step (from 0) and figures: `total`, losses, accuracies,
`learning_rate`, `gradient_norm`, `duration_s`."""
OnCheckpoint = Callable[["GeneratorTrainer", Phase, int], None]
"""Called after each checkpoint with the trainer, whose `generator` and `snapshot` are of that
moment, the phase, and how many of its steps are done."""


class StepWorker(Protocol):
    """Who computes the steps: `TrainingWorker`, or `TrainingGroup` for many processes."""

    def begin(self, position: Snapshot) -> None:
        """Be where a snapshot was taken."""

    def advance(self, num_steps: int) -> list[StepFigures]:
        """Take some steps of the phase."""

    def snapshot(self) -> Snapshot | None:
        """Where the run is."""

    def close(self) -> None:
        """Give back models and processes."""


class GeneratorTrainer:
    """Runs the phases of a recipe.

    Args:
        recipe: what to do.
        backbone: frozen model; only its layers after l_e run.
        material: encoded training data.
        folder: run folder; `checkpoint/` in it is resumed.
        on_step: sees each step.
        on_checkpoint: sees each checkpoint.
        source: backbone and data for other processes, when the recipe asks for them; by default
            the backbone that the recipe names, and the material itself.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        backbone: TrainableBackbone,
        material: Material,
        folder: Path,
        *,
        on_step: OnStep | None = None,
        on_checkpoint: OnCheckpoint | None = None,
        source: TrainingSource | None = None,
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.material = material
        self.folder = folder / "checkpoint"
        self.on_step = on_step
        self.on_checkpoint = on_checkpoint
        self.source = source
        self.curve: list[dict[str, float | str]] = []
        torch.manual_seed(recipe.seed)
        num_entities = len(material.drawings.by_entity)
        config = generator_config(recipe.model, backbone, num_entities)
        self.generator = LiveEditGenerator(config)
        # both sides begin alike: a question is its own best match from the start
        edit_side = self.generator.edit_extractor.state_dict()
        self.generator.input_extractor.load_state_dict(edit_side, strict=False)
        if recipe.model.relative_residual > 0:
            edits = [case.edit for case in material.data.cases[:CALIBRATION_EDITS]]
            size = recipe.model.relative_residual
            gain = calibrated_gain(self.generator, material.data.states(edits), size)
            self.generator.config = replace(config, gain=gain)
        self.snapshot = self._initial()

    def _initial(self) -> Snapshot:
        tensors = {f"{MODEL}{k}": v.clone() for k, v in self.generator.state_dict().items()}
        config = self.generator.config
        return Snapshot(config=config, phase=PHASES[0], step=0, tensors=tensors)

    def fit_visual_key(self) -> None:
        """The closed form: no steps, half a minute."""
        drawings = self.material.drawings
        entities_M = torch.tensor(
            [entity for entity, index in enumerate(drawings.by_entity) for _ in index]
        )
        index_M = torch.tensor([row for index in drawings.by_entity for row in index])
        report = fit_visual_key(
            self.generator.visual_key,
            drawings.rows[index_M].float(),
            entities_M,
            self.recipe.visual_key,
        )
        self.generator.config = replace(
            self.generator.config,
            visual_midpoint=report.visual_midpoint,
            rival_midpoint=report.rival_midpoint,
        )
        figures = {name: round(value, 4) for name, value in vars(report).items()}
        self.curve.append({"phase": "visual_key", "step": 0, **figures})
        print(f"visual_key {figures}", flush=True)
        self.snapshot = self._initial()

    def run(self) -> None:
        """Train from the last checkpoint (or the beginning) to the end."""
        if not self.load() and self.generator.has_pyramid and not self.curve:
            self.fit_visual_key()
        phases = self.recipe.plan.remaining(self.snapshot.phase, self.snapshot.step)
        worker = self.worker() if phases else None
        try:
            for phase, step in phases:
                assert worker is not None
                self.run_phase(worker, phase, step)
        finally:
            if worker is not None:
                worker.close()

    def worker(self) -> StepWorker:
        """In this process, unless the recipe asks for other processes or for a GPU, which takes an
        open Ray session."""
        sharding = self.recipe.sharding
        if not sharding.needs_processes:
            from workers.training_worker import TrainingWorker

            source = self.source or LoadedSource(backbone=self.backbone, data=self.material.data)
            return TrainingWorker(self.recipe.plan, source)
        from workers.training_group import TrainingGroup

        sent = self.source or SentSource(models=suffix_models(self.recipe), data=self.material.data)
        return TrainingGroup(self.recipe.plan, sent, sharding)

    def run_phase(self, worker: StepWorker, phase: Phase, step: int) -> None:
        """Take the steps of a phase from one of them on, with checkpoints."""
        if phase != self.snapshot.phase:  # a new phase: the weights of the last, and no moments
            model = {f"{MODEL}{name}": value for name, value in self.snapshot.model.items()}
            self.snapshot = replace(self.snapshot, phase=phase, step=step, tensors=model)
        worker.begin(self.snapshot)
        last, every = self.recipe.plan.phases[phase].steps, self.recipe.checkpoint.every_steps
        while step < last:
            stop = min(last, step + MOST_STEPS_AT_ONCE, (step // every + 1) * every)
            for figures in worker.advance(stop - step):
                self.record(figures, last)
            step = stop
            if step % every == 0 or step == last:
                self.checkpoint(worker)

    def record(self, done: StepFigures, num_steps: int) -> None:
        """Print and keep some steps, show each."""
        if done.step % PRINT_EVERY == 0 or done.step == num_steps - 1:
            parts = {name: round(value, 4) for name, value in done.figures.items()}
            self.curve.append(
                {
                    "phase": done.phase,
                    "step": done.step,
                    "learning_rate": done.learning_rate,
                    "gradient_norm": round(done.gradient_norm, 4),
                    **parts,
                }
            )
            print(
                f"{done.phase} {done.step}/{num_steps} {parts} {done.duration_s:.2f} s", flush=True
            )
        if self.on_step is not None:
            others = {
                "learning_rate": done.learning_rate,
                "gradient_norm": done.gradient_norm,
                "duration_s": done.duration_s,
            }
            self.on_step(done.phase, done.step, done.figures | others)

    def checkpoint(self, worker: StepWorker) -> None:
        """Write weights, moments and position, atomically, and show them."""
        taken = worker.snapshot()
        assert taken is not None
        self.snapshot = taken
        self.generator.load_state_dict(taken.model)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "partial.safetensors"
        position = {
            "phase": taken.phase,
            "step": taken.step,
            "config": taken.config.to_dict(),
            "curve": self.curve,
        }
        save_file(taken.tensors, partial, metadata={"position": json.dumps(position)})
        partial.replace(self.folder / "last.safetensors")
        if self.on_checkpoint is not None:
            self.on_checkpoint(self, taken.phase, taken.step)

    def load(self) -> bool:
        """Go to the last checkpoint; False when there is none."""
        path = self.folder / "last.safetensors"
        if not path.exists():
            return False
        with safe_open(path, "pt") as file:
            position = json.loads(file.metadata()["position"])
        self.snapshot = Snapshot(
            config=GeneratorConfig.from_dict(position["config"]),
            phase=position["phase"],
            step=position["step"],
            tensors=load_file(path),
        )
        self.generator.config = self.snapshot.config
        self.generator.load_state_dict(self.snapshot.model)
        self.curve = position["curve"]
        print(f"resumed at {position['phase']} {position['step']}", flush=True)
        return True


def generator_config(
    model: ModelSection, backbone: TrainableBackbone, num_entities: int
) -> GeneratorConfig:
    """The generator's config for a backbone and a number of training entities.

    Raises:
        ConfigError: the recipe wants a pyramid, but the backbone has none.
    """
    fields = asdict(model)
    ours = ("visual_rank", "num_sentinels", "nearest_sentinels", "visual_gate")
    for name in ("relative_residual", *ours):
        del fields[name]
    if model.visual_source == "tower_pyramid":
        if not backbone.visual_size:
            raise ConfigError(
                "model.visual_source: this backbone has no tower_pyramid; use "
                "model.visual_source=edit_layer"
            )
        num_sentinels = min(model.num_sentinels, num_entities)
        fields |= {
            "visual_size": backbone.visual_size,
            "visual_rank": model.visual_rank,
            "num_sentinels": num_sentinels,
            "nearest_sentinels": min(model.nearest_sentinels, num_sentinels),
            "visual_gate": model.visual_gate,
        }
    return GeneratorConfig(
        hidden_size=backbone.hidden_size,
        num_image_tokens=backbone.num_image_tokens,
        edit_layer=backbone.edit_layer,
        **fields,
    )
