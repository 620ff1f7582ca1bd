"""`--find-layer`: which layer of a backbone to edit, found on a short run for each candidate.

For each layer a fresh generator learns to write experts for a few dozen edits, some steps only, and
is scored on edits of other entities: does the expert of an edit make the backbone say its target,
to its own question, to a rephrasing, and to another drawing? Half of the training edits carry
the target of another case, so that a target must be read from the edit and not from the image.
Routing is not trained here; what a layer means for it is told by how often the image rows of
another drawing are nearest to those of the own image (`image_match`).
"""

import dataclasses
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from rich.table import Table
from torch import Tensor

from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.errors import ConfigError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.editor import edit_input
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.routing import fused_residual
from liveedit_core.schema import Case, ProbeKind
from liveedit_core.states import LayerStates, hidden_rows
from liveedit_core.training.losses import target_nll
from liveedit_core.training.step import calibrated_gain
from liveedit_core.training.validation import split_by_entity
from pipelines.training.recipe import ModelSection
from pipelines.training.training_sections import LayerSearchSection

ASKED = (ProbeKind.TEXT_GENERALITY, ProbeKind.MODAL_GENERALITY)
WARMUP_STEPS = 5
MAX_GRADIENT_NORM = 1.0
_DEFAULT_DEPTHS = (0.35, 0.5, 0.65, 0.8, 0.9)

Say = Callable[[str], None]


class SearchBackbone(Backbone, Protocol):
    """A backbone that can end an answer."""

    end_id: int


@dataclass(frozen=True, kw_only=True)
class LayerScore:
    """What a layer reached on edits of entities that the generator did not see."""

    layer: int
    reliability: float
    """Share of target tokens that are right on the edit's own question."""
    text_generality: float
    modal_generality: float
    image_match: float
    """Share of cases whose other drawing is nearest to the own image, by mean image rows."""
    loss: float
    """Of the last training steps, in nats a token."""
    seconds: float
    by_case: tuple[float, ...] = ()
    """Mean of the three accuracies for each scored case; the same cases for every layer."""

    def score(self, *, has_visual_rows: bool) -> float:
        """Mean of the three accuracies, and of the match where routing looks at image rows."""
        parts = [self.reliability, self.text_generality, self.modal_generality]
        return sum(parts + [self.image_match] * has_visual_rows) / (3 + has_visual_rows)


@dataclass(frozen=True, kw_only=True)
class LayerRanking:
    """All candidates, best first."""

    scores: tuple[LayerScore, ...]
    has_visual_rows: bool

    @property
    def recommended(self) -> int:
        """The layer to edit."""
        return self.scores[0].layer

    @property
    def rivals(self) -> tuple[int, ...]:
        """Layers that this search cannot tell from the recommended one: the mean difference over
        the cases is less than two standard errors."""
        best, *others = self.scores
        return tuple(row.layer for row in others if not is_clearly_better(best, row))

    def save(self, path: Path) -> None:
        """Write the ranking as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {**dataclasses.asdict(row), "score": row.score(has_visual_rows=self.has_visual_rows)}
            for row in self.scores
        ]
        content = {"recommended": self.recommended, "rivals": self.rivals, "layers": rows}
        path.write_text(json.dumps(content, indent=2) + "\n")


def is_clearly_better(first: LayerScore, second: LayerScore) -> bool:
    """Whether the paired differences of two layers are more than noise."""
    pairs = zip(first.by_case, second.by_case, strict=True)
    differences = torch.tensor([a - b for a, b in pairs])
    if len(differences) < 2:
        return False
    error = differences.std() / len(differences) ** 0.5
    return bool(differences.mean() > 2 * error)


@dataclass(frozen=True, kw_only=True)
class EncodedItem:
    """States of an edit and of the questions that its expert must answer: the edit itself, a
    rephrasing, another drawing."""

    edit: LayerStates
    questions: tuple[LayerStates, ...]


def candidate_layers(num_layers: int) -> tuple[int, ...]:
    """Five layers spread over the later part of a decoder; never the last, which has none after."""
    last = num_layers - 2
    layers = {min(last, max(0, round(depth * num_layers))) for depth in _DEFAULT_DEPTHS}
    return tuple(sorted(layers))


def find_layer(
    section: LayerSearchSection,
    model: ModelSection,
    load_backbone: Callable[[int], SearchBackbone],
    cases: Sequence[Case],
    *,
    num_layers: int,
    seed: int,
    say: Say,
) -> LayerRanking:
    """Try every candidate layer and rank them.

    Args:
        section: how long and on how much.
        model: shape of the generator.
        load_backbone: gives the backbone cut at a layer.
        cases: of the training split.
        num_layers: decoder layers of the backbone.
        seed: of the draw of cases, of initial weights and of batches; the same for each layer.
        say: takes progress messages.

    Raises:
        ConfigError: a candidate is no layer with layers after it, or there are too few cases.
    """
    layers = section.layers or candidate_layers(num_layers)
    if outside := [layer for layer in layers if not 0 <= layer <= num_layers - 2]:
        raise ConfigError(
            f"layer_search.layers: {outside} of a backbone with {num_layers} layers; expected 0 to "
            f"{num_layers - 2}, since layers must follow the edited one"
        )
    split = split_by_entity(one_per_entity(cases), num_held_out=section.num_cases, seed=seed)
    training = draw_training(split.training, section.num_cases, seed)
    scores = []
    for layer in layers:
        score = try_layer(section, model, load_backbone(layer), training, split.held_out, seed)
        scores.append(score)
        say(
            f"layer {layer}: reliability {score.reliability:.0%}, rephrased "
            f"{score.text_generality:.0%}, other drawing {score.modal_generality:.0%}, "
            f"{score.seconds:.0f} s"
        )
    has_visual_rows = model.visual_source == "edit_layer"
    ranked = sorted(scores, key=lambda row: (-row.score(has_visual_rows=has_visual_rows), row.loss))
    return LayerRanking(scores=tuple(ranked), has_visual_rows=has_visual_rows)


def one_per_entity(cases: Sequence[Case]) -> list[Case]:
    """The first case of each entity that has the questions that are asked here; two cases of one
    entity would share their images."""
    by_entity: dict[str, Case] = {}
    for case in sorted(cases, key=lambda case: case.case_id):
        if {probe.kind for probe in case.probes} >= set(ASKED):
            by_entity.setdefault(case.entity, case)
    return list(by_entity.values())


def draw_training(cases: Sequence[Case], count: int, seed: int) -> list[Case]:
    """Some cases; every second one gets the target of the case before it.

    Raises:
        ConfigError: there are fewer.
    """
    if len(cases) < count:
        raise ConfigError(f"layer_search.num_cases: {count}, but only {len(cases)} can be used")
    rng = random.Random(f"{seed} layer search")
    drawn = rng.sample(sorted(cases, key=lambda case: case.case_id), count)
    for i in range(1, len(drawn), 2):
        drawn[i] = with_target(drawn[i], drawn[i - 1].edit.target)
    return drawn


def with_target(case: Case, target: str) -> Case:
    """The case with another answer to its edit and to the questions that its expert answers."""
    probes = tuple(
        replace(probe, target=target) if probe.kind in ASKED else probe for probe in case.probes
    )
    return replace(case, edit=replace(case.edit, target=target), probes=probes)


def try_layer(
    section: LayerSearchSection,
    model: ModelSection,
    backbone: SearchBackbone,
    training: Sequence[Case],
    held_out: Sequence[Case],
    seed: int,
) -> LayerScore:
    """Train a generator for a few steps at one layer, and score it."""
    start_s = time.monotonic()
    items = encode_items(backbone, [*training, *held_out])
    trained, scored = items[: len(training)], items[len(training) :]
    torch.manual_seed(seed)
    generator = LiveEditGenerator(search_config(model, backbone))
    if model.relative_residual > 0:
        edits = [item.edit for item in trained[: section.batch_size]]
        gain = calibrated_gain(generator, edits, model.relative_residual)
        generator.config = replace(generator.config, gain=gain)
    losses = train_experts(section, generator, backbone, trained, seed)
    by_view = torch.tensor(
        [token_hits(generator, backbone, scored, view, section.batch_size) for view in range(3)]
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


def search_config(model: ModelSection, backbone: Backbone) -> GeneratorConfig:
    """The part of a generator that writes experts, in the shape of the recipe."""
    return GeneratorConfig(
        hidden_size=backbone.hidden_size,
        num_image_tokens=backbone.num_image_tokens,
        edit_layer=backbone.edit_layer,
        module_dim=model.module_dim,
        num_queries=model.num_queries,
        num_attention_heads=model.num_attention_heads,
        rank=model.rank,
        num_target_positions=model.num_target_positions,
        has_target_embeddings=model.has_target_embeddings,
    )


def encode_items(backbone: Backbone, cases: Sequence[Case]) -> list[EncodedItem]:
    """Rows at the layer of edits and questions; the edit's own question is the edit."""
    inputs: list[BackboneInput] = []
    for case in cases:
        probes = {probe.kind: probe for probe in case.probes}
        inputs.append(edit_input(case.edit))
        inputs += [
            BackboneInput(
                prompt=probes[kind].prompt,
                target=case.edit.target,
                image_bytes=probes[kind].image_bytes,
            )
            for kind in ASKED
        ]
    states = backbone.encode(inputs)
    size = 1 + len(ASKED)
    return [
        EncodedItem(edit=states[i], questions=tuple(states[i : i + size]))
        for i in range(0, len(states), size)
    ]


def train_experts(
    section: LayerSearchSection,
    generator: LiveEditGenerator,
    backbone: SearchBackbone,
    items: Sequence[EncodedItem],
    seed: int,
) -> list[float]:
    """Each question with the expert of its own edit (Eq. 8, 9); returns the loss of each step."""
    optimizer = torch.optim.Adam(generator.parameters(), lr=section.learning_rate)
    losses = []
    for step in range(section.steps):
        rng = random.Random(f"{seed} layer search {step}")
        batch = rng.sample(list(items), min(section.batch_size, len(items)))
        for group in optimizer.param_groups:
            group["lr"] = section.learning_rate * min(1.0, (step + 1) / WARMUP_STEPS)
        questions = [rng.choice(item.questions) for item in batch]
        logits = answers(generator, backbone, [item.edit for item in batch], questions)
        end = torch.tensor([backbone.end_id])
        loss = target_nll(logits, [torch.cat([state.target_ids_O, end]) for state in questions])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def answers(
    generator: LiveEditGenerator,
    backbone: Backbone,
    edits: Sequence[LayerStates],
    questions: Sequence[LayerStates],
) -> list[Tensor]:
    """Logits [O + 1, V] of each question under the expert of its edit alone; differentiable."""
    down_BRD, up_BRD = generator.write_matrices(edits)
    hidden_BTD = hidden_rows(questions).rows_BSD
    normed_BTD = generator.hidden_norm(hidden_BTD)
    weights_BB, gain = torch.eye(len(edits)), generator.config.gain
    residual = fused_residual(normed_BTD, weights_BB, down_BRD, up_BRD, gain)
    return backbone.target_logits(questions, hidden_BTD + residual, has_end=True)


@torch.no_grad()
def token_hits(
    generator: LiveEditGenerator,
    backbone: Backbone,
    items: Sequence[EncodedItem],
    view: int,
    batch_size: int,
) -> list[float]:
    """Share of right target tokens of each question when the expert of its edit answers it."""
    hits: list[float] = []
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        questions = [item.questions[view] for item in batch]
        logits = answers(generator, backbone, [item.edit for item in batch], questions)
        for row_OV, state in zip(logits, questions, strict=True):
            right = row_OV[: len(state.target_ids_O)].argmax(-1) == state.target_ids_O
            hits.append(float(right.float().mean()))
    return hits


def image_match(items: Sequence[EncodedItem]) -> float:
    """Share of items whose other drawing is nearest to the own image (centred cosine)."""
    own_BD = _mean_image_rows([item.edit for item in items])
    other_BD = _mean_image_rows([item.questions[-1] for item in items])
    nearest = (other_BD @ own_BD.T).argmax(-1)
    return float((nearest == torch.arange(len(items))).float().mean())


def _mean_image_rows(states: Sequence[LayerStates]) -> Tensor:
    rows_BD = torch.stack([state.hidden_TD[slice(*state.image_span)].mean(0) for state in states])
    return torch.nn.functional.normalize(rows_BD - rows_BD.mean(0), dim=-1)


def to_table(ranking: LayerRanking) -> Table:
    """The ranking for a terminal."""
    table = Table(title="Edit layers, best first")
    columns = ("layer", "score", "reliability", "rephrased", "other drawing", "image match")
    for name in (*columns, "loss", "time"):
        table.add_column(name, justify="right")
    for row in ranking.scores:
        shares = (
            row.score(has_visual_rows=ranking.has_visual_rows),
            row.reliability,
            row.text_generality,
            row.modal_generality,
            row.image_match,
        )
        cells = [f"{100 * share:.1f} %" for share in shares]
        table.add_row(str(row.layer), *cells, f"{row.loss:.2f}", f"{row.seconds:.0f} s")
    return table
