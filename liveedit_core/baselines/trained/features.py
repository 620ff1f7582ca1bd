"""What trained editors read of the frozen backbone: question features, and edits as a prefix."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.in_context import prompt_feature
from liveedit_core.states import LayerStates


def image_feature(state: LayerStates, visual_size: int) -> Tensor:
    """Direction of the image pyramid, or without one of the image's mean hidden state, [E]; zeros
    without an image."""
    if not state.has_image:
        return torch.zeros(visual_size or state.hidden_TD.shape[1], device=state.hidden_TD.device)
    if visual_size:
        return functional.normalize(state.pyramid_E[:visual_size].float(), dim=0)
    return functional.normalize(state.hidden_TD[slice(*state.image_span)].mean(0), dim=0)


class QuestionFeatures(nn.Module):
    """Prompt, image, and whether there is one; standardised by the first batch, so that what all
    questions have in common does not count."""

    def __init__(self, backbone: VisionLanguageBackbone) -> None:
        super().__init__()
        self.visual_size = backbone.visual_size
        self.size = backbone.hidden_size + (self.visual_size or backbone.hidden_size) + 1
        self.register_buffer("mean_F", torch.zeros(self.size))
        self.register_buffer("deviation_F", torch.ones(self.size))

    mean_F: Tensor
    deviation_F: Tensor

    def _raw(self, states: Sequence[LayerStates]) -> Tensor:
        rows = []
        for state in states:
            prompt_D = prompt_feature(state)
            image_E = image_feature(state, self.visual_size)
            has_image = prompt_D.new_tensor([float(state.has_image)])
            rows.append(torch.cat([prompt_D, image_E, has_image]))
        return torch.stack(rows)

    @torch.no_grad()
    def observe(self, states: Sequence[LayerStates]) -> None:
        """Standardise by these."""
        raw_BF = self._raw(states)
        self.mean_F.copy_(raw_BF.mean(0))
        self.deviation_F.copy_(raw_BF.std(0).clamp(min=1e-4))

    def forward(self, states: Sequence[LayerStates]) -> Tensor:
        """[B, F]."""
        return ((self._raw(states) - self.mean_F) / self.deviation_F).clamp(-5, 5)


class EditReader(nn.Module):
    """An edit's prompt and target as hidden states that come before a question, [K, D].

    Hidden states at l_e say what the backbone would go on with; the target's input embeddings say
    which tokens were meant, so each target position gets its own, through a learned matrix.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.to_hidden = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, state: LayerStates) -> Tensor:
        start, stop = state.target_span
        prompt_PD = state.hidden_TD[slice(*state.prompt_span)]
        meant_OD = self.to_hidden(state.target_embeddings_OD)
        return torch.cat([prompt_PD, state.hidden_TD[start:stop] + meant_OD])
