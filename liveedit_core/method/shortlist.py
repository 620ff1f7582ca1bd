"""The experts that routing must compare with some questions, found by one scan of visual features.

    shortlist  =  edits with the similarity `least` or more to a view of a question

`least` is below all that may be kept, and below every runner-up that is more alike than the nearest
sentinel: `routing.route` finds the same among the shortlist as among all experts. The scan reads
each feature once; all that follows does not grow with the bank. Textual edits, which any image
lets pass, are in every shortlist.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from liveedit_core.method.config import NUM_VIEWS, GeneratorConfig
from liveedit_core.method.features import EditQuestion, Features
from liveedit_core.method.quantized import (
    Found,
    QuantizedSegment,
    Questions,
    found_in,
    level_step,
)
from liveedit_core.method.repository import ExpertRepository, FeatureRows, segments_of
from liveedit_core.method.routing import (
    RUNNER_UP_SHARE,
    has_image,
    own_similarity,
    paired_similarity,
    unit_of,
)

SLACK = 1e-4
"""Relative: more than the rounding of a product in float32."""
DOUBT = 1e-3
"""Of a cosine: what is decided by less is not decided here."""
LEAST_DECIDED = 64
"""Experts found for an image of a question: fewer are compared as fast as decided."""
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
    length_Q: Tensor
    """Inner product of an image with an edit of it; infinite without runners-up."""
    image_Q: Tensor
    """int64: rows with the same number are views of one image, rising."""

    def where(self, is_chosen_Q: Tensor) -> "Search":
        """Some rows."""
        return Search(*(part[is_chosen_Q] for part in self))


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
    scanned = as_they_are(repository.visual) if scanned is None else scanned
    search = search_of(features, config, offset)
    return answering(scan(search, scanned), search, repository, config)


def search_of(features: Features, config: GeneratorConfig, offset: float) -> Search:
    """What some questions look for."""
    if config.visual_filter == "sentinel":
        return _above_sentinel(features, config)
    return _beside_runner_up(features, config, offset)


def as_they_are(features: FeatureRows) -> tuple[QuantizedSegment, ...]:
    """All features, to be scanned in float32."""
    return tuple(QuantizedSegment(part, ()) for part in segments_of(features))


def answering(
    found: Found, search: Search, repository: ExpertRepository, config: GeneratorConfig
) -> Tensor:
    """Those of experts found in a scan that answer and decide something, and all textual ones."""
    position_U, level_UQ = found
    if repository.held_N is not None:
        is_held_U = repository.held_N[position_U]
        position_U = position_U[is_held_U]
        level_UQ = None if level_UQ is None else level_UQ[is_held_U]
    if config.visual_filter == "runner_up":
        found = Found(position_U, level_UQ)
        position_U = deciding(found, search, repository.visual, config)
    if repository.is_textual_N is not None:
        position_U = torch.cat([position_U, repository.textual_positions]).unique()
    return position_U


def deciding(
    found: Found, search: Search, features: FeatureRows, config: GeneratorConfig
) -> Tensor:
    """Those of found experts that may be kept, or are the runner-up of any, rising: where many
    images are like that of a question, most are neither."""
    images = search.image_Q.unique().tolist()
    if len(found.position_U) <= LEAST_DECIDED * len(images):
        return found.position_U
    if found.level_UQ is None:  # rows are read once for all images
        rows_UR = _rows(features, found.position_U)
        products_UQ = rows_UR @ search.asked_QR.T
    parts = []
    for image in images:
        is_view_Q = search.image_Q == image
        views = search.where(is_view_Q)
        if found.level_UQ is None:
            is_deciding_U, _ = _decide(views, products_UQ[:, is_view_Q], rows_UR, config)
            parts.append(found.position_U[is_deciding_U.cpu()])
        else:
            level_U = found.level_UQ[:, is_view_Q].amax(1)
            parts.append(_deciding_first(found.position_U, level_U, views, features, config))
    return parts[0] if len(parts) == 1 else torch.cat(parts).unique()


def _deciding_first(
    position_U: Tensor,
    level_U: Tensor,
    views: Search,
    features: FeatureRows,
    config: GeneratorConfig,
) -> Tensor:
    """The same for one image: experts of the highest levels are compared, as many as it takes until
    no other can decide anything."""
    least = float(views.least_Q[0])
    step = level_step(least, float(views.length_Q[0]))
    level = int(level_U.topk(min(LEAST_DECIDED + 1, len(level_U))).values[-1])
    while True:
        chosen_X = position_U[level_U >= level]
        rows_XR = _rows(features, chosen_X)
        is_deciding_X, floor = _decide(views, rows_XR @ views.asked_QR.T, rows_XR, config)
        # Products of a level are up to its own.
        needed = math.floor((max(floor, least) - least) / step) if step < math.inf else 0
        if level <= needed:
            return chosen_X[is_deciding_X]
        level = needed


def _rows(features: FeatureRows, position_U: Tensor) -> Tensor:
    if isinstance(features, Tensor):  # selecting is faster than indexing
        return features.index_select(0, position_U.to(features.device)).float()
    return features[position_U].float()


def _decide(
    views: Search, products_UV: Tensor, rows_UR: Tensor, config: GeneratorConfig
) -> tuple[Tensor, float]:
    """`routing.beside_runner_up` of one image, where rounding decides nothing; and the inner
    product from which on an expert that is not among these might change it."""
    least, keep, offset, length = (float(part_V[0]) for part_V in views[1:5])
    same, doubt = config.same_image_ratio * length, DOUBT * length
    first_U, product_U = products_UV[:, 0], products_UV.amax(1)
    if bool(((first_U - same).abs() < doubt).any()):
        return product_U >= least, least
    if bool((first_U > same).any()):
        product_U = first_U
    if bool(((product_U - same).abs() < doubt).any()):
        return product_U >= least, least
    is_asked_U = product_U > same
    other_U = product_U.masked_fill(is_asked_U, -torch.inf)
    best, index = other_U.max(0)
    if best < keep:
        return is_asked_U, min(keep, same - doubt)
    likeness_U = rows_UR @ rows_UR[index] / unit_of(config) - config.same_image_ratio
    different_U = other_U.masked_fill(likeness_U >= -DOUBT, -torch.inf)
    second = different_U.max()
    runner_up_U = torch.where(likeness_U >= -DOUBT, second, best)
    may_be_kept_U = other_U - RUNNER_UP_SHARE * runner_up_U > offset - doubt
    is_first_U = (other_U >= best - doubt) | (different_U >= second - doubt)
    is_first_U |= likeness_U.abs() < DOUBT
    is_kept_U = is_asked_U | (may_be_kept_U & (other_U >= keep))
    # With a runner-up `second` or larger.
    floor = max(keep, offset - doubt + RUNNER_UP_SHARE * float(second))
    floor = min(floor, same - doubt, float(second) - doubt)
    return is_kept_U | (is_first_U & (other_U >= least)), floor


def most_similar(
    features: Features, repository: ExpertRepository, config: GeneratorConfig, count: int
) -> Tensor:
    """Positions of the `count` experts with the images most similar to one of some inputs."""
    asked_QR = features.visual_BQM.reshape(-1, config.visual_width).float()
    asked_QR = asked_QR[has_image(asked_QR)]
    if not len(asked_QR):
        return torch.zeros(0, dtype=torch.int64)
    likeness_N = torch.cat([part.amax(1) for part in products_of(asked_QR, repository.visual)])
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
    asked_BK = asked_BK.float()
    least_B = _lowered(asked_BK.new_tensor(least), asked_BK.square().sum(-1) / unit_of(config))
    return scan(_found_alone(asked_BK, least_B * unit_of(config)), scanned).position_U


def _above_sentinel(features: Features, config: GeneratorConfig) -> Search:
    """Eq. 5; and, where another image weakens an edit, the very image (`routing.visual_gates`)."""
    assert features.sentinel_BQM is not None
    least_B = paired_similarity(features.visual_BQM, features.sentinel_BQM)
    if config.visual_gate > 0 and features.same_image_BQM is not None:
        own_B = own_similarity(features, config) - least_B
        least_B = torch.minimum(least_B, least_B + config.same_image_ratio * own_B)
    asked_BK = features.visual_BQM.flatten(1).float()
    least_B = _lowered(least_B, asked_BK.square().sum(-1) / unit_of(config))
    is_shown_B = has_image(asked_BK)
    least_S = least_B[is_shown_B] * unit_of(config)
    return _found_alone(asked_BK[is_shown_B], least_S)


def _found_alone(asked_QR: Tensor, least_Q: Tensor) -> Search:
    """Without runners-up."""
    image_Q = torch.arange(len(asked_QR), device=asked_QR.device)
    zero_Q, length_Q = torch.zeros_like(least_Q), torch.full_like(least_Q, torch.inf)
    return Search(asked_QR, least_Q, least_Q, zero_Q, length_Q, image_Q)


def _beside_runner_up(features: Features, config: GeneratorConfig, offset: float) -> Search:
    assert features.sentinel_BQM is not None
    asked_BSVR = features.visual_BQM.float().unflatten(1, (-1, NUM_VIEWS))
    length_BS = unit_of(config) * own_similarity(features, config)[:, None]
    length_BS = length_BS.expand(-1, asked_BSVR.shape[1])
    sentinel_BS = (asked_BSVR[:, :, 0] * features.sentinel_BQM).sum(-1) / length_BS
    keep_BS = (RUNNER_UP_SHARE * sentinel_BS + offset).clamp(max=config.same_image_ratio)
    least_BS = torch.minimum(sentinel_BS, keep_BS)
    least_BS, keep_BS = (_lowered(part, torch.ones_like(part)) for part in (least_BS, keep_BS))
    image_Q, view_Q = has_image(asked_BSVR.flatten(0, 1)).nonzero().unbind(1)
    levels = (least_BS * length_BS, keep_BS * length_BS, offset * length_BS, length_BS)
    asked_QR = asked_BSVR.flatten(0, 1)[image_Q, view_Q]
    least_Q, keep_Q, offset_Q, length_Q = (part_BS.flatten()[image_Q] for part_BS in levels)
    return Search(asked_QR, least_Q, keep_Q, offset_Q, length_Q, image_Q)


def _lowered(least: Tensor, own: Tensor) -> Tensor:
    """By more than rounding changes a similarity of the size of that of a question with itself."""
    return least - SLACK * torch.maximum(least.abs().clamp(max=1e6), own)


def scan(search: Search, scanned: Sequence[QuantizedSegment]) -> Found:
    """The experts that some question may find, and a few others, rising."""
    if not len(search.asked_QR):
        return Found.joined([])
    asked = Questions(search.asked_QR, search.least_Q, search.length_Q)
    parts, start = [], 0
    for segment, found in zip(scanned, found_in(scanned, asked), strict=True):
        if not segment.blocks:
            found = Found(found_as_stored(search, segment.features_NK))
        parts.append(found._replace(position_U=found.position_U + start))
        start += len(segment.features_NK)
    whole = Found.joined(parts)
    return Found(whole.position_U.unique()) if whole.level_UQ is None else whole


def found_as_stored(search: Search, features_NK: Tensor) -> Tensor:
    """The same among some features, in float32."""
    products = products_of(search.asked_QR, features_NK)
    hits = [(products_XQ >= search.least_Q).any(1) for products_XQ in products]
    return torch.cat(hits).nonzero().flatten().cpu()


def products_of(asked_QR: Tensor, features_NK: FeatureRows) -> Iterator[Tensor]:
    """Inner products with all features, [X, Q] of some experts at a time."""
    for segment_NK in segments_of(features_NK):
        for part_XR in segment_NK.split(max(1, NUMBERS_AT_ONCE // asked_QR.shape[1])):
            yield part_XR.float() @ asked_QR.T
