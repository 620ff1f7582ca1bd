"""What an editor with a trained part gives to the loop that trains it.

    cases -> CaseBatch: edits, an own question and an unrelated one of each -> Rival.loss

Every rival sees the same batches. The backbone is frozen; only the layers after l_e run.
"""

import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.states import LayerStates, pad_hidden
from liveedit_core.training.data import TrainingData
from liveedit_core.training.losses import target_nll

Figures = dict[str, Tensor]
"""Losses by name, detached."""
States = list[LayerStates]


@dataclass(frozen=True, kw_only=True)
class CaseBatch:
    """Edits, and for each a question that it should answer and one that it should not."""

    edits: States
    own: States
    """The edit itself, its rephrasing or its other image."""
    unrelated: States
    """A locality probe."""
    facts: tuple[BackboneInput, ...]
    """The edits as inputs."""
    own_inputs: tuple[BackboneInput, ...]
    unrelated_inputs: tuple[BackboneInput, ...]


def draw(data: TrainingData, batch_size: int, seed: int, step: int) -> CaseBatch:
    """The batch of a step. A fifth of the edits have random targets, so that a rival learns to
    teach any target."""
    rng = random.Random(f"{seed} {step}")
    num_pairs = min(batch_size // 5, len(data.pairs))
    cases = rng.sample(data.cases, min(batch_size - num_pairs, len(data.cases)))
    pairs = rng.sample(data.pairs, num_pairs)
    edits = [case.edit for case in cases] + [pair.edit for pair in pairs]
    own = [rng.choice((case.edit, *case.generality)) for case in cases]
    own += [pair.query for pair in pairs]
    hosts = [*cases, *rng.choices(data.cases, k=num_pairs)]
    unrelated = [rng.choice((case.prompt_swap, *case.locality)) for case in hosts]
    return batch_of(data, edits, own, unrelated)


def batch_of(
    data: TrainingData, edits: Sequence[int], own: Sequence[int], unrelated: Sequence[int]
) -> CaseBatch:
    """The batch of some positions in the list of inputs."""
    inputs = data.inputs
    states = data.states([*edits, *own, *unrelated])
    size = len(edits)
    return CaseBatch(
        edits=states[:size],
        own=states[size : 2 * size],
        unrelated=states[2 * size :],
        facts=tuple(inputs[i] for i in edits),
        own_inputs=tuple(inputs[i] for i in own),
        unrelated_inputs=tuple(inputs[i] for i in unrelated),
    )


class Rival(nn.Module):
    """The trained part of an editor. Its parameters and buffers are all that is stored: the
    backbone's modules are no submodules of it."""

    name: ClassVar[str]
    """In messages."""

    def __init__(self, backbone: VisionLanguageBackbone) -> None:
        super().__init__()
        self.__dict__["backbone"] = backbone  # not registered as a submodule

    backbone: VisionLanguageBackbone

    @abstractmethod
    def loss(self, batch: CaseBatch) -> tuple[Tensor, Figures]:
        """What training minimises."""

    def observe(self, batch: CaseBatch) -> None:
        """Take statistics of a batch, before the first step."""

    @torch.no_grad()
    def unedited_logits(self, states: Sequence[LayerStates]) -> list[Tensor]:
        """Of the backbone at target positions."""
        return self.backbone.target_logits(states, pad_hidden(states).values_BSD)


def answer_loss(logits: Sequence[Tensor], states: Sequence[LayerStates], end_id: int) -> Tensor:
    """Mean negative log likelihood of targets and their ends; logits [O + 1, V]."""
    labels = [torch.cat([s.target_ids_O, s.target_ids_O.new_tensor([end_id])]) for s in states]
    return target_nll(list(logits), labels)


def total_of(losses: Figures) -> tuple[Tensor, Figures]:
    """The sum, and its parts without gradients."""
    return torch.stack(list(losses.values())).sum(), {k: v.detach() for k, v in losses.items()}
