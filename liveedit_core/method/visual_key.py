"""The visual key: which experts know the entity in this image, from a pyramid of the image tower.

Many questions share their wording ("What is shown here?"), so the image alone must tell experts
apart, also for entities never seen in training and in a new drawing. With
`visual_source = "tower_pyramid"` it replaces the visual half of Eq. 3 and 4 in two ways:

- The feature is a linear projection (discriminant analysis) of a pyramid of image tower levels,
  each pooled to a coarse grid: middle levels and positions keep what the last level discards.
- C sentinels replace one. The cosine with the nearest says how common an image looks, and corrects
  both sides (cross-domain similarity local scaling: Conneau et al., ICLR 2018):

      sim(q, e) - threshold(q)  =  scale * (cos(q, e) - (r(q) + r(e)) / 2 - offset)
      r(x) = mean of the k largest cos(x, sentinel)

The correction is stored in two extra numbers of each feature, so that routing and the expert bank
see plain features: q' = [q, 1, r(q)], e' = [e, -r(e) / 2, 0], threshold' = [0, offset, 1 / 2].

With `visual_filter = "runner_up"` there is no correction, as routing compares with the images of
other edits instead (`routing`): q' = scale * [q, figure of q], e' = [e, mirrored e, e turned left,
right], and threshold' is the nearest sentinel of each view of q. A view that is missing is zero.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from liveedit_core.method.config import GeneratorConfig


class VisualKey(nn.Module):
    """Visual features of both sides from pyramids; `visual_key_fit` computes its weights."""

    mean: Tensor
    deviation: Tensor
    log_scale: Tensor
    offset: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.shape = (config.num_queries, config.module_dim)
        self.has_runner_up = config.visual_filter == "runner_up"
        self.nearest = config.nearest_sentinels
        self.register_buffer("mean", torch.zeros(config.visual_size))
        self.register_buffer("deviation", torch.ones(config.visual_size))
        self.projection = nn.Linear(config.visual_size, config.visual_rank, bias=False)
        self.sentinels = nn.Parameter(torch.randn(config.num_sentinels, config.visual_rank))
        # Buffers: no gradient reaches them, and DeepSpeed cannot shard scalars.
        self.register_buffer("log_scale", torch.tensor(0.0))
        self.register_buffer("offset", torch.tensor(0.0))

    def forward(
        self, pyramids: Sequence[Tensor], *, is_edit: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(feature, threshold, edit-side feature), [B, Q, M], from pyramids of one or more views of
        each image, [V, E]; the edit side has the first only."""
        units = self.unit(torch.cat(list(pyramids))).split([len(views) for views in pyramids])
        if self.has_runner_up:
            return self._views(pad_sequence(list(units), batch_first=True), is_edit=is_edit)
        unit_BR = torch.stack([unit_VR[0] for unit_VR in units])
        common_B1 = commonness(unit_BR, functional.normalize(self.sentinels, dim=-1), self.nearest)
        one_B1, zero_B1 = torch.ones_like(common_B1), torch.zeros_like(common_B1)
        stored_BQM = self._padded(unit_BR, -common_B1 / 2, zero_B1)
        if is_edit:
            return stored_BQM, None, None
        threshold = self._padded(torch.zeros_like(unit_BR), self.offset * one_B1, one_B1 / 2)
        return self._padded(unit_BR, one_B1, common_B1), threshold, stored_BQM

    def unit(self, pyramids_XE: Tensor) -> Tensor:
        """Unit vectors of pyramids, [X, R]."""
        scaled_XE = (pyramids_XE - self.mean) / self.deviation
        return functional.normalize(self.projection(scaled_XE), dim=-1)

    def _views(
        self, unit_BVR: Tensor, *, is_edit: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        one = torch.ones_like(self.log_scale)
        stored_BQM = padded_feature(unit_BVR.flatten(1), one, self.shape)
        if is_edit:
            return stored_BQM, None, None
        sentinels_CR = functional.normalize(self.sentinels, dim=-1)
        nearest_BVR = sentinels_CR[(unit_BVR @ sentinels_CR.T).argmax(-1)]
        nearest_BQM = padded_feature(nearest_BVR.flatten(1), one, self.shape)
        same_BQM = padded_feature(unit_BVR[:, 0], one, self.shape)
        return stored_BQM * self.log_scale.exp(), nearest_BQM, same_BQM

    def _padded(self, unit_BR: Tensor, *correction: Tensor) -> Tensor:
        feature_BX = torch.cat([unit_BR, *correction], dim=-1)
        return padded_feature(feature_BX, self.log_scale.exp(), self.shape)


def padded_feature(feature_BX: Tensor, scale: Tensor, shape: tuple[int, int]) -> Tensor:
    """[B, Q, M], scaled so that `similarity` is `scale` times the inner product."""
    num_queries, width = shape
    length = (scale * num_queries * math.sqrt(width)).sqrt()
    feature_BX = feature_BX * length
    padded = functional.pad(feature_BX, (0, num_queries * width - feature_BX.shape[-1]))
    return padded.reshape(-1, *shape)


def commonness(unit_BR: Tensor, sentinels_CR: Tensor, nearest: int) -> Tensor:
    """r: mean cosine with the nearest sentinels, [B, 1]; both arguments are unit vectors."""
    cosines_BC = unit_BR @ sentinels_CR.T
    return cosines_BC.topk(nearest, dim=-1).values.mean(-1, keepdim=True)
