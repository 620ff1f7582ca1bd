"""The losses of one micro-batch, phase by phase (METHOD.md 5 and 10).

    prompt   routing features of prompts: rephrasings pass the gate, other questions do not
    experts  each question with the expert of its own edit
    joint    the paper's step: mixture masks, edit losses and all routing losses at once

No phase runs a layer up to l_e; experts and joint run the layers after it, logits at targets only.
Nothing is drawn here: `micro_batches` has done that.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.routing import fused_residual, paired_similarity, route, similarity
from liveedit_core.states import LayerStates, hidden_rows
from liveedit_core.training.losses import (
    gate_loss,
    hard_neighbour,
    hard_sentinel,
    info_nce,
    locality_kl,
    soft_absolute,
    target_nll,
)
from liveedit_core.training.micro_batches import ExpertBatch, JointBatch, PromptBatch
from liveedit_core.training.recipe import KlDirection

Parts = dict[str, Tensor]
"""Scalars by name: losses and accuracies."""


class Suffix(Protocol):
    """The frozen layers after l_e."""

    def __call__(self, states: Sequence[LayerStates], hidden_BTD: Tensor) -> list[Tensor]:
        """Logits [O + 1, V] of each item, at its target positions and the one after."""
        ...


def prompt_losses(generator: LiveEditGenerator, batch: PromptBatch) -> tuple[Parts, Parts]:
    """Soft-routing losses with true negatives (Eq. 15, 16).

    Returns:
        Losses, and shares of prompts that pass the gate.
    """
    stored = generator.edit_features(batch.edits).prompt_BQM
    questions = [*batch.asked, *batch.swapped, *batch.rivals]
    features = generator.input_features(questions).prompt_BQM
    size = len(batch.edits)
    own, swap, rival = (paired_similarity(side, stored) for side in features.split(size))
    first = torch.zeros(size, dtype=torch.int64, device=own.device)
    losses = {
        "soft_absolute": gate_loss(own, torch.cat([swap, rival])),
        "soft_relative": info_nce(torch.stack([own, swap, rival], dim=1), first),
    }
    passes = {"own_passes": own, "swap_passes": swap, "rival_passes": rival}
    return losses, {name: (scores > 0).float().mean() for name, scores in passes.items()}


def expert_losses(
    generator: LiveEditGenerator, suffix: Suffix, batch: ExpertBatch, end_id: int
) -> tuple[Parts, Parts]:
    """Reliability and generality NLL, each question with the expert of its own edit (Eq. 8, 9).

    Args:
        end_id: token that must follow the target.

    Returns:
        The loss, and the share of target tokens that are right.
    """
    down_BRD, up_BRD = generator.write_matrices(batch.edits)
    logits = edited_logits(generator, suffix, batch.questions, batch.weights_BB, down_BRD, up_BRD)
    end = batch.weights_BB.new_tensor([end_id], dtype=torch.int64)
    labels = [torch.cat([state.target_ids_O, end]) for state in batch.questions]
    hits = [
        (row[:-1].argmax(-1) == label[:-1]).float().mean()
        for row, label in zip(logits, labels, strict=True)
    ]
    return {"nll": target_nll(logits, labels)}, {"token_accuracy": torch.stack(hits).mean()}


def edited_logits(
    generator: LiveEditGenerator,
    suffix: Suffix,
    questions: Sequence[LayerStates],
    weights_BN: Tensor,
    down_NRD: Tensor,
    up_NRD: Tensor,
) -> list[Tensor]:
    """Logits (end position included) of questions under weighted experts; differentiable."""
    hidden_BTD = hidden_rows(questions).rows_BSD
    normed_BTD = generator.hidden_norm(hidden_BTD)
    residual = fused_residual(normed_BTD, weights_BN, down_NRD, up_NRD, generator.config.gain)
    return suffix(questions, hidden_BTD + residual)


def joint_losses(
    generator: LiveEditGenerator,
    suffix: Suffix,
    batch: JointBatch,
    kl_direction: KlDirection = "original_to_edited",
) -> tuple[Parts, Parts]:
    """The paper's step: edit losses under mixture masks and all routing losses (Eq. 8 to 16).

    Returns:
        Losses, and the routing accuracies.
    """
    features = generator.edit_features(batch.edits)
    down_BRD, up_BRD = generator.write_matrices(batch.edits)
    edit_keys = features.visual_BQM.flatten(1), features.prompt_BQM.flatten(1)

    def logits(questions: Sequence[LayerStates], candidates_BB: Tensor) -> list[Tensor]:
        inputs, config = generator.input_features(questions), generator.config
        evidence = generator.visual_evidence()
        routing = route(inputs, *edit_keys, config, evidence, candidates_BN=candidates_BB)
        return edited_logits(generator, suffix, questions, routing.weights_BN, down_BRD, up_BRD)

    losses: Parts = {}
    kinds = {
        "reliability": (batch.reliability, batch.reliability_BB),
        "text_generality": (batch.text_generality, batch.text_generality_BB),
        "modal_generality": (batch.modal_generality, batch.modal_generality_BB),
    }
    for name, (questions, candidates_BB) in kinds.items():
        rows = [row[:-1] for row in logits(questions, candidates_BB)]
        losses[name] = target_nll(rows, [state.target_ids_O for state in questions])
    with torch.no_grad():
        original = suffix(batch.locality, hidden_rows(batch.locality).rows_BSD)
    edited = logits(batch.locality, batch.locality_BB)
    losses["locality"] = locality_kl(edited, original, kl_direction)
    routing, accuracies = routing_losses(generator, batch)
    return losses | routing, accuracies


def routing_losses(generator: LiveEditGenerator, batch: JointBatch) -> tuple[Parts, Parts]:
    """The four routing losses of the paper on one batch (Eq. 13 to 16).

    Returns:
        Losses, and accuracies: how often the own expert beats the sentinel when the views are of
        one domain, and how often the sentinel beats it when they are not.
    """
    inputs = generator.input_features(batch.same_input)
    stored = generator.edit_features(batch.same_edit)
    assert inputs.sentinel_BQM is not None
    soft = similarity(inputs.prompt_BQM, stored.prompt_BQM.flatten(1))
    hard = similarity(inputs.visual_BQM, stored.visual_BQM.flatten(1))
    threshold = paired_similarity(inputs.visual_BQM, inputs.sentinel_BQM)
    distant = generator.input_features(batch.distant_input)
    far = generator.edit_features(batch.distant_edit).visual_BQM.flatten(1)
    assert distant.sentinel_BQM is not None
    far_hard = similarity(distant.visual_BQM, far)
    far_threshold = paired_similarity(distant.visual_BQM, distant.sentinel_BQM)
    losses = {
        "soft_relative": info_nce(soft),
        "soft_absolute": soft_absolute(soft),
        "hard_neighbour": hard_neighbour(hard, threshold),
        "hard_sentinel": hard_sentinel(far_hard, far_threshold),
    }
    accuracies = {
        "own_kept": (hard.diagonal() > threshold).float().mean(),
        "sentinel_wins": (far_hard.diagonal() <= far_threshold).float().mean(),
    }
    return losses, accuracies


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
