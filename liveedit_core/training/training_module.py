"""All of training that can be sharded: one module, whose forward is the loss of a micro-batch."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from liveedit_core.backbones.suffix import DecoderSuffix
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.training.micro_batches import ExpertBatch, MicroBatch, PromptBatch
from liveedit_core.training.recipe import LossSection, Phase
from liveedit_core.training.step import Parts, expert_losses, joint_losses, prompt_losses


class TrainingModule(nn.Module):
    """Generator and frozen suffix.

    Args:
        generator: what is trained.
        suffix: what gradients flow through.
        losses: weights and KL direction.
    """

    def __init__(
        self, generator: LiveEditGenerator, suffix: DecoderSuffix, losses: LossSection
    ) -> None:
        super().__init__()
        self.generator = generator
        self.suffix = suffix
        self.losses = losses

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Parts]:
        """The total to descend, and its parts and accuracies for the curve (detached)."""
        if isinstance(batch, PromptBatch):
            losses, accuracies = prompt_losses(self.generator, batch)
        elif isinstance(batch, ExpertBatch):
            end_id = self.suffix.end_id
            losses, accuracies = expert_losses(self.generator, self.suffix, batch, end_id)
        else:
            direction = self.losses.kl_direction
            losses, accuracies = joint_losses(self.generator, self.suffix, batch, direction)
        figures = {name: part.detach() for name, part in (losses | accuracies).items()}
        return weighted_total(losses, self.losses.weights), figures

    def train_only(self, phase: Phase) -> list[tuple[str, nn.Parameter]]:
        """Freeze all that a phase does not move; the rest with names."""
        for name, parameter in self.generator.named_parameters():
            parameter.requires_grad_(phase in phases_of(name))
        return [(n, p) for n, p in self.generator.named_parameters() if p.requires_grad]


def weighted_total(losses: Parts, weights: Mapping[str, float]) -> Tensor:
    """Sum of the losses, each times its weight; a loss of weight 0 takes no part, even if it is not
    finite."""
    weighted = [weights[name] * loss for name, loss in losses.items() if weights[name]]
    return torch.stack(weighted).sum()


def phases_of(parameter: str) -> frozenset[Phase]:
    """Phases that move a parameter. None moves the visual key: it has a closed form."""
    module, _, rest = parameter.partition(".")
    if module == "visual_key":
        return frozenset()
    if module in ("edit_extractor", "input_extractor"):
        is_prompt_side = rest.startswith(("psi", "prompt_norm"))
        return frozenset({"prompt", "joint"} if is_prompt_side else {"joint"})
    return frozenset({"joint"} if module == "visual_weight" else {"experts", "joint"})
