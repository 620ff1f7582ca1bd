"""`--find-layer`: which layer of a backbone to edit, found on a short run for each candidate.

For each layer a fresh generator is trained for a few steps on a few dozen edits, and scored on
edits of other entities. Half of the training edits carry the target of another case, so that a
target must be read from the edit and not from the image. Routing is not trained here; `image_match`
says how well the hidden states of a layer would serve it.
"""

import dataclasses
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from liveedit_core.backbones.families import check_layer, first_edit_layer
from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.devices import device_of, moved
from liveedit_core.errors import ConfigError
from liveedit_core.method.editor import edit_input
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.schema import Case, ProbeKind
from liveedit_core.states import LayerStates
from liveedit_core.training.micro_batches import ExpertBatch
from liveedit_core.training.recipe import LossSection, OptimizationSection
from liveedit_core.training.step import TrainingModule, calibrated_gain, edited_logits
from liveedit_core.training.validation import split_by_entity
from pipelines.training.model_sizes import generator_config
from pipelines.training.recipe import LayerSearchSection, ModelSection
from workers.training_engine import TorchEngine

GENERALITY = (ProbeKind.TEXT_GENERALITY, ProbeKind.MODAL_GENERALITY)
WARMUP_STEPS = 5
_DEFAULT_DEPTHS = (0.35, 0.5, 0.65, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True)
class LayerScore:
    """Scores of a layer on entities that the generator was not trained on."""

    layer: int
    reliability: float
    """Fraction of correct target tokens on the edit's own question."""
    text_generality: float
    modal_generality: float
    image_match: float
    """Fraction of cases whose other image is nearest to the edit's own image, by the mean hidden
    state of the image tokens."""
    loss: float
    """Of the last training steps, in nats per token."""
    seconds: float
    by_case: tuple[float, ...] = ()
    """Mean of the three accuracies for each scored case; the same cases for every layer."""

    def score(self, *, has_visual_rows: bool) -> float:
        """Mean of the three accuracies, and of the match where routing looks at hidden states."""
        parts = [self.reliability, self.text_generality, self.modal_generality]
        return sum(parts + [self.image_match] * has_visual_rows) / (3 + has_visual_rows)


@dataclass(frozen=True, kw_only=True)
class LayerRanking:
    """All candidates, best first."""

    scores: tuple[LayerScore, ...]
    has_visual_rows: bool

    @property
    def recommended(self) -> int:
        return self.scores[0].layer

    @property
    def runners_up(self) -> tuple[int, ...]:
        """Layers that are not clearly worse than the recommended one."""
        best, *others = self.scores
        return tuple(row.layer for row in others if not is_clearly_better(best, row))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {**dataclasses.asdict(row), "score": row.score(has_visual_rows=self.has_visual_rows)}
            for row in self.scores
        ]
        content = {"recommended": self.recommended, "rivals": self.runners_up, "layers": rows}
        path.write_text(json.dumps(content, indent=2) + "\n")


def is_clearly_better(first: LayerScore, second: LayerScore) -> bool:
    """Whether the paired differences of two layers exceed two standard errors."""
    pairs = zip(first.by_case, second.by_case, strict=True)
    differences = torch.tensor([a - b for a, b in pairs])
    if len(differences) < 2:
        return False
    error = differences.std() / len(differences) ** 0.5
    return bool(differences.mean() > 2 * error)


def candidate_layers(num_layers: int, first: int = 0) -> tuple[int, ...]:
    """Five layers spread over the later part of a decoder, from `first` on; never the last, which
    has none after."""
    last = num_layers - 2
    layers = {min(last, max(first, round(depth * num_layers))) for depth in _DEFAULT_DEPTHS}
    return tuple(sorted(layers))


def find_layer(
    section: LayerSearchSection,
    model: ModelSection,
    backbone: VisionLanguageBackbone,
    cases: Sequence[Case],
    *,
    seed: int,
    say: Callable[[str], None],
) -> LayerRanking:
    """Try every candidate layer on the same cases, and rank them; `say` prints progress."""
    num_layers = len(backbone.decoder.layers)
    config = backbone.model.config
    layers = section.layers or candidate_layers(num_layers, first_edit_layer(config))
    for layer in layers:
        check_layer(config, layer, num_layers)
    split = split_by_entity(one_per_entity(cases), num_held_out=section.num_cases, seed=seed)
    training = draw_training(split.training, section.num_cases, seed)
    scores = []
    for layer in layers:
        cut = backbone.with_prompt_encoder(None).at_layer(layer)
        score = try_layer(section, model, cut, training, split.held_out, seed)
        scores.append(score)
        say(
            f"layer {layer}: reliability {score.reliability:.0%}, rephrased "
            f"{score.text_generality:.0%}, other image {score.modal_generality:.0%}, "
            f"{score.seconds:.0f} s"
        )
    has_visual_rows = model.visual_source == "edit_layer"
    ranked = sorted(scores, key=lambda row: (-row.score(has_visual_rows=has_visual_rows), row.loss))
    return LayerRanking(scores=tuple(ranked), has_visual_rows=has_visual_rows)


def one_per_entity(cases: Sequence[Case]) -> list[Case]:
    """The first case of each entity that has both generality probes; two cases of one entity would
    share their images."""
    by_entity: dict[str, Case] = {}
    for case in sorted(cases, key=lambda case: case.case_id):
        if {probe.kind for probe in case.probes} >= set(GENERALITY):
            by_entity.setdefault(case.entity, case)
    return list(by_entity.values())


def draw_training(cases: Sequence[Case], count: int, seed: int) -> list[Case]:
    """Some cases; every second one gets the target of the case before it."""
    if len(cases) < count:
        raise ConfigError(f"layer_search.num_cases: {count}, but only {len(cases)} can be used")
    rng = random.Random(f"{seed} layer search")
    drawn = rng.sample(sorted(cases, key=lambda case: case.case_id), count)
    for i in range(1, len(drawn), 2):
        drawn[i] = with_target(drawn[i], drawn[i - 1].edit.target)
    return drawn


def with_target(case: Case, target: str) -> Case:
    """The case with another target for its edit and its generality probes."""
    probes = tuple(
        replace(probe, target=target) if probe.kind in GENERALITY else probe
        for probe in case.probes
    )
    return replace(case, edit=replace(case.edit, target=target), probes=probes)


Views = tuple[LayerStates, ...]
"""Three questions with the target of one edit: the edit itself, a rephrasing, another image."""


def encode_views(backbone: Backbone, cases: Sequence[Case]) -> list[Views]:
    inputs: list[BackboneInput] = []
    for case in cases:
        probes = {probe.kind: probe for probe in case.probes}
        inputs.append(edit_input(case.edit))
        inputs += [
            replace(inputs[-1], prompt=probes[kind].prompt, image_bytes=probes[kind].image_bytes)
            for kind in GENERALITY
        ]
    states = backbone.encode(inputs)
    size = 1 + len(GENERALITY)
    return [tuple(states[i : i + size]) for i in range(0, len(states), size)]


def try_layer(
    section: LayerSearchSection,
    model: ModelSection,
    backbone: VisionLanguageBackbone,
    training: Sequence[Case],
    held_out: Sequence[Case],
    seed: int,
) -> LayerScore:
    """Train a generator for a few steps at one layer, and score it."""
    start_s = time.monotonic()
    views = encode_views(backbone, [*training, *held_out])
    trained, scored = views[: len(training)], views[len(training) :]
    torch.manual_seed(seed)
    model = model.with_changes(visual_source="edit_layer", prompt_source="edit_layer")
    config = generator_config(model, backbone, num_entities=0)
    generator = LiveEditGenerator(config)
    if model.relative_residual > 0:
        edits = [edit for edit, *_ in trained[: section.batch_size]]
        gain = calibrated_gain(generator, edits, model.relative_residual)
        generator.config = config.with_changes(gain=gain)
    module = TrainingModule(generator, backbone.suffix(), LossSection())
    losses = train_experts(section, module, trained, seed)
    by_view = torch.tensor(
        [token_accuracies(module, scored, view, section.batch_size) for view in range(3)]
    )
    accuracies = by_view.mean(1).tolist()
    tail = losses[-max(1, len(losses) // 5) :]
    return LayerScore(
        layer=backbone.edit_layer,
        reliability=accuracies[0],
        text_generality=accuracies[1],
        modal_generality=accuracies[2],
        image_match=image_match(scored),
        loss=sum(tail) / len(tail),
        seconds=time.monotonic() - start_s,
        by_case=tuple(by_view.mean(0).tolist()),
    )


def train_experts(
    section: LayerSearchSection, module: TrainingModule, items: Sequence[Views], seed: int
) -> list[float]:
    """Each question with the expert of its own edit (Eq. 8, 9); returns the loss of each step."""
    engine = TorchEngine(
        module, module.train_only("experts"), {}, OptimizationSection(), 1, device_of(module.suffix)
    )
    losses = []
    for step in range(section.steps):
        rng = random.Random(f"{seed} layer search {step}")
        chosen = rng.sample(list(items), min(section.batch_size, len(items)))
        batch = own_expert_batch(chosen, [rng.choice(views) for views in chosen])
        losses.append(engine.backward(batch)["nll"])
        engine.step(section.learning_rate * min(1.0, (step + 1) / WARMUP_STEPS))
    return losses


def own_expert_batch(items: Sequence[Views], questions: Sequence[LayerStates]) -> ExpertBatch:
    """Each question under the expert of its edit alone, with full weight."""
    edits = [edit for edit, *_ in items]
    return ExpertBatch(edits=edits, questions=list(questions), weights_BB=torch.eye(len(edits)))


@torch.no_grad()
def token_accuracies(
    module: TrainingModule, items: Sequence[Views], view: int, batch_size: int
) -> list[float]:
    """Fraction of correct target tokens of each question under the expert of its edit."""
    accuracies: list[float] = []
    for start in range(0, len(items), batch_size):
        chosen = items[start : start + batch_size]
        batch = own_expert_batch(chosen, [views[view] for views in chosen])
        batch = moved(batch, device_of(module.suffix))
        down_BRD, up_BRD = module.generator.write_matrices(batch.edits)
        logits = edited_logits(
            module.generator, module.suffix, batch.questions, batch.weights_BB, down_BRD, up_BRD
        )
        for row_OV, state in zip(logits, batch.questions, strict=True):
            is_correct = row_OV[:-1].argmax(-1) == state.target_ids_O
            accuracies.append(float(is_correct.float().mean()))
    return accuracies


def image_match(items: Sequence[Views]) -> float:
    """Fraction of items whose other image is nearest to the edit's image (centred cosine)."""
    own_BD = _mean_image_rows([views[0] for views in items])
    other_BD = _mean_image_rows([views[-1] for views in items])
    nearest = (other_BD @ own_BD.T).argmax(-1)
    return float((nearest == torch.arange(len(items), device=nearest.device)).float().mean())


def _mean_image_rows(states: Sequence[LayerStates]) -> Tensor:
    rows_BD = torch.stack([state.hidden_TD[slice(*state.image_span)].mean(0) for state in states])
    return normalize(rows_BD - rows_BD.mean(0), dim=-1)


def to_table(ranking: LayerRanking) -> Table:
    """The ranking for a terminal."""
    table = Table(title="Edit layers, best first")
    columns = ("layer", "score", "reliability", "rephrased", "other image", "image match")
    for name in (*columns, "loss", "time"):
        table.add_column(name, justify="right")
    for row in ranking.scores:
        fractions = (
            row.score(has_visual_rows=ranking.has_visual_rows),
            row.reliability,
            row.text_generality,
            row.modal_generality,
            row.image_match,
        )
        cells = [f"{100 * fraction:.1f} %" for fraction in fractions]
        table.add_row(str(row.layer), *cells, f"{row.loss:.2f}", f"{row.seconds:.0f} s")
    return table
