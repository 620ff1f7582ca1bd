"""Routing features of an edit or an input: f_fe of Eq. 3 and Eq. 4.

    prompt --LN_1--> CA_phi1(phi, .) --> CA_phi2(., LN_1(image)) --> visual feature [Q, M]
    prompt --LN_2--> CA_psi(psi, .)                             --> prompt feature [Q, M]

The input side has a vision sentinel Theta [I, D]: in place of the image it gives the threshold of
the hard filter for this prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from liveedit_core.method.attention import CrossAttention
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.states import Padded


class Features(NamedTuple):
    """Routing features of a batch; a tuple, so that module hooks see its tensors."""

    visual_BQM: Tensor
    prompt_BQM: Tensor
    sentinel_BQM: Tensor | None
    """Threshold features; None on the edit side."""
    same_image_BQM: Tensor | None = None
    """Visual features that an edit of the same image would have; only with a visual key."""

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Features":
        """Every part changed alike."""
        sentinel_BQM, same_BQM = (None if p is None else change(p) for p in self[2:])
        return Features(change(self.visual_BQM), change(self.prompt_BQM), sentinel_BQM, same_BQM)


@dataclass(frozen=True, kw_only=True)
class EditQuestion:
    """The input side of one edit: what its own image and prompt ask of experts (float32)."""

    visual_QM: Tensor
    prompt_QM: Tensor
    threshold: float
    """Visual similarity with the sentinel."""
    own_margin: float
    """Visual margin of an edit of this very image; infinite without a visual key or an image."""


class PromptExtractor(nn.Module):
    """Prompt features of one side, where a `VisualKey` gives the visual features (Eq. 4)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width, hidden, heads = config.module_dim, config.hidden_size, config.num_attention_heads
        self.psi = nn.Parameter(torch.empty(1, config.num_queries, width))
        nn.init.kaiming_normal_(self.psi)
        self.prompt_norm = nn.LayerNorm(hidden)
        self.psi_attention = CrossAttention(width, hidden, width, heads)

    def forward(self, prompt: Padded) -> Tensor:
        """[B, Q, M] of h_p."""
        normed = self.prompt_norm(prompt.values_BSD)
        feature: Tensor = self.psi_attention(self.psi, normed, prompt.mask_BS)
        return feature


class FeatureExtractor(nn.Module):
    """Features of one side as in the paper (Eq. 3 and 4); the input side has the sentinel."""

    def __init__(self, config: GeneratorConfig, *, has_sentinel: bool) -> None:
        super().__init__()
        self.config = config
        width, hidden, heads = config.module_dim, config.hidden_size, config.num_attention_heads
        has_psi = config.prompt_source == "edit_layer"
        self.phi = nn.Parameter(torch.empty(1, config.num_queries, width))
        nn.init.kaiming_normal_(self.phi)
        if has_psi:
            self.psi = nn.Parameter(torch.empty(1, config.num_queries, width))
            nn.init.kaiming_normal_(self.psi)
        self.visual_norm = nn.LayerNorm(hidden)
        if has_psi:
            self.prompt_norm = nn.LayerNorm(hidden)
        if config.visual_query == "prompt":
            self.phi_prompt_attention = CrossAttention(width, hidden, width, heads)
        self.phi_image_attention = CrossAttention(width, hidden, width, heads)
        if has_psi:
            self.psi_attention = CrossAttention(width, hidden, width, heads)
        if has_sentinel:
            self.sentinel = nn.Parameter(torch.randn(1, config.num_image_tokens, hidden))

    def forward(self, prompt: Padded, image: Padded, prompt_BQM: Tensor | None = None) -> Features:
        """Features of h_p and h_v; every input must have an image. `prompt_BQM` is that of a
        `PromptKey`, if there is one."""
        if prompt_BQM is None:
            normed = self.prompt_norm(prompt.values_BSD)
            prompt_BQM = self.psi_attention(self.psi, normed, prompt.mask_BS)
        query = self.phi
        if self.config.visual_query == "prompt":
            normed = self.visual_norm(prompt.values_BSD)
            query = self.phi_prompt_attention(self.phi, normed, prompt.mask_BS)
        visual_feature = self._compress(query, image.values_BSD, image.mask_BS)
        sentinel_feature = None
        if hasattr(self, "sentinel"):
            batch = prompt.values_BSD.shape[0]
            everywhere = prompt.mask_BS.new_ones(1, self.config.num_image_tokens)
            sentinel_feature = self._compress(query, self.sentinel, everywhere)
            sentinel_feature = sentinel_feature.expand(batch, -1, -1)
        return Features(visual_feature, prompt_BQM, sentinel_feature)

    def _compress(self, query_BQM: Tensor, image_BID: Tensor, mask_BI: Tensor) -> Tensor:
        """Visual feature [B, Q, M] of an image or the sentinel."""
        feature: Tensor = self.phi_image_attention(query_BQM, self.visual_norm(image_BID), mask_BI)
        return feature
