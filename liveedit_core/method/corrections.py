"""Which experts a new edit is about: the same image, and a prompt that means the same.

    same image     sim(phi_b, phi_a) - threshold >= ratio * the margin of image b with itself;
                   with a runner-up filter the threshold is 0
    same meaning   sigmoid(sim(psi_b, psi_a)) >= 0.9 (LEAST_GATE), and the same from a to b

Both are what routing itself asks (`visual_gates`, `hard_filter`), with a stricter prompt gate: an
edit that is replaced by mistake is lost, an answer that another one competes with is not. Without a
visual key, or without a prompt gate, nothing is about another edit; only equal content is
(`inputs.same_question`). Textual edits are all of the same image: none.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.features import EditQuestion
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.quantized import QuantizedSegment
from liveedit_core.method.repository import FeatureRows
from liveedit_core.method.routing import (
    has_image,
    own_similarity,
    paired_similarity,
    similarity,
    visual_similarity,
)
from liveedit_core.method.shortlist import as_they_are, of_same_image
from liveedit_core.states import LayerStates

LEAST_GATE = 0.9
"""On `development` 43 of 50 corrections reach it, and 30 of 246 pairs of different questions about
one image; 0.5: 45 and 40 (table in METHOD.md, log of 2026-11-30)."""


@torch.no_grad()
def edit_questions(
    generator: LiveEditGenerator, states: Sequence[LayerStates]
) -> list[EditQuestion]:
    """The questions of edits from the states that their experts are written from."""
    if not states:
        return []
    features = generator.input_features(states)
    assert features.sentinel_BQM is not None
    config, own_BQM = generator.config, features.visual_BQM
    if config.visual_filter == "runner_up":
        own_BQM = own_BQM[:, :1]
        threshold_B = torch.zeros_like(own_BQM[:, 0, 0])
    else:
        threshold_B = paired_similarity(own_BQM, features.sentinel_BQM)
    own_B = torch.full_like(threshold_B, math.inf)
    if features.same_image_BQM is not None:
        own_B = own_similarity(features, config) - threshold_B
        own_B[~has_image(features.visual_BQM.flatten(1))] = math.inf
    return [
        EditQuestion(
            visual_QM=own_BQM[i].float().clone(),
            prompt_QM=features.prompt_BQM[i].float().clone(),
            threshold=float(threshold_B[i]),
            own_margin=float(own_B[i]),
        )
        for i in range(len(states))
    ]


def same_image(
    questions: Sequence[EditQuestion],
    visual_features_NK: FeatureRows,
    config: GeneratorConfig,
    scanned: Sequence[QuantizedSegment] | None = None,
) -> list[list[int]]:
    """For each question, the positions of the experts whose image it shows; `scanned` are their
    features, `quantized`, None: as they are."""
    scanned = as_they_are(visual_features_NK) if scanned is None else scanned
    position_U = of_same_image(questions, scanned, config)
    asked_BQM = torch.stack([q.visual_QM for q in questions])
    visual_BU = visual_similarity(asked_BQM, visual_features_NK[position_U], config)
    threshold_B = visual_BU.new_tensor([q.threshold for q in questions])
    own_B = visual_BU.new_tensor([q.own_margin for q in questions])
    is_same_BU = visual_BU - threshold_B[:, None] >= config.same_image_ratio * own_B[:, None]
    return [position_U[is_same_U].tolist() for is_same_U in is_same_BU.cpu()]


def prompt_similarities(questions: Sequence[EditQuestion], prompt_features_NK: Tensor) -> Tensor:
    """Prompt similarity of each question with each expert, float32 [B, N]."""
    return similarity(torch.stack([q.prompt_QM for q in questions]), prompt_features_NK)


def passes_gate(similarities: Tensor, config: GeneratorConfig) -> Tensor:
    """Where prompts mean the same, bool; nowhere without a prompt gate."""
    if config.min_gate <= 0:
        return torch.zeros_like(similarities, dtype=torch.bool)
    return similarities.sigmoid() >= max(config.min_gate, LEAST_GATE)
