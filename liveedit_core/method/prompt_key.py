"""The prompt key: which edits are meant by this wording, from pyramids of the bare prompt.

With `prompt_source = "completion"` it replaces the prompt half of Eq. 4: the pyramid says how the
model completes the prompt (`backbones/prefix.py`). It depends on the wording alone, so that both
sides of one wording are equal. As in the visual key, a linear discriminant maps it to a direction:

    sim(q, e) = scale * (cos(q, e) - offset + b(e))

e is the mean direction of all wordings that the edit was given. b(e) is the smallest number >= 0
with which each of them reaches `OWN_SIMILARITY`: an edit never refuses its own prompt, in whatever
language. Positive similarity passes the gate (`min_gate` 0.5). The correction takes two numbers of
each feature: q' = [q, 1, -offset], e' = [e, b(e), 1].
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.visual_key import padded_feature

OWN_SIMILARITY = 8.0
"""Of every own wording, at least: full weight, also for wordings that pass by a quarter of it
(sigmoid(2) = 0.88)."""


class PromptKey(nn.Module):
    """Prompt features of both sides from pyramids; `prompt_key_fit` computes its weights."""

    mean: Tensor
    deviation: Tensor
    log_scale: Tensor
    offset: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.shape = (config.num_queries, config.module_dim)
        self.register_buffer("mean", torch.zeros(config.prompt_size))
        self.register_buffer("deviation", torch.ones(config.prompt_size))
        self.projection = nn.Linear(config.prompt_size, config.prompt_rank, bias=False)
        # Buffers: no gradient reaches them, and DeepSpeed cannot shard scalars.
        self.register_buffer("log_scale", torch.tensor(0.0))
        self.register_buffer("offset", torch.tensor(0.0))

    def forward(self, pyramids: Sequence[Tensor], *, is_edit: bool) -> Tensor:
        """[B, Q, M] of the pyramids [W, P] of each edit's wordings, or of each input's prompt."""
        counts = [len(pyramids_WP) for pyramids_WP in pyramids]
        scaled_XP = (torch.cat(list(pyramids)) - self.mean) / self.deviation
        unit_XR = functional.normalize(self.projection(scaled_XP), dim=-1)
        scale = self.log_scale.exp()
        if not is_edit:
            one_X1 = torch.ones_like(unit_XR[:, :1])
            parts = (unit_XR, one_X1, -self.offset * one_X1)
            return padded_feature(torch.cat(parts, dim=-1), scale, self.shape)
        means = [unit_WR.mean(0) for unit_WR in unit_XR.split(counts)]
        edit_BR = functional.normalize(torch.stack(means), dim=-1)
        own_XR = edit_BR.repeat_interleave(torch.tensor(counts, device=edit_BR.device), dim=0)
        reached_X1 = (unit_XR * own_XR).sum(-1, keepdim=True) - self.offset
        missing_X1 = (OWN_SIMILARITY / scale - reached_X1).clamp(min=0)
        bonus_B1 = torch.stack([part.max(0).values for part in missing_X1.split(counts)])
        parts = (edit_BR, bonus_B1, torch.ones_like(bonus_B1))
        return padded_feature(torch.cat(parts, dim=-1), scale, self.shape)

    def as_asked(self, stored_BK: Tensor) -> Tensor:
        """Features [B, Q, M] of questions in the words of some edits, from what is stored of these
        (flattened)."""
        rank = self.projection.out_features
        length_B1 = stored_BK[:, rank + 1 : rank + 2]
        asked_BK = torch.zeros_like(stored_BK)
        asked_BK[:, :rank] = stored_BK[:, :rank]
        asked_BK[:, rank : rank + 1] = length_B1
        asked_BK[:, rank + 1 : rank + 2] = -self.offset * length_B1
        return asked_BK.reshape(-1, *self.shape)
