"""The losses of one micro-batch, by phase (METHOD.md 3).

    prompt   routing features of prompts: rephrasings pass the gate, other questions do not
    experts  each question with the expert of its own edit
    joint    the paper's step: mixture masks, edit losses and all routing losses

No phase runs a layer up to l_e; experts and joint run those after it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.suffix import DecoderSuffix
from liveedit_core.method.features import Features
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.routing import fused_residual, paired_similarity, route, similarity
from liveedit_core.states import LayerStates, pad_hidden
from liveedit_core.training.losses import (
    gate_loss,
    hard_neighbour,
    hard_sentinel,
    info_nce,
    locality_kl,
    soft_absolute,
    target_nll,
)
from liveedit_core.training.micro_batches import ExpertBatch, JointBatch, MicroBatch, PromptBatch
from liveedit_core.training.recipe import KlDirection, LossSection, Phase

Figures = dict[str, Tensor]
"""Scalars by name: losses or accuracies."""


class TrainingModule(nn.Module):
    """Generator and frozen suffix as one module, so that both can be sharded."""

    def __init__(
        self, generator: LiveEditGenerator, suffix: DecoderSuffix, losses: LossSection
    ) -> None:
        super().__init__()
        self.generator = generator
        self.suffix = suffix
        self.losses = losses

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Figures]:
        """The loss to minimise, and its parts and accuracies (detached)."""
        if isinstance(batch, PromptBatch):
            losses, accuracies = prompt_losses(self.generator, batch)
        elif isinstance(batch, ExpertBatch):
            losses, accuracies = expert_losses(self.generator, self.suffix, batch)
        else:
            direction = self.losses.kl_direction
            losses, accuracies = joint_losses(self.generator, self.suffix, batch, direction)
        figures = {name: part.detach() for name, part in (losses | accuracies).items()}
        # A loss of weight 0 takes no part, even if it is not finite.
        weights = self.losses.weights
        weighted = [weights[name] * loss for name, loss in losses.items() if weights[name]]
        return torch.stack(weighted).sum(), figures

    def train_only(self, phase: Phase) -> list[tuple[str, nn.Parameter]]:
        """Freeze every parameter that a phase does not train; returns the others by name."""
        for name, parameter in self.generator.named_parameters():
            parameter.requires_grad_(phase in phases_of(name))
        return [(n, p) for n, p in self.generator.named_parameters() if p.requires_grad]


def phases_of(parameter: str) -> frozenset[Phase]:
    """Phases that train a parameter; none for the keys, which have closed forms."""
    module, _, rest = parameter.partition(".")
    if module in ("visual_key", "prompt_key"):
        return frozenset()
    if module in ("edit_extractor", "input_extractor"):
        is_prompt_side = rest.startswith(("psi", "prompt_norm"))
        return frozenset({"prompt", "joint"} if is_prompt_side else {"joint"})
    return frozenset({"joint"} if module == "visual_weight" else {"experts", "joint"})


def prompt_losses(generator: LiveEditGenerator, batch: PromptBatch) -> tuple[Figures, Figures]:
    """Soft-routing losses with true negatives (Eq. 15, 16), and shares that pass the gate."""
    stored = generator.edit_features(batch.edits).prompt_BQM
    questions = [*batch.own, *batch.swapped, *batch.siblings]
    features = generator.input_features(questions).prompt_BQM
    size = len(batch.edits)
    own, swap, sibling = (paired_similarity(side, stored) for side in features.split(size))
    first = torch.zeros(size, dtype=torch.int64, device=own.device)
    losses = {
        "soft_absolute": gate_loss(own, torch.cat([swap, sibling])),
        "soft_relative": info_nce(torch.stack([own, swap, sibling], dim=1), first),
    }
    passes = {"own_passes": own, "swap_passes": swap, "sibling_passes": sibling}
    return losses, {name: (scores > 0).float().mean() for name, scores in passes.items()}


def expert_losses(
    generator: LiveEditGenerator, suffix: DecoderSuffix, batch: ExpertBatch
) -> tuple[Figures, Figures]:
    """NLL under the expert of each question's own edit (Eq. 8, 9), and token accuracy."""
    down_BRD, up_BRD = generator.write_matrices(batch.edits)
    logits = edited_logits(generator, suffix, batch.questions, batch.weights_BB, down_BRD, up_BRD)
    end = batch.weights_BB.new_tensor([suffix.end_id], dtype=torch.int64)
    labels = [torch.cat([state.target_ids_O, end]) for state in batch.questions]
    hits = [
        (row[:-1].argmax(-1) == label[:-1]).float().mean()
        for row, label in zip(logits, labels, strict=True)
    ]
    return {"nll": target_nll(logits, labels)}, {"token_accuracy": torch.stack(hits).mean()}


def edited_logits(
    generator: LiveEditGenerator,
    suffix: DecoderSuffix,
    questions: Sequence[LayerStates],
    weights_BN: Tensor,
    down_NRD: Tensor,
    up_NRD: Tensor,
) -> list[Tensor]:
    """Logits (end position included) of questions under weighted experts; differentiable."""
    hidden_BTD = pad_hidden(questions).values_BSD
    normed_BTD = generator.hidden_norm(hidden_BTD)
    residual = fused_residual(normed_BTD, weights_BN, down_NRD, up_NRD, generator.config.gain)
    logits: list[Tensor] = suffix(questions, hidden_BTD + residual)
    return logits


def joint_losses(
    generator: LiveEditGenerator,
    suffix: DecoderSuffix,
    batch: JointBatch,
    kl_direction: KlDirection = "original_to_edited",
) -> tuple[Figures, Figures]:
    """The paper's step: edit losses under mixture masks and all routing losses (Eq. 8 to 16)."""
    features = generator.edit_features(batch.edits)
    down_BRD, up_BRD = generator.write_matrices(batch.edits)
    edit_keys = features.visual_BQM.flatten(1), features.prompt_BQM.flatten(1)

    def logits(questions: Sequence[LayerStates], candidates_BB: Tensor) -> list[Tensor]:
        inputs, config = generator.input_features(questions), generator.config
        weight = generator.margin_weight()
        routing = route(inputs, *edit_keys, config, weight, candidates_BN=candidates_BB)
        return edited_logits(generator, suffix, questions, routing.weights_BN, down_BRD, up_BRD)

    losses: Figures = {}
    kinds = {
        "reliability": (batch.reliability, batch.reliability_BB),
        "text_generality": (batch.text_generality, batch.text_generality_BB),
        "modal_generality": (batch.modal_generality, batch.modal_generality_BB),
    }
    for name, (questions, candidates_BB) in kinds.items():
        at_target = [item[:-1] for item in logits(questions, candidates_BB)]
        losses[name] = target_nll(at_target, [state.target_ids_O for state in questions])
    with torch.no_grad():
        original = suffix(batch.locality, pad_hidden(batch.locality).values_BSD)
    edited = logits(batch.locality, batch.locality_BB)
    losses["locality"] = locality_kl(edited, original, kl_direction)
    routing, accuracies = routing_losses(generator, batch)
    return losses | routing, accuracies


def routing_losses(generator: LiveEditGenerator, batch: JointBatch) -> tuple[Figures, Figures]:
    """The four routing losses of the paper (Eq. 13 to 16), and accuracies.

    `own_kept`: own expert above the sentinel, views of one domain. `sentinel_wins`: the sentinel
    above it, views of different domains.
    """
    inputs = generator.input_features(batch.same_input)
    stored = generator.edit_features(batch.same_edit)
    soft = similarity(inputs.prompt_BQM, stored.prompt_BQM.flatten(1))
    hard, threshold = _with_threshold(inputs, stored)
    far_hard, far_threshold = _with_threshold(
        generator.input_features(batch.distant_input), generator.edit_features(batch.distant_edit)
    )
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


def _with_threshold(inputs: Features, stored: Features) -> tuple[Tensor, Tensor]:
    """Visual similarities [B, B], and those with the sentinel [B]."""
    assert inputs.sentinel_BQM is not None
    similarity_BB = similarity(inputs.visual_BQM, stored.visual_BQM.flatten(1))
    return similarity_BB, paired_similarity(inputs.visual_BQM, inputs.sentinel_BQM)


@torch.no_grad()
def calibrated_gain(
    generator: LiveEditGenerator, edits: Sequence[LayerStates], relative_size: float
) -> float:
    """Gain that makes the initial residual `relative_size` of the median hidden state (RMS)."""
    down_BRD, up_BRD = generator.write_matrices(edits)
    hidden = pad_hidden(edits)
    weights = torch.eye(len(edits), device=down_BRD.device)
    normed = generator.hidden_norm(hidden.values_BSD)
    residual = fused_residual(normed, weights, down_BRD, up_BRD, 1.0)
    hidden_rms = hidden.values_BSD[hidden.mask_BS].square().mean(-1).sqrt().median()
    residual_rms = residual[hidden.mask_BS].square().mean(-1).sqrt().median()
    return float(relative_size * hidden_rms / functional.relu(residual_rms - 1e-9).add(1e-9))
