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
other edits instead (`routing`). An edit stores its image alone, e' = [e]; a question is its image,
and its largest figure if it has one, each as it is and turned:

    q' = scale * [q, q mirrored, q turned left, right, figure, figure mirrored, ...]

where turned ones count `VIEW_SHARE`, and threshold' is the nearest sentinel of image and figure. A
view that is missing is zero. No tower sees the turned image: cells of a level of the pyramid move
to where they lie in it, and its channels are mixed by a linear map: the filter that answers to an
edge answers to the turned edge as another filter does.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from liveedit_core.method.config import NUM_VIEWS, GeneratorConfig
from liveedit_core.method.routing import unit_of

VIEW_SHARE = 0.95
"""Less than 1, so that an edit of an image goes before one of its mirror image."""
TURNED: tuple[Callable[[Tensor], Tensor], ...] = (
    partial(torch.flip, dims=(-1,)),
    partial(torch.rot90, k=1, dims=(-2, -1)),
    partial(torch.rot90, k=-1, dims=(-2, -1)),
)
"""How the further views move the cells of a level [.., height, width]."""


class VisualKey(nn.Module):
    """Visual features of both sides from pyramids; `visual_key_fit` computes its weights."""

    mean: Tensor
    deviation: Tensor
    log_scale: Tensor
    offset: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.shape = (config.num_queries, config.module_dim)
        self.length = math.sqrt(unit_of(config))
        self.has_runner_up = config.visual_filter == "runner_up"
        self.nearest = config.nearest_sentinels
        self.register_buffer("mean", torch.zeros(config.visual_size))
        self.register_buffer("deviation", torch.ones(config.visual_size))
        self.projection = nn.Linear(config.visual_size, config.visual_rank, bias=False)
        self.levels = config.turned_levels
        for number, (width, _) in enumerate(self.levels):
            maps = torch.zeros(len(TURNED), width + 1, width)
            self.register_buffer(f"turned_{number}", maps)
        self.sentinels = nn.Parameter(torch.randn(config.num_sentinels, config.visual_rank))
        # Buffers: no gradient reaches them, and DeepSpeed cannot shard scalars.
        self.register_buffer("log_scale", torch.tensor(0.0))
        self.register_buffer("offset", torch.tensor(0.0))

    def forward(
        self, pyramids: Sequence[Tensor], *, is_edit: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(feature, threshold, edit-side feature), [B, Q, M], from pyramids of each image and its
        figure, if it has one, [1 or 2, E]; the edit side has the first only. With a runner-up
        filter [B, V, R]: `NUM_VIEWS` rows an image, 1 an image in thresholds, 1 of an edit."""
        counts = [len(images) for images in pyramids]
        if self.has_runner_up:
            seen_VXE = torch.cat(list(pyramids))[None]
            if self.levels and not is_edit:
                seen_VXE = torch.cat([seen_VXE, self.turned(seen_VXE[0])])
            return self.features_of(self.unit(seen_VXE).transpose(0, 1), counts, is_edit=is_edit)
        units = self.unit(torch.cat(list(pyramids))).split(counts)
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

    def set_turned(self, maps: Sequence[Tensor]) -> None:
        """What a tower's channels become in turned images (`ImageTower.turned`), by level."""
        for number, maps_VCC in enumerate(maps):
            getattr(self, f"turned_{number}").copy_(maps_VCC)

    def turned(self, pyramids_XE: Tensor) -> Tensor:
        """Pyramids of the images in the further views, [3, X, E]."""
        parts = pyramids_XE.split([width * side**2 for width, side in self.levels], dim=1)
        turned: list[Tensor] = []
        for number, (part_XE, (width, side)) in enumerate(zip(parts, self.levels, strict=True)):
            level_XCHW = part_XE.unflatten(1, (width, side, side))
            views = torch.stack([turn(level_XCHW) for turn in TURNED])
            cells_VYC = views.movedim(2, -1).flatten(1, 3)
            maps_VCC: Tensor = getattr(self, f"turned_{number}")
            mixed_VYC = torch.baddbmm(maps_VCC[:, -1:], cells_VYC, maps_VCC[:, :-1])
            turned.append(mixed_VYC.unflatten(1, (-1, side**2)).mT.flatten(2))
        return torch.cat(turned, dim=-1)

    def features_of(
        self, units_XVR: Tensor, counts: Sequence[int], *, is_edit: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Of images in one or all views that follow each other, `counts` of each input."""
        own_BSR = pad_sequence(list(units_XVR[:, 0].split(list(counts))), batch_first=True)
        stored_B1R = own_BSR[:, :1] * self.length
        if is_edit:
            return stored_B1R, None, None
        cosine_BSC = own_BSR @ self.sentinels.T / self.sentinels.norm(dim=-1)
        nearest_BSR = functional.normalize(self.sentinels[cosine_BSC.argmax(-1)], dim=-1)
        nearest_BSR = nearest_BSR * self.length
        shares = units_XVR.new_tensor([1.0] + [VIEW_SHARE] * (NUM_VIEWS - 1))[:, None]
        missing = NUM_VIEWS - units_XVR.shape[1]
        asked_XVR = functional.pad(units_XVR, (0, 0, 0, missing)) * shares * self.length
        asked_BVR = pad_sequence(list(asked_XVR.flatten(1).split(list(counts))), batch_first=True)
        asked_BVR = asked_BVR.unflatten(-1, (NUM_VIEWS, -1)).flatten(1, 2)
        return asked_BVR * self.log_scale.exp(), nearest_BSR, stored_B1R

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
