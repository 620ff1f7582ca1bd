"""The loop that trains the trained part of any editor, resumed from its last checkpoint.

    training split -> cases and pairs -> states at l_e, cached -> batches -> Rival.loss -> Adam

The data are drawn as those of the generator. A batch depends on the seed and the step alone, so a
resumed run computes what an undisturbed one would have computed.
"""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.trained.checkpoint import (
    TrainedFacts,
    count_parameters,
    save_rival,
)
from liveedit_core.baselines.trained.makers import make_rival
from liveedit_core.baselines.trained.rival import CaseBatch, batch_of, draw
from liveedit_core.baselines.trained.settings import RIVALS
from liveedit_core.errors import ConfigError, NumericsError
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS
from liveedit_core.schema import Case, ProbeKind
from liveedit_core.training.data import IMAGE_LOCALITY, TrainingData, draw_training_data
from liveedit_core.training.random_targets import TargetWriter
from liveedit_core.training.validation import split_by_entity
from liveedit_core.whole_files import whole_file, write_whole
from pipelines.job.recipe_loader import to_dict
from pipelines.job.state_cache import fill_cache, open_cache, state_encoder, training_source
from pipelines.training.data import Progress, choose_cases, vocabulary_words
from pipelines.training.editor_recipe import TrainEditorRecipe
from workers.models import ModelNames

PRINT_EVERY = 10
LOCALITIES = (*IMAGE_LOCALITY, ProbeKind.TEXT_LOCALITY)
MOMENT_KEYS = ("step", "exp_avg", "exp_avg_sq")
Say = Callable[[str], None]


def prepare_data(
    recipe: TrainEditorRecipe, backbone: VisionLanguageBackbone, cases: list[Case]
) -> tuple[TrainingData, TrainingData]:
    """Training data and those of held-out entities; their states are in the cache afterwards."""
    section, rng = recipe.data, random.Random(recipe.seed)
    split = split_by_entity(cases, num_held_out=section.held_out_edits, seed=recipe.seed)
    chosen = choose_cases(cases, 1, rng, split.held_out_entities)[: section.num_cases]
    words = vocabulary_words(backbone.tokenizer)
    writer = TargetWriter(backbone.count_target_tokens, words, MAX_TARGET_TOKENS)
    models = ModelNames(
        backbone=recipe.backbone.name,
        generator="",
        options=_options(recipe),
    )
    cache = open_cache(recipe.states, recipe.run_root, backbone)
    source = training_source(cache, backbone, models)
    data, held_out = (
        draw_training_data(
            some,
            source,
            num_pairs=num_pairs,
            localities=LOCALITIES,
            random_target=writer,
            rng=rng,
        )
        for some, num_pairs in (
            (chosen, section.num_pairs),
            (list(split.held_out)[: section.validation_cases], 0),
        )
    )
    inputs = [*data.inputs, *held_out.inputs]
    if cache is not None and cache.missing(inputs):
        with state_encoder(recipe.states, backbone, models) as encoder:
            fill_cache(cache, encoder, inputs, Progress("encoding edits and probes"))
    return data, held_out


class EditorTrainer:
    """Takes the steps of a recipe; checkpoints lie in the run's folder."""

    def __init__(
        self,
        recipe: TrainEditorRecipe,
        backbone: VisionLanguageBackbone,
        data: TrainingData,
        say: Say = print,
    ) -> None:
        self.recipe = recipe
        self.data = data
        self.say = say
        torch.manual_seed(recipe.seed)
        self.rival = make_rival(recipe.editor, recipe.settings, backbone).to(backbone.device)
        self.backbone = backbone
        self.step = 0
        self.seconds = 0.0
        parameters = dict(self.rival.named_parameters())
        self.optimizer = torch.optim.Adam(list(parameters.values()))
        self._resume()

    @property
    def folder(self) -> Path:
        return self.recipe.run_folder / "checkpoint"

    def run(self, *, until: int | None = None) -> None:
        """Train from the last checkpoint (or the beginning) to the end, or to an earlier step."""
        section, steps = self.recipe.optimization, self.recipe.optimization.steps
        last = steps if until is None else until
        if self.step == 0:
            self.rival.observe(self._batch(0))
        while self.step < last:
            start_s = time.perf_counter()
            total, figures = self.rival.loss(self._batch(self.step))
            if not torch.isfinite(total):
                raise NumericsError(
                    f"step {self.step}: the loss is {total.item()}; lower "
                    "optimization.learning_rate"
                )
            self.optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(self.rival.parameters(), self.recipe.max_gradient_norm)
            for group in self.optimizer.param_groups:
                group["lr"] = section.rate(self.step)
            self.optimizer.step()
            self.step += 1
            self.seconds += time.perf_counter() - start_s
            if self.step % PRINT_EVERY == 0 or self.step == steps:
                parts = ", ".join(f"{name} {float(part):.3f}" for name, part in figures.items())
                self.say(f"step {self.step}/{steps}: {parts}; {self.seconds:.0f} s")
            if self.step % self.recipe.checkpoint_steps == 0 or self.step == steps:
                self._write_checkpoint()

    def _batch(self, step: int) -> CaseBatch:
        return draw(self.data, self.recipe.optimization.batch_size, self.recipe.seed, step)

    def _settings(self) -> dict[str, object]:
        """What a resumed run must keep."""
        tree = to_dict(self.recipe)
        others = [name for name in RIVALS if name != self.recipe.editor]
        for name in ("run_root", "states", "checkpoint_steps", *others):
            tree.pop(name, None)
        return tree

    def _write_checkpoint(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.rival.state_dict().items()}
        for name, parameter in self.rival.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"moment.{key}.{name}"] = value
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {"step": self.step, "seconds": self.seconds, "settings": self._settings()}
        with whole_file(self.folder / "state.safetensors") as partial:
            held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            save_file(held, partial, metadata={"state": json.dumps(state)})

    def _resume(self) -> None:
        file = self.folder / "state.safetensors"
        if not file.exists():
            return
        with safe_open(file, "pt") as opened:
            state = json.loads(opened.metadata()["state"])
        if state["settings"] != json.loads(json.dumps(self._settings())):
            raise ConfigError(
                f"run_name: {self.recipe.run_folder} holds a run with other settings; name another"
            )
        tensors = load_file(file)
        self.rival.load_state_dict(
            {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        )
        for name, parameter in self.rival.named_parameters():
            found: dict[str, Tensor] = {
                key: tensors[f"moment.{key}.{name}"]
                for key in MOMENT_KEYS
                if f"moment.{key}.{name}" in tensors
            }
            if found:
                self.optimizer.state[parameter] = found
        self.step, self.seconds = state["step"], state["seconds"]
        self.say(f"resumed at step {self.step}")

    @torch.no_grad()
    def validate(self, held_out: TrainingData) -> dict[str, float]:
        """Losses on held-out cases: the rephrased edit, and the prompt-swap probe."""
        cases = held_out.cases
        batch = batch_of(
            held_out,
            [case.edit for case in cases],
            [case.generality[0] for case in cases],
            [case.prompt_swap for case in cases],
        )
        _, figures = self.rival.loss(batch)
        return {name: round(float(part), 4) for name, part in figures.items()}

    def save(self, folder: Path) -> None:
        """Write the trained part."""
        recipe = self.recipe
        facts = TrainedFacts(
            editor=recipe.editor,
            settings=recipe.settings.model_dump(mode="json"),
            backbone=self.backbone.digest,
            edit_layer=self.backbone.edit_layer,
            trained_on=recipe.benchmark.name or recipe.data.cases or "built-in training split",
            seed=recipe.seed,
            steps=self.step,
            batch_size=recipe.optimization.batch_size,
            seconds=round(self.seconds, 3),
            num_parameters=count_parameters(self.rival),
        )
        save_rival(self.rival, facts, folder)


def _options(recipe: TrainEditorRecipe) -> LoadOptions:
    return recipe.backbone.options(recipe.benchmark.protocol).with_changes(keeps_float32=True)


def train_editor(recipe: TrainEditorRecipe, say: Say = print) -> Path:
    """Prepare the data, train, and write the trained part; its folder."""
    from liveedit_core.builtin.backbone import load_named_backbone
    from pipelines.job.accepted_cases import accepted_cases, answer_alone, on_cases
    from pipelines.job.cases import load_training_cases

    backbone = load_named_backbone(recipe.backbone.name, _options(recipe), builtin_batch_size=32)
    cases = load_training_cases(recipe.benchmark, recipe.data.cases)
    if recipe.data.cases or recipe.benchmark.is_published:
        cases = accepted_cases(cases, backbone, say)
    return on_cases(
        cases,
        lambda some: _train_on(recipe, backbone, some, say),
        lambda case: answer_alone(backbone, case),
        say,
    )


def _train_on(
    recipe: TrainEditorRecipe, backbone: VisionLanguageBackbone, cases: list[Case], say: Say
) -> Path:
    data, held_out = prepare_data(recipe, backbone, cases)
    trainer = EditorTrainer(recipe, backbone, data, say)
    trainer.run()
    folder = recipe.run_folder / "editor"
    trainer.save(folder)
    if held_out.cases:
        losses = trainer.validate(held_out)
        write_whole(recipe.run_folder / "validation.json", json.dumps(losses) + "\n")
        say(f"held-out cases: {losses}")
    return folder
