"""The losses of one training step, phase by phase (METHOD.md 5 and 10).

    prompt   routing features of prompts: rephrasings pass the gate, other questions do not
    experts  each question with the expert of its own edit
    joint    the paper's step: mixture masks, edit losses and all routing losses at once

No phase runs a layer up to l_e; experts and joint run the layers after it, logits at targets only.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.protocol import Backbone
from liveedit_core.generator import LiveEditGenerator
from liveedit_core.losses import (
    KlDirection,
    gate_loss,
    hard_neighbour,
    hard_sentinel,
    info_nce,
    locality_kl,
    soft_absolute,
    target_nll,
)
from liveedit_core.routing import fused_residual, paired_similarity, route, similarity
from liveedit_core.sampling import draw_different_domains, draw_same_domain, mixture_mask
from liveedit_core.states import LayerStates, hidden_rows
from liveedit_core.training_data import TrainingData

MINIMUM_OWN_WEIGHT = 0.6
MAXIMUM_OTHER_WEIGHT = 0.3


@dataclass(frozen=True, kw_only=True)
class Losses:
    """A total to descend, and its parts and accuracies for the curve."""

    total: Tensor
    parts: dict[str, float]


def prompt_losses(
    generator: LiveEditGenerator, data: TrainingData, chosen: Sequence[int], rng: random.Random
) -> Losses:
    """Soft-routing losses with true negatives (Eq. 15, 16).

    In production many edits ask the same question, so another item of the batch is no negative.
    Here the positives of an edit are itself, its rephrasing and its other picture; the negatives
    are the other question about its picture, and another edit of the same thing.
    """
    cases = [data.cases[i] for i in chosen]
    siblings = [data.siblings[case.thing] for case in cases]
    others = [
        rng.choice([s for s in group if s != i] or [i])
        for i, group in zip(chosen, siblings, strict=True)
    ]
    asked = [rng.choice((case.edit, *case.generality)) for case in cases]
    swapped = [case.prompt_swap for case in cases]
    rivals = [
        rng.choice((data.cases[o].edit, *data.cases[o].generality)) if o != i else case.prompt_swap
        for i, o, case in zip(chosen, others, cases, strict=True)
    ]
    stored = generator.edit_features(data.states([case.edit for case in cases])).prompt_BQM
    features = generator.input_features(data.states([*asked, *swapped, *rivals])).prompt_BQM
    own, swap, rival = features.split(len(cases))
    scores = [paired_similarity(side, stored) for side in (own, swap, rival)]
    absolute = gate_loss(scores[0], torch.cat(scores[1:]))
    relative = info_nce(torch.stack(scores, dim=1), torch.zeros(len(cases), dtype=torch.int64))
    parts = {
        "absolute": absolute.item(),
        "relative": relative.item(),
        "own_passes": (scores[0] > 0).float().mean().item(),
        "swap_passes": (scores[1] > 0).float().mean().item(),
        "rival_passes": (scores[2] > 0).float().mean().item(),
    }
    return Losses(total=absolute + relative, parts=parts)


def expert_losses(
    generator: LiveEditGenerator,
    backbone: Backbone,
    edits: Sequence[LayerStates],
    questions: Sequence[LayerStates],
    end_id: int,
    weights_rng: torch.Generator,
) -> Losses:
    """Reliability and generality NLL, each question with the expert of its own edit (Eq. 8, 9).

    The own weight is drawn from 0.6..1, and the expert of one other edit gets up to 0.3: what soft
    routing does at inference when it is not quite sure.
    """
    size = len(edits)
    down_BRD, up_BRD = generator.write_matrices(edits)
    own = torch.rand(size, generator=weights_rng) * (1 - MINIMUM_OWN_WEIGHT) + MINIMUM_OWN_WEIGHT
    other = torch.rand(size, generator=weights_rng) * MAXIMUM_OTHER_WEIGHT
    other = other * (torch.rand(size, generator=weights_rng) < 0.5)
    weights_BB = torch.diag(own) + torch.diag(other).roll(1, dims=1)
    logits = edited_logits(generator, backbone, questions, weights_BB, down_BRD, up_BRD)
    end = torch.tensor([end_id])
    labels = [torch.cat([state.target_ids_O, end]) for state in questions]
    loss = target_nll(logits, labels)
    hits = [
        (row[:-1].argmax(-1) == label[:-1]).float().mean()
        for row, label in zip(logits, labels, strict=True)
    ]
    parts = {"nll": loss.item(), "token_accuracy": torch.stack(hits).mean().item()}
    return Losses(total=loss, parts=parts)


def edited_logits(
    generator: LiveEditGenerator,
    backbone: Backbone,
    questions: Sequence[LayerStates],
    weights_BN: Tensor,
    down_NRD: Tensor,
    up_NRD: Tensor,
) -> list[Tensor]:
    """Logits (end position included) of questions under weighted experts; differentiable."""
    hidden_BTD = hidden_rows(questions).rows_BSD
    normed_BTD = generator.hidden_norm(hidden_BTD)
    residual = fused_residual(normed_BTD, weights_BN, down_NRD, up_NRD, generator.config.gain)
    return backbone.target_logits(questions, hidden_BTD + residual, has_end=True)


def joint_losses(
    generator: LiveEditGenerator,
    backbone: Backbone,
    data: TrainingData,
    chosen: Sequence[int],
    rng: random.Random,
    masks_rng: torch.Generator,
    kl_direction: KlDirection = "original_to_edited",
) -> Losses:
    """The paper's step: edit losses under mixture masks and all routing losses (Eq. 8 to 16)."""
    cases = [data.cases[i] for i in chosen]
    size = len(cases)
    edits = data.states([case.edit for case in cases])
    features = generator.edit_features(edits)
    down_BRD, up_BRD = generator.write_matrices(edits)
    edit_keys = features.visual_BQM.flatten(1), features.prompt_BQM.flatten(1)

    def logits(index: Sequence[int], *, has_own: bool) -> list[Tensor]:
        questions = data.states(index)
        routing = route(
            generator.input_features(questions),
            *edit_keys,
            generator.config,
            generator.visual_evidence(),
            candidates_BN=mixture_mask(size, has_own=has_own, generator=masks_rng),
        )
        weights = routing.weights_BN
        return edited_logits(generator, backbone, questions, weights, down_BRD, up_BRD)

    parts: dict[str, Tensor] = {}
    kinds = {
        "reliability": [case.edit for case in cases],
        "text_generality": [case.generality[0] for case in cases],
        "modal_generality": [case.generality[1] for case in cases],
    }
    for name, index in kinds.items():
        rows = [row[:-1] for row in logits(index, has_own=True)]
        labels = [state.target_ids_O for state in data.states(index)]
        parts[name] = target_nll(rows, labels)
    distant = [rng.choice((*case.image_locality, case.prompt_swap)) for case in cases]
    questions = data.states(distant)
    with torch.no_grad():
        original = backbone.target_logits(questions, hidden_rows(questions).rows_BSD, has_end=True)
    parts["locality"] = locality_kl(logits(distant, has_own=False), original, kl_direction)
    parts |= routing_losses(generator, data, chosen, rng)
    total = torch.stack(list(parts.values())).sum()
    return Losses(total=total, parts={name: part.item() for name, part in parts.items()})


def routing_losses(
    generator: LiveEditGenerator, data: TrainingData, chosen: Sequence[int], rng: random.Random
) -> dict[str, Tensor]:
    """The four routing losses of the paper on one batch (Eq. 13 to 16)."""
    cases = [data.cases[i] for i in chosen]
    edit_views = [(case.edit, *case.generality) for case in cases]
    locality_views = [case.image_locality for case in cases]
    same = draw_same_domain(edit_views, locality_views, rng)
    inputs = generator.input_features(data.states(same.input_side))
    stored = generator.edit_features(data.states(same.edit_side))
    assert inputs.sentinel_BQM is not None
    soft = similarity(inputs.prompt_BQM, stored.prompt_BQM.flatten(1))
    hard = similarity(inputs.visual_BQM, stored.visual_BQM.flatten(1))
    threshold = paired_similarity(inputs.visual_BQM, inputs.sentinel_BQM)
    across = draw_different_domains(edit_views, locality_views, rng)
    distant = generator.input_features(data.states(across.input_side))
    far = generator.edit_features(data.states(across.edit_side)).visual_BQM.flatten(1)
    assert distant.sentinel_BQM is not None
    far_threshold = paired_similarity(distant.visual_BQM, distant.sentinel_BQM)
    return {
        "soft_relative": info_nce(soft),
        "soft_absolute": soft_absolute(soft),
        "hard_neighbour": hard_neighbour(hard, threshold),
        "hard_sentinel": hard_sentinel(similarity(distant.visual_BQM, far), far_threshold),
    }


@torch.no_grad()
def calibrated_gain(
    generator: LiveEditGenerator, edits: Sequence[LayerStates], relative_size: float
) -> float:
    """Gain that makes the initial residual `relative_size` of the median row RMS (METHOD.md 10)."""
    down_BRD, up_BRD = generator.write_matrices(edits)
    hidden = hidden_rows(edits)
    weights = torch.eye(len(edits))
    normed = generator.hidden_norm(hidden.rows_BSD)
    residual = fused_residual(normed, weights, down_BRD, up_BRD, 1.0)
    row_rms = hidden.rows_BSD[hidden.mask_BS].square().mean(-1).sqrt().median()
    residual_rms = residual[hidden.mask_BS].square().mean(-1).sqrt().median()
    return float(relative_size * row_rms / functional.relu(residual_rms - 1e-9).add(1e-9))
