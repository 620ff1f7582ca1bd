"""The experts that routing must compare with some questions, found by one scan of visual features.

    shortlist  =  edits with the similarity `least` or more between a view of them and of a question

`least` is below all that may be kept, and below every runner-up that is more alike than the nearest
sentinel: `routing.route` finds the same among the shortlist as among all experts. The scan reads
each feature once; all that follows does not grow with the bank. Textual edits, which any image
lets pass, are in every shortlist.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from liveedit_core.method.config import NUM_VIEWS, GeneratorConfig
from liveedit_core.method.features import EditQuestion, Features
from liveedit_core.method.quantized import (
    QuantizedSegment,
    Questions,
    found_in,
)
from liveedit_core.method.repository import ExpertRepository, FeatureRows, segments_of
from liveedit_core.method.routing import (
    RUNNER_UP_SHARE,
    VIEW_SHARE,
    has_image,
    paired_similarity,
    unit_of,
    views_of,
)

SLACK = 1e-4
"""Relative: more than the rounding of a product in float32."""
NUMBERS_AT_ONCE = 4_194_304
"""Of features, in one product in float32; these products stay in the processor's cache."""


class Search(NamedTuple):
    """Rows of questions, and the inner product from which on a row of an expert is found."""

    asked_QR: Tensor
    least_Q: Tensor
    keep_Q: Tensor
    """From which on, `least_Q` or more, an expert may be kept."""
    offset_Q: Tensor
    """By how much its inner product must exceed three quarters of the runner-up's; 0 where there is
    none."""


def shortlist(
    features: Features,
    repository: ExpertRepository,
    config: GeneratorConfig,
    *,
    offset: float,
    scanned: Sequence[QuantizedSegment] | None = None,
) -> Tensor:
    """Positions of the experts that can matter for some input, rising, int64 [U] on the CPU.

    `scanned` are the repository's visual features, `quantized`; None: as they are.
    """
    if not config.has_hard_filter:
        return repository.held_positions
    search, (width, _) = search_of(features, config, offset), scanned_shape(config)
    scanned = as_they_are(repository.visual) if scanned is None else scanned
    return answering(scan(search, scanned, width), repository)


def search_of(features: Features, config: GeneratorConfig, offset: float) -> Search:
    """What some questions look for."""
    if config.visual_filter == "sentinel":
        return _above_sentinel(features, config)
    return _beside_runner_up(features, config, offset)


def as_they_are(features: FeatureRows) -> tuple[QuantizedSegment, ...]:
    """All features, to be scanned in float32."""
    return tuple(QuantizedSegment(part, ()) for part in segments_of(features))


def answering(position_U: Tensor, repository: ExpertRepository) -> Tensor:
    """Those of experts found in a scan that answer, and all textual ones."""
    if repository.held_N is not None:
        position_U = position_U[repository.held_N[position_U]]
    if repository.is_textual_N is not None:
        position_U = torch.cat([position_U, repository.textual_positions]).unique()
    return position_U


def scanned_shape(config: GeneratorConfig) -> tuple[int, int]:
    """How many numbers of a visual feature are compared, and in rows of what size."""
    if config.visual_filter == "sentinel":
        return config.feature_size, config.feature_size
    return NUM_VIEWS * config.visual_rank, config.visual_rank


def most_similar(
    features: Features, repository: ExpertRepository, config: GeneratorConfig, count: int
) -> Tensor:
    """Positions of the `count` experts with the images most similar to one of some inputs."""
    width, size = scanned_shape(config)
    if config.visual_filter == "sentinel":
        asked_QR = features.visual_BQM.flatten(1).float()
    else:
        asked_QR = views_of(features.visual_BQM, config).flatten(0, 1)
    asked_QR = asked_QR[has_image(asked_QR)]
    if not len(asked_QR):
        return torch.zeros(0, dtype=torch.int64)
    likeness_N = torch.cat(
        [
            products_XQ.amax(1).view(-1, width // size).amax(1)
            for products_XQ in products_of(asked_QR, repository.visual, width)
        ]
    )
    num_compared = len(repository) - len(repository.textual_positions)
    for is_out_N in (
        None if repository.held_N is None else ~repository.held_N,
        repository.is_textual_N,
    ):
        if is_out_N is not None:
            likeness_N[is_out_N] = -torch.inf
    return likeness_N.topk(min(count, num_compared)).indices.cpu()


def of_same_image(
    questions: Sequence[EditQuestion], scanned: Sequence[QuantizedSegment], config: GeneratorConfig
) -> Tensor:
    """Positions of the experts whose image may be that of some question, rising, int64 [U] on the
    CPU."""
    asked_BK = torch.stack([q.visual_QM for q in questions]).flatten(1)
    least = [q.threshold + config.same_image_ratio * q.own_margin for q in questions]
    width = asked_BK.shape[1] if config.visual_filter == "sentinel" else config.visual_rank
    asked_BR = asked_BK[:, :width].float()
    least_B = _lowered(asked_BR.new_tensor(least), asked_BR.square().sum(-1) / unit_of(config))
    least_B = least_B * unit_of(config)
    return scan(_found_alone(asked_BR, least_B), scanned, width)


def _above_sentinel(features: Features, config: GeneratorConfig) -> Search:
    """Eq. 5; and, where another image weakens an edit, the very image (`routing.visual_gates`)."""
    assert features.sentinel_BQM is not None
    least_B = paired_similarity(features.visual_BQM, features.sentinel_BQM)
    if config.visual_gate > 0 and features.same_image_BQM is not None:
        own_B = paired_similarity(features.visual_BQM, features.same_image_BQM) - least_B
        least_B = torch.minimum(least_B, least_B + config.same_image_ratio * own_B)
    asked_BK = features.visual_BQM.flatten(1).float()
    least_B = _lowered(least_B, asked_BK.square().sum(-1) / unit_of(config))
    is_shown_B = has_image(asked_BK)
    least_S = least_B[is_shown_B] * unit_of(config)
    return _found_alone(asked_BK[is_shown_B], least_S)


def _found_alone(asked_QR: Tensor, least_Q: Tensor) -> Search:
    """Without runners-up."""
    return Search(asked_QR, least_Q, least_Q, torch.zeros_like(least_Q))


def _beside_runner_up(features: Features, config: GeneratorConfig, offset: float) -> Search:
    assert features.same_image_BQM is not None
    assert features.sentinel_BQM is not None
    scale_B1 = paired_similarity(features.visual_BQM, features.same_image_BQM)[:, None]
    asked_BVR, nearest_BVR = (
        views_of(side, config) for side in (features.visual_BQM, features.sentinel_BQM)
    )
    length_BV = (unit_of(config) * scale_B1).expand(-1, NUM_VIEWS)
    sentinel_BV = (asked_BVR * nearest_BVR).sum(-1) / length_BV
    keep_BV = (RUNNER_UP_SHARE * sentinel_BV + offset).clamp(max=config.same_image_ratio)
    least_BV, is_there_BV = torch.minimum(sentinel_BV, keep_BV), asked_BVR.any(-1)
    least_Q, keep_Q = (
        (_lowered(_of_any_view(part_BV), torch.ones_like(part_BV)) * length_BV)[is_there_BV]
        for part_BV in (least_BV, keep_BV)
    )
    return Search(asked_BVR[is_there_BV], least_Q, keep_Q, offset * length_BV[is_there_BV])


def _of_any_view(cosine_BV: Tensor) -> Tensor:
    """The least cosine of a view that counts as much as a first one."""
    return torch.where(cosine_BV < 0, cosine_BV / VIEW_SHARE, cosine_BV)


def _lowered(least: Tensor, own: Tensor) -> Tensor:
    """By more than rounding changes a similarity of the size of that of a question with itself."""
    return least - SLACK * torch.maximum(least.abs().clamp(max=1e6), own)


def scan(search: Search, scanned: Sequence[QuantizedSegment], width: int) -> Tensor:
    """Positions of the experts that have a row which some question may find, rising; rows are the
    first `width` numbers of a feature, one after the other."""
    found, start = [torch.zeros(0, dtype=torch.int64)], 0
    if not len(search.asked_QR):
        return found[0]
    asked = Questions(search.asked_QR, search.least_Q)
    num_views = width // search.asked_QR.shape[1]
    for segment, position_U in zip(scanned, found_in(scanned, asked, num_views), strict=True):
        if not segment.blocks:
            position_U = found_as_stored(search, segment.features_NK, width)
        found.append(position_U + start)
        start += len(segment.features_NK)
    listed_U: Tensor = torch.cat(found).unique()
    return listed_U


def found_as_stored(search: Search, features_NK: Tensor, width: int) -> Tensor:
    """The same among some features, in float32."""
    num_views, found, start = width // search.asked_QR.shape[1], [], 0
    for products_XQ in products_of(search.asked_QR, features_NK, width):
        hits_X = (products_XQ >= search.least_Q).any(1).view(-1, num_views).any(1)
        found.append(hits_X.nonzero().flatten().cpu() + start)
        start += len(hits_X)
    return torch.cat(found)


def products_of(asked_QR: Tensor, features_NK: FeatureRows, width: int) -> Iterator[Tensor]:
    """Inner products with all rows, [X, Q] of some experts at a time."""
    for segment_NK in segments_of(features_NK):
        for part_NK in segment_NK.split(max(1, NUMBERS_AT_ONCE // width)):
            keys_XR = part_NK[:, :width].reshape(-1, asked_QR.shape[1]).float()
            yield keys_XR @ asked_QR.T
