"""The training loop: phases and checkpoints; a worker computes the steps.

The same loop drives a worker in this process and a gang of many. A run is its position (weights,
moments, phase, step); everything random is drawn from it, so a resumed run computes what an
undisturbed one would have computed.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import Backbone
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.training.prompt_key_fit import fit_prompt_key
from liveedit_core.training.recipe import PHASES, Phase
from liveedit_core.training.snapshot import MODEL, Snapshot, StepFigures, with_prefix
from liveedit_core.training.step import calibrated_gain
from liveedit_core.training.visual_key_fit import fit_visual_key
from pipelines.training import questions
from pipelines.training.cases import suffix_models
from pipelines.training.data import Material
from pipelines.training.model_sizes import generator_config
from pipelines.training.recipe import TrainRecipe
from workers.messages import TrainingSource

if TYPE_CHECKING:
    from workers.training_group import TrainingGroup
    from workers.training_worker import TrainingWorker

PRINT_EVERY = 20
MAX_STEPS_PER_CALL = 10
"""Steps that a gang takes in one call: how late figures may arrive."""
CALIBRATION_EDITS = 32
PROMPT_CHUNK = 32

Curve = list[dict[str, float | str]]
"""Rows of `phase`, `step` and figures."""
OnStep = Callable[[Phase, int, dict[str, float]], None]
"""Gets phase, step (from 0) and figures: `total`, losses, accuracies, `learning_rate`,
`gradient_norm`, `duration_s`."""
OnCheckpoint = Callable[[LiveEditGenerator, Snapshot, Curve], None]
"""Gets the generator, where the run is, and the curve so far, to which it may append."""


class GeneratorTrainer:
    """Runs the phases of a recipe.

    `load_backbone` loads the backbone in other processes, if the recipe asks for them; by default
    the one that the recipe names.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        backbone: VisionLanguageBackbone,
        material: Material,
        *,
        on_step: OnStep | None = None,
        on_checkpoint: OnCheckpoint | None = None,
        load_backbone: Callable[[], Backbone] | None = None,
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.material = material
        self.on_step = on_step
        self.on_checkpoint = on_checkpoint
        self.load_backbone = load_backbone
        self.curve: Curve = []
        self.seconds = 0.0
        """Of the fits and steps so far, those of the run that is resumed included."""
        torch.manual_seed(recipe.seed)
        pyramids = material.pyramids
        num_others = len(pyramids.rows) - sum(map(len, pyramids.by_entity))
        num_entities = len(pyramids.by_entity) + num_others
        config = generator_config(recipe.model, backbone, num_entities=num_entities)
        config = config.with_changes(prompt_protocol=recipe.benchmark.protocol)
        self.generator = LiveEditGenerator(config)
        # both sides begin alike: a question is its own best match from the start
        edit_side = self.generator.edit_extractor.state_dict()
        self.generator.input_extractor.load_state_dict(edit_side, strict=False)
        if recipe.model.relative_residual > 0:
            edits = [case.edit for case in material.data.cases[:CALIBRATION_EDITS]]
            size = recipe.model.relative_residual
            gain = calibrated_gain(self.generator, material.data.states(edits), size)
            self.generator.config = config.with_changes(gain=gain)
        self.snapshot = self._initial()

    def _initial(self) -> Snapshot:
        state = {name: value.clone() for name, value in self.generator.state_dict().items()}
        return Snapshot(
            config=self.generator.config, phase=PHASES[0], step=0, tensors=with_prefix(MODEL, state)
        )

    def resume(self, snapshot: Snapshot, curve: Curve) -> None:
        """Continue from a checkpoint of this run, in place of the beginning."""
        self.snapshot = snapshot
        self.generator.config = snapshot.config
        self.generator.load_state_dict(snapshot.model)
        self.curve, self.seconds = curve, snapshot.seconds
        print(f"resumed at {snapshot.phase} {snapshot.step}", flush=True)

    def fit_visual_key(self) -> None:
        """The closed form: no steps, half a minute."""
        pyramids = self.material.pyramids
        entities_M = torch.tensor(
            [entity for entity, index in enumerate(pyramids.by_entity) for _ in index]
        )
        index_M = torch.tensor([row for index in pyramids.by_entity for row in index])
        report = fit_visual_key(
            self.generator.visual_key,
            pyramids.rows[index_M].float(),
            entities_M,
            self.recipe.visual_key,
            others_XE=pyramids.rows[~torch.isin(torch.arange(len(pyramids.rows)), index_M)].float(),
        )
        if self.generator.config.turned_levels and self.backbone.image_tower:
            self.generator.visual_key.set_turned(self.backbone.image_tower.turned)
        self.generator.config = self.generator.config.with_changes(
            visual_midpoint=report.visual_midpoint, other_image_midpoint=report.other_image_midpoint
        )
        self._fitted("visual_key", vars(report))

    def fit_prompt_key(self) -> None:
        """The closed form, in place of the prompt phase."""
        encoder, families = self.backbone.prompt_encoder, questions.question_families()
        assert encoder is not None
        texts = sorted((text for family in families for text in family), key=len)
        rows: dict[str, Tensor] = {}
        for start in range(0, len(texts), PROMPT_CHUNK):
            chunk = texts[start : start + PROMPT_CHUNK]
            rows |= dict(zip(chunk, encoder.encode(chunk), strict=True))
        embeddings_MP = torch.stack([rows[text] for family in families for text in family])
        families_M = torch.tensor([i for i, family in enumerate(families) for _ in family])
        key, section = self.generator.prompt_key, self.recipe.prompt_key
        self._fitted("prompt_key", vars(fit_prompt_key(key, embeddings_MP, families_M, section)))

    def _fitted(self, name: str, report: dict[str, float]) -> None:
        figures = {figure: round(value, 4) for figure, value in report.items()}
        self.curve.append({"phase": name, "step": 0, **figures})
        print(f"{name} {figures}", flush=True)
        self.snapshot = self._initial()

    def run(self) -> None:
        """Train from the resumed checkpoint (or the beginning) to the end."""
        if not self.curve:
            start_s = time.perf_counter()
            if self.generator.has_pyramid:
                self.fit_visual_key()
            if self.generator.has_prompt_key:
                self.fit_prompt_key()
            self.seconds += time.perf_counter() - start_s
        phases = self.recipe.plan.remaining(self.snapshot.phase, self.snapshot.step)
        if not phases:
            return
        worker = self.worker()
        try:
            for phase, step in phases:
                self.run_phase(worker, phase, step)
        finally:
            worker.close()

    def worker(self) -> "TrainingWorker | TrainingGroup":
        """In this process, or a gang in an open Ray session if the recipe wants shards or GPUs."""
        sharding = self.recipe.sharding
        if not sharding.needs_processes:
            from workers.training_worker import TrainingWorker

            source = TrainingSource(load_backbone=lambda: self.backbone, data=self.material.data)
            return TrainingWorker(self.recipe.plan, source)
        from workers.training_group import TrainingGroup

        load_backbone = self.load_backbone or suffix_models(self.recipe).load_backbone
        source = TrainingSource(load_backbone=load_backbone, data=self.material.data)
        return TrainingGroup(self.recipe.plan, source, sharding)

    def run_phase(self, worker: "TrainingWorker | TrainingGroup", phase: Phase, step: int) -> None:
        """Take the steps of a phase from one of them on, with checkpoints."""
        if phase != self.snapshot.phase:  # a new phase: the weights of the last, and no moments
            tensors = with_prefix(MODEL, self.snapshot.model)
            self.snapshot = replace(self.snapshot, phase=phase, step=step, tensors=tensors)
        worker.begin(self.snapshot)
        last, every = self.recipe.plan.phases[phase].steps, self.recipe.checkpoint.every_steps
        while step < last:
            stop = min(last, step + MAX_STEPS_PER_CALL, (step // every + 1) * every)
            for figures in worker.advance(stop - step):
                self.record(figures, last)
            step = stop
            if step % every == 0 or step == last:
                self.checkpoint(worker)

    def record(self, done: StepFigures, num_steps: int) -> None:
        """Pass a step to `on_step`; print some steps and add them to the curve."""
        self.seconds += done.duration_s
        others = {"learning_rate": done.learning_rate, "gradient_norm": done.gradient_norm}
        if done.step % PRINT_EVERY == 0 or done.step == num_steps - 1:
            parts = {name: round(value, 4) for name, value in done.figures.items()}
            rounded = others | {"gradient_norm": round(done.gradient_norm, 4)}
            self.curve.append({"phase": done.phase, "step": done.step, **rounded, **parts})
            print(
                f"{done.phase} {done.step}/{num_steps} {parts} {done.duration_s:.2f} s", flush=True
            )
        if self.on_step is not None:
            figures = done.figures | others | {"duration_s": done.duration_s}
            self.on_step(done.phase, done.step, figures)

    def checkpoint(self, worker: "TrainingWorker | TrainingGroup") -> None:
        """Fetch weights and moments from the worker, and pass them to `on_checkpoint`."""
        taken = worker.snapshot()
        assert taken is not None
        self.snapshot = taken = replace(taken, seconds=self.seconds)
        self.generator.load_state_dict(taken.model)
        if self.on_checkpoint is not None:
            self.on_checkpoint(self.generator, taken, self.curve)
