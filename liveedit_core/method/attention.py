"""Cross attention CA(x, y) of Eq. 2. METHOD.md has the legend of the letters in tensor names."""

import math

from torch import Tensor, nn

MASKED = -1e9


class CrossAttention(nn.Module):
    """Multi-head attention with biases on q, k and v and no output projection (Eq. 2)."""

    def __init__(self, query_size: int, context_size: int, value_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(query_size, query_size)
        self.k_proj = nn.Linear(context_size, query_size)
        self.v_proj = nn.Linear(context_size, value_size)

    def forward(
        self,
        query_BQM: Tensor,
        context_BSD: Tensor,
        mask_BS: Tensor,
        keys_BSD: Tensor | None = None,
    ) -> Tensor:
        """[B, Q, value_size]; no attention where the bool mask is False; queries may have B = 1."""
        query_BHQd = self._split(self.q_proj(query_BQM))
        key_BHSd = self._split(self.k_proj(context_BSD if keys_BSD is None else keys_BSD))
        value_BHSd = self._split(self.v_proj(context_BSD))
        scores = query_BHQd @ key_BHSd.transpose(-1, -2) / math.sqrt(query_BHQd.shape[-1])
        scores = scores.masked_fill(~mask_BS[:, None, None, :], MASKED)
        mixed: Tensor = (scores.softmax(-1) @ value_BHSd).transpose(1, 2).flatten(2)
        return mixed

    def _split(self, values_BSX: Tensor) -> Tensor:
        """[B, S, H * d] -> [B, H, S, d]."""
        heads: Tensor = values_BSX.unflatten(-1, (self.num_heads, -1))
        return heads.transpose(1, 2)
