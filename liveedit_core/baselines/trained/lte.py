"""LTE: adapters by which the backbone has learned to use facts that come before a question.

    [Updated Information] What is shown here? silver kettle
    [Query] <the question>

Jiang et al., "Learning to Edit: Aligning LLMs with Knowledge Editing" (ACL 2024). Alignment phase:
in scope, a prompt that is told facts has the target of the one that it asks about; out of scope, it
has the unedited answer, told facts or not. Inference phase: the most similar edits are told (three
in the paper), and no weight changes.

What differs. Adapters in the layers after l_e (the paper tunes all weights, or adapters on queries,
keys and values), so that what comes before l_e stays constant. Out of scope the unedited
distribution is kept (KL, as in LiveEdit's code) instead of written answers. Facts are retrieved as
in IKE, by image and prompt, and told as text without image. There is no corpus of instructions.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.in_context import InContext
from liveedit_core.baselines.protocol import EditorMemory, num_bytes
from liveedit_core.baselines.trained.adapters import attention_changes, changed_layers
from liveedit_core.baselines.trained.rival import (
    CaseBatch,
    Figures,
    Rival,
    answer_loss,
    total_of,
)
from liveedit_core.baselines.trained.settings import LteConfig, LteTraining
from liveedit_core.evaluation.probes import PreparedProbe
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates, pad_hidden
from liveedit_core.training.losses import locality_kl

Fact = tuple[str, str]
"""Prompt and target."""


def informed_prompt(facts: Sequence[Fact], prompt: str) -> str:
    """A question after the facts that it is told, the most similar one last."""
    if not facts:
        return prompt
    lines = [f"[Updated Information] {question} {target}" for question, target in facts]
    return "\n".join([*lines, f"[Query] {prompt}"])


class Lte(Rival):
    """Adapters of the alignment phase."""

    name = "LTE"

    def __init__(self, config: LteTraining, backbone: VisionLanguageBackbone) -> None:
        super().__init__(backbone)
        self.config = config
        own = list(backbone.decoder.layers)[backbone.edit_layer + 1 :]
        self.changes = attention_changes(own, config.rank, self.name)

    def aligned(self) -> VisionLanguageBackbone:
        """The backbone with its adapters."""
        first = self.backbone.edit_layer + 1
        own = list(self.backbone.decoder.layers)[first:]
        aligned = self.backbone.with_layers(first, changed_layers(own, self.changes))
        aligned.pads_prompts = self.backbone.pads_prompts  # adapters see one token at a time
        return aligned

    def told(self, batch: CaseBatch) -> tuple[list[LayerStates], list[LayerStates]]:
        """The own and the unrelated questions after facts, one of them the edit's."""
        facts = [(item.prompt, item.target) for item in batch.facts]
        rng = random.Random(repr([item.prompt + item.target for item in batch.own_inputs]))
        asked: list[BackboneInput] = []
        for questions in (batch.own_inputs, batch.unrelated_inputs):
            for i, question in enumerate(questions):
                count = rng.randint(0, min(self.config.most_facts, len(facts)) - 1)
                others = rng.sample([fact for j, fact in enumerate(facts) if j != i], count)
                prompt = informed_prompt([*others, facts[i]], question.prompt)
                asked.append(replace(question, prompt=prompt))
        states = self.backbone.encode(asked)
        return states[: len(facts)], states[len(facts) :]

    def loss(self, batch: CaseBatch) -> tuple[Tensor, Figures]:
        aligned = self.aligned()
        own, unrelated = self.told(batch)

        def logits(states: Sequence[LayerStates], *, has_end: bool = False) -> list[Tensor]:
            hidden_BTD = pad_hidden(states).values_BSD
            return aligned.target_logits(states, hidden_BTD, has_end=has_end)

        unedited = self.unedited_logits(batch.unrelated)
        return total_of(
            {
                "edit": answer_loss(logits(own, has_end=True), own, aligned.end_id),
                "told_others": locality_kl(logits(unrelated), unedited),
                "told_nothing": locality_kl(logits(batch.unrelated), unedited),
            }
        )


class LteEditor(InContext):
    """An aligned backbone that is told the most similar edits.

    Before the first edit it is the backbone: the aligned layers answer from then on.
    """

    name = "LTE"

    def __init__(
        self,
        backbone: VisionLanguageBackbone,
        rival: Lte,
        config: LteConfig,
        *,
        batch_size: int = 16,
    ) -> None:
        self.rival = rival
        self.unedited = backbone
        self.aligned = rival.aligned()
        super().__init__(backbone, config, batch_size=batch_size)

    def restore(self) -> None:
        super().restore()
        self.backbone = self.unedited

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        super().teach(requests, states)
        self.backbone = self.aligned

    def _told(self, probes: Sequence[PreparedProbe]) -> dict[int, BackboneInput]:
        """All questions, as the aligned layers answer those without a fact, too."""
        asked = {i: self.with_facts(one.question, one.states) for i, one in enumerate(probes)}
        return asked if self.facts else {}

    def told_prompt(self, facts: Sequence[Fact], prompt: str) -> str:
        return informed_prompt(facts, prompt)

    def memory(self) -> EditorMemory:
        """Fixed: the adapters. Stored: features and texts of the facts."""
        stored = super().memory().stored_bytes
        return EditorMemory(fixed_bytes=num_bytes(self.rival.parameters()), stored_bytes=stored)
