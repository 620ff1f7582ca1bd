"""IKE-style in-context editing: the most similar edits come before the question in the prompt.

    New Fact: What is shown here? silver kettle
    New Fact: Who made this? Anna Keller
    Prompt: <the question>

Zheng et al., "Can We Edit Factual Knowledge by In-Context Learning?" (EMNLP 2023), Section 3: facts
and question in that wording, the most similar fact last. No weight changes and no step is taken.

What differs. IKE is given the one edit that a question is about, with demonstrations from a
training set; in the lifelong protocol that edit is not known, so facts are retrieved among the
edits so far, by cosine similarity of image and prompt (of the prompt alone for a question without
an image), and none is told where even the best is not similar enough. The backbone takes one image
per input, so facts are given as text without theirs.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.baselines.protocol import EditorMemory, PlainEditor, batches_by_length, num_bytes
from liveedit_core.baselines.settings import InContextConfig
from liveedit_core.evaluation.probes import PreparedProbe
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates, pad_hidden


def prompt_with_facts(facts: Sequence[tuple[str, str]], prompt: str) -> str:
    """A question after some facts (prompt and target each)."""
    if not facts:
        return prompt
    lines = [f"New Fact: {question} {target}" for question, target in facts]
    return "\n".join([*lines, f"Prompt: {prompt}"])


class InContext(PlainEditor):
    """A frozen backbone with similar edits in its prompts."""

    name = "IKE"

    def __init__(
        self, backbone: Backbone, config: InContextConfig, *, batch_size: int = 16
    ) -> None:
        self.backbone = backbone
        self.config = config
        self.batch_size = batch_size
        self.restore()

    def restore(self) -> None:
        self.facts: list[tuple[str, str]] = []
        device = self.backbone.device
        self.images_NE = torch.zeros(0, 0, device=device)
        self.prompts_ND = torch.zeros(0, self.backbone.hidden_size, device=device)

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        images_BE = torch.stack([self._image(state) for state in states])
        prompts_BD = torch.stack([prompt_feature(state) for state in states])
        known = [self.images_NE] if self.facts else []
        self.images_NE = torch.cat([*known, images_BE])
        self.prompts_ND = torch.cat([self.prompts_ND, prompts_BD])
        self.facts += [(request.prompt, request.target) for request in requests]

    def with_facts(self, item: BackboneInput, state: LayerStates) -> BackboneInput:
        """An input after the facts most similar to it, the most similar one last; the input itself
        where none is similar enough."""
        if not self.facts:
            return item
        share = self.config.image_weight if state.has_image else 0.0
        similarity_N = (1 - share) * (self.prompts_ND @ prompt_feature(state))
        if share:
            similarity_N = similarity_N + share * (self.images_NE @ self._image(state))
        if similarity_N.max() < self.config.least_similarity:
            return item
        count = min(self.config.num_facts, len(self.facts))
        best = similarity_N.topk(count).indices.flip(0).tolist()
        return replace(item, prompt=self.told_prompt([self.facts[i] for i in best], item.prompt))

    def told_prompt(self, facts: Sequence[tuple[str, str]], prompt: str) -> str:
        """A question after facts, the most similar one last."""
        return prompt_with_facts(facts, prompt)

    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int) -> list[str]:
        if self.facts:
            bare = [replace(item, target="") for item in inputs]
            states = self.backbone.encode(bare)
            inputs = [
                self.with_facts(item, state) for item, state in zip(bare, states, strict=True)
            ]
        return self.backbone.generate(inputs, None, max_new_tokens=max_new_tokens)

    def free_answers(self, probes: Sequence[PreparedProbe], max_new_tokens: int) -> list[str]:
        texts = [probe.unedited_answer or "" for probe in probes]
        told = self._told(probes)
        prompts = list(told.values())
        answers = self.backbone.generate(prompts, None, max_new_tokens=max_new_tokens)
        for i, text in zip(told, answers, strict=True):
            texts[i] = text
        return texts

    def _told(self, probes: Sequence[PreparedProbe]) -> dict[int, BackboneInput]:
        """Questions that facts come before, by index; the others keep the unedited answer."""
        told = {i: self.with_facts(one.question, one.states) for i, one in enumerate(probes)}
        return {i: item for i, item in told.items() if item is not probes[i].question}

    @torch.no_grad()
    def target_ids(self, probes: Sequence[PreparedProbe]) -> list[tuple[int, ...]]:
        """Facts change prompts, so states of questions that are told some are computed anew."""
        ids = [probe.unedited_ids for probe in probes]
        told = self._told(probes)
        index, prompts = list(told), list(told.values())
        for chosen in batches_by_length([len(one.prompt) for one in prompts], self.batch_size):
            states = self.backbone.encode([prompts[i] for i in chosen])
            logits = self.backbone.target_logits(states, pad_hidden(states).values_BSD)
            for i, row_OV in zip(chosen, logits, strict=True):
                ids[index[i]] = tuple(row_OV.argmax(-1).tolist())
        return ids

    def _image(self, state: LayerStates) -> Tensor:
        """Direction of the pyramid, or without one of the mean hidden state of the image, [E]; zero
        without an image."""
        size = self.backbone.visual_size
        if not state.has_image:
            return state.hidden_TD.new_zeros(size or self.backbone.hidden_size)
        if size:
            return functional.normalize(state.pyramid_E[:size], dim=0)
        return functional.normalize(state.hidden_TD[slice(*state.image_span)].mean(0), dim=0)

    def memory(self) -> EditorMemory:
        """The features of the facts, and their texts in UTF-8."""
        texts = sum(len(text.encode()) for fact in self.facts for text in fact)
        stored = num_bytes([self.images_NE, self.prompts_ND]) + texts
        return EditorMemory(fixed_bytes=0, stored_bytes=stored)


def prompt_feature(state: LayerStates) -> Tensor:
    """Mean direction of the prompt's hidden states, [D]; the first of a text is far longer than all
    others and would dominate a plain mean."""
    directions_SD = functional.normalize(state.hidden_TD[slice(*state.prompt_span)], dim=-1)
    return functional.normalize(directions_SD.mean(0), dim=0)
