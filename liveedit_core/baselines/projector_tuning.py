"""FT-M: fine-tune what maps images into the language model, edit after edit.

    image tower (frozen) -> projector or Q-Former (tuned) -> decoder (frozen), all layers

As in the authors' settings, which name `multi_modal_projector` for LLaVA-1.5 and `qformer` for
BLIP-2 (VLKEB's: `mm_projector`, `Qformer`): 10 steps of Adam at 1e-4, anew with each edit. Tuning
changes everything from the image tokens on, so hidden states at l_e are no constants here: each
step and each answer runs the whole model on pixels. Questions without an image keep the backbone's
answer bit for bit. What differs: the end of the answer is learned with it, and an edit ends early
at a low loss.
"""

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.edited_layers import minimize
from liveedit_core.baselines.protocol import EditorMemory, PlainEditor, batches_by_length, num_bytes
from liveedit_core.baselines.settings import FineTuningConfig
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import PreparedProbe
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates, pad_hidden

PROJECTORS = ("qformer", "multi_modal_projector", "connector", "visual.merger", "embed_vision")
"""Ends of the module's path, by family: BLIP-2 and MiniGPT-4; most; Idefics3 and SmolVLM; Qwen;
Gemma 4."""


def projector_path(model: nn.Module) -> str:
    """Path of the module that maps images into the language model."""
    paths: list[str] = [path for path, _ in model.named_modules()]
    for end in PROJECTORS:
        for path in paths:
            if path == end or path.endswith(f".{end}"):
                return path
    raise ConfigError(
        f"FT-M: a {type(model).__name__} has no module {' or '.join(PROJECTORS)} to tune"
    )


class ProjectorTuning(PlainEditor):
    """A backbone whose projector is tuned."""

    name = "FT-M"
    backbone: VisionLanguageBackbone

    def __init__(
        self, backbone: VisionLanguageBackbone, config: FineTuningConfig, *, batch_size: int = 16
    ) -> None:
        self.backbone = backbone
        self.config = config
        self.batch_size = batch_size
        self.path = projector_path(backbone.model)
        self.restore()

    def restore(self) -> None:
        own = self.backbone.model.get_submodule(self.path)
        self.tuned = copy.deepcopy(own).requires_grad_(True)
        self.edited = self.backbone.with_module(self.path, self.tuned)
        self.is_taught = False

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Only spans and target ids of the states are used; textual edits do not pass the
        projector."""
        parameters = list(self.tuned.parameters())
        for request, state in zip(requests, states, strict=True):
            if request.image_bytes is None:
                continue
            adam = torch.optim.Adam(parameters, lr=self.config.learning_rate)
            item = edit_input(request)
            minimize(partial(self.edit_loss, item, state), adam, self.config)
        self.is_taught = True

    def edit_loss(self, item: BackboneInput, state: LayerStates) -> Tensor:
        """Mean negative log likelihood, in nats, of an edit's target tokens and the end."""
        hidden_1TD = self.edited.hidden_of([item])
        (logits_XV,) = self.edited.target_logits([state], hidden_1TD, has_end=True)
        end = state.target_ids_O.new_tensor([self.backbone.end_id])
        labels = torch.cat([state.target_ids_O, end]).to(logits_XV.device)
        return functional.cross_entropy(logits_XV, labels)

    @torch.no_grad()
    def target_ids(self, probes: Sequence[PreparedProbe]) -> list[tuple[int, ...]]:
        """States of questions with an image are computed anew."""
        ids = [probe.unedited_ids for probe in probes]
        seen = [i for i, probe in enumerate(probes) if self.is_taught and probe.states.has_image]
        lengths = [probes[i].states.num_tokens for i in seen]
        for batch in batches_by_length(lengths, self.batch_size):
            chosen = [seen[i] for i in batch]
            states = self.edited.encode([probes[i].question for i in chosen])
            logits = self.edited.target_logits(states, pad_hidden(states).values_BSD)
            for i, row_OV in zip(chosen, logits, strict=True):
                ids[i] = tuple(row_OV.argmax(-1).tolist())
        return ids

    def free_answers(self, probes: Sequence[PreparedProbe], max_new_tokens: int) -> list[str]:
        texts = [probe.unedited_answer or "" for probe in probes]
        seen = [i for i, probe in enumerate(probes) if self.is_taught and probe.states.has_image]
        generated = self.answer([probes[i].question for i in seen], max_new_tokens)
        for i, text in zip(seen, generated, strict=True):
            texts[i] = text
        return texts

    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int) -> list[str]:
        model = self.edited if self.is_taught else self.backbone
        return model.generate(inputs, None, max_new_tokens=max_new_tokens)

    def memory(self) -> EditorMemory:
        return EditorMemory(fixed_bytes=num_bytes(self.tuned.parameters()), stored_bytes=0)
