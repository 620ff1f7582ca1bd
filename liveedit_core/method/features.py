"""Routing features of an input or an edit: f_fe of Eq. 3 and Eq. 4.

    prompt rows --LN_1--> CA_phi1(phi, .) --> CA_phi2(., LN_1(image rows)) --> visual feature [Q, M]
    prompt rows --LN_2--> CA_psi(psi, .)                                  --> prompt feature [Q, M]

The input side has a vision sentinel Theta [I, D] that takes the image rows' place and gives the
threshold of the hard filter for this very prompt.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from liveedit_core.method.attention import CrossAttention
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.states import Rows


class Features(NamedTuple):
    """Routing features of a batch; a tuple, so that hooks of modules see its tensors."""

    visual_BQM: Tensor
    prompt_BQM: Tensor
    sentinel_BQM: Tensor | None
    """Threshold features; None on the edit side."""
    twin_BQM: Tensor | None = None
    """What the edit side would store for the very same images, where the visual key knows it."""


class PromptExtractor(nn.Module):
    """Prompt features of one side, where images have a `VisualKey` (Eq. 4)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        width, rows, heads = config.module_dim, config.hidden_size, config.num_attention_heads
        self.psi = nn.Parameter(torch.empty(1, config.num_queries, width))
        nn.init.kaiming_normal_(self.psi)
        self.prompt_norm = nn.LayerNorm(rows)
        self.psi_attention = CrossAttention(width, rows, width, heads)

    def forward(self, prompt: Rows) -> Tensor:
        """Prompt features [B, Q, M] of h_p, [B, P, D]."""
        normed = self.prompt_norm(prompt.rows_BSD)
        feature: Tensor = self.psi_attention(self.psi, normed, prompt.mask_BS)
        return feature


class FeatureExtractor(nn.Module):
    """One side of the routing (edit side or input side), Eq. 3 and Eq. 4.

    Args:
        config: shapes and variants.
        has_sentinel: True on the input side.
    """

    def __init__(self, config: GeneratorConfig, *, has_sentinel: bool) -> None:
        super().__init__()
        self.config = config
        width, rows, heads = config.module_dim, config.hidden_size, config.num_attention_heads
        self.phi = nn.Parameter(torch.empty(1, config.num_queries, width))
        self.psi = nn.Parameter(torch.empty(1, config.num_queries, width))
        for query in (self.phi, self.psi):
            nn.init.kaiming_normal_(query)
        self.visual_norm = nn.LayerNorm(rows)
        self.prompt_norm = nn.LayerNorm(rows)
        if config.visual_query == "prompt":
            self.phi_prompt_attention = CrossAttention(width, rows, width, heads)
        self.phi_image_attention = CrossAttention(width, rows, width, heads)
        self.psi_attention = CrossAttention(width, rows, width, heads)
        if has_sentinel:
            self.sentinel = nn.Parameter(torch.randn(1, config.num_image_tokens, rows))

    def forward(self, prompt: Rows, visual: Rows) -> Features:
        """Extract features of a batch whose inputs all have an image.

        Args:
            prompt: h_p, [B, P, D].
            visual: image rows at l_e, [B, I, D].
        """
        psi = self.psi_attention(self.psi, self.prompt_norm(prompt.rows_BSD), prompt.mask_BS)
        query = self._visual_query(prompt)
        visual_feature = self._compress(query, visual.rows_BSD, visual.mask_BS)
        sentinel_feature = None
        if hasattr(self, "sentinel"):
            batch = prompt.rows_BSD.shape[0]
            everywhere = prompt.mask_BS.new_ones(1, self.config.num_image_tokens)
            sentinel_feature = self._compress(query, self.sentinel, everywhere)
            sentinel_feature = sentinel_feature.expand(batch, -1, -1)
        return Features(visual_BQM=visual_feature, prompt_BQM=psi, sentinel_BQM=sentinel_feature)

    def _visual_query(self, prompt: Rows) -> Tensor:
        """phi, or phi after it has attended the prompt rows."""
        if self.config.visual_query == "learned":
            return self.phi
        normed = self.visual_norm(prompt.rows_BSD)
        query: Tensor = self.phi_prompt_attention(self.phi, normed, prompt.mask_BS)
        return query

    def _compress(self, query_BQM: Tensor, rows_BID: Tensor, mask_BI: Tensor) -> Tensor:
        """Image rows (or the sentinel) as a visual feature [B, Q, M]."""
        feature: Tensor = self.phi_image_attention(query_BQM, self.visual_norm(rows_BID), mask_BI)
        return feature
