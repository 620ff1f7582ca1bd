"""Cross attention CA(x, y) of Eq. 2.

Letters of the package: B batch, T tokens, I image rows, P prompt rows, O target rows, S rows of any
kind, D hidden size, E width of visual rows, M routing width, Q queries, K = Q * M, H heads, R rank,
N experts.
"""

import math

from torch import Tensor, nn

MASKED = -1e9


class CrossAttention(nn.Module):
    """Multi-head attention of queries to rows, biases on q, k and v, no output projection (Eq. 2).

    Args:
        query_size: width of the queries, M; also the width of queries and keys after projection.
        row_size: width of the attended rows.
        value_size: width of the result.
        num_heads: H; the scale is 1 / sqrt(query_size / H).
    """

    def __init__(self, query_size: int, row_size: int, value_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(query_size, query_size)
        self.k_proj = nn.Linear(row_size, query_size)
        self.v_proj = nn.Linear(row_size, value_size)

    def forward(
        self,
        query_BQM: Tensor,
        rows_BSD: Tensor,
        mask_BS: Tensor,
        keys_BSD: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query_BQM: queries; B may be 1 (shared by the batch).
            rows_BSD: attended rows.
            mask_BS: bool, True at real rows.
            keys_BSD: rows behind the keys, where they differ from those behind the values.

        Returns:
            [B, Q, value_size]; zero attention goes to masked rows.
        """
        query_BHQd = self._split(self.q_proj(query_BQM))
        key_BHSd = self._split(self.k_proj(rows_BSD if keys_BSD is None else keys_BSD))
        value_BHSd = self._split(self.v_proj(rows_BSD))
        scores = query_BHQd @ key_BHSd.transpose(-1, -2) / math.sqrt(query_BHQd.shape[-1])
        scores = scores.masked_fill(~mask_BS[:, None, None, :], MASKED)
        mixed: Tensor = (scores.softmax(-1) @ value_BHSd).transpose(1, 2).flatten(2)
        return mixed

    def _split(self, rows_BSX: Tensor) -> Tensor:
        """[B, S, H * d] -> [B, H, S, d]."""
        heads: Tensor = rows_BSX.unflatten(-1, (self.num_heads, -1))
        return heads.transpose(1, 2)
