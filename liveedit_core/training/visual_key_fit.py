"""Fits the visual key: no gradient steps, but closed forms and held-out entities.

The projection is a linear discriminant of all training entities. Scale and threshold
would be too optimistic on the same entities, so they come from folds: the projection of the other
folds on drawings of the held-out entities, half of which are edited. A key that routing compares
with the runner-up has its offset from the recipe: the bank itself will say it (`calibration`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit_core.method.config import VisualKeyRecipe
from liveedit_core.method.routing import RUNNER_UP_SHARE
from liveedit_core.method.visual_key import VisualKey, commonness
from liveedit_core.training.discriminant import Discriminant, first_of_each, fit_discriminant

NUM_FOLDS = 4
SCALES = tuple(2 ** (exponent / 4) for exponent in range(8, 29))
"""4 to 128: candidates for the scale of the margins."""


@dataclass(frozen=True, kw_only=True)
class KeyReport:
    """Results on entities that the projection was not fitted on, means over the folds."""

    own_first: float
    """Share of other drawings whose own entity ranks first among the edited ones."""
    own_kept: float
    """Share of other drawings that pass the threshold of their own entity."""
    num_edited: float
    """Entities in the bank of a fold."""
    visual_midpoint: float
    """Visual margin exceeded by `answer_fraction` of the images of unedited entities."""
    other_image_midpoint: float
    """Visual margin exceeded by `other_image_fraction` of them."""


@torch.no_grad()
def fit_visual_key(
    key: VisualKey,
    pyramids_ME: Tensor,
    entities_M: Tensor,
    recipe: VisualKeyRecipe,
    others_XE: Tensor | None = None,
) -> KeyReport:
    """Fit a key in place; `entities_M` counts from 0, each entity with two drawings or more.
    Images of other kinds, `others_XE`, are sentinels."""
    order = torch.randperm(int(entities_M.max()) + 1).to(entities_M.device)
    folds = [
        _cosines(key, pyramids_ME, entities_M, order[f::NUM_FOLDS], recipe)
        for f in range(NUM_FOLDS)
    ]
    edited = [edited_SS for edited_SS, _ in folds]
    unedited = [unedited_SS for _, unedited_SS in folds]
    offset = recipe.runner_up_offset
    if not key.has_runner_up:
        offset = _exceeded_by(recipe.unedited_fraction, unedited)
    scale = _best_scale(edited)
    key.offset.fill_(offset)
    key.log_scale.copy_(torch.tensor(scale).log())
    fitted = _fit(key, pyramids_ME, entities_M, recipe)
    key.mean.copy_(fitted.mean_E)
    key.deviation.copy_(fitted.deviation_E)
    key.projection.weight.copy_(fitted.weight_RE)
    sentinels = first_of_each(entities_M)
    chosen = sentinels[torch.randperm(len(sentinels))]
    kinds = [pyramids_ME[chosen]] if others_XE is None else [others_XE, pyramids_ME[chosen]]
    images_CE = torch.cat(kinds)[: len(key.sentinels)]
    key.sentinels[: len(images_CE)] = fitted.unit(images_CE)
    gates = (recipe.answer_fraction, recipe.other_image_fraction)
    midpoints = [scale * (_exceeded_by(share, unedited) - offset) for share in gates]
    if key.has_runner_up:  # there is no visual gate
        midpoints = [0.0, 0.0]
    return KeyReport(
        own_first=_mean([(one.diagonal() == one.amax(1)).float() for one in edited]),
        own_kept=_mean([(_own_margins(key, one) > offset).float() for one in edited]),
        num_edited=sum(len(one) for one in edited) / NUM_FOLDS,
        visual_midpoint=midpoints[0],
        other_image_midpoint=midpoints[1],
    )


def _cosines(
    key: VisualKey,
    pyramids_ME: Tensor,
    entities_M: Tensor,
    held_out_S: Tensor,
    recipe: VisualKeyRecipe,
) -> tuple[Tensor, Tensor]:
    """Unscaled cosines [S/2, S/2] of held-out (other drawings, unedited entities) with edited."""
    is_held_M = torch.isin(entities_M, held_out_S)
    fitted = _fit(key, pyramids_ME[~is_held_M], entities_M[~is_held_M], recipe)
    unit_MR = fitted.unit(pyramids_ME)
    sentinels = first_of_each(entities_M)
    sentinels = sentinels[~is_held_M[sentinels]]
    nearest = min(key.nearest, len(sentinels))
    common_M = commonness(unit_MR, unit_MR[sentinels], nearest)[:, 0]
    if key.has_runner_up:
        common_M = torch.zeros_like(common_M)
    drawings = [(entities_M == entity).nonzero().flatten() for entity in held_out_S]
    pairs = [index[torch.randperm(len(index))[:2]] for index in drawings]
    half = len(pairs) // 2
    edited = torch.stack([first for first, _ in pairs[:half]])

    def corrected(images: Tensor) -> Tensor:
        local = (common_M[images][:, None] + common_M[edited]) / 2
        return unit_MR[images] @ unit_MR[edited].T - local

    others = torch.stack([second for _, second in pairs[:half]])
    unedited = torch.stack([first for first, _ in pairs[half:]])
    return corrected(others), corrected(unedited)


def _own_margins(key: VisualKey, cosine_SS: Tensor) -> Tensor:
    own_S = cosine_SS.diagonal()
    if not key.has_runner_up:
        return own_S
    is_own_SS = torch.eye(len(own_S), dtype=torch.bool, device=own_S.device)
    return own_S - RUNNER_UP_SHARE * cosine_SS.masked_fill(is_own_SS, -1).amax(1)


def _exceeded_by(fraction: float, unedited: list[Tensor]) -> float:
    """The largest cosine that this share of the images exceeds, mean over the folds."""
    return sum(float(one.max(1).values.quantile(1 - fraction)) for one in unedited) / NUM_FOLDS


def _best_scale(edited: list[Tensor]) -> float:
    """Scale with the lowest cross-entropy of the own entity (temperature scaling, Guo 2017)."""

    def cross_entropy(scale: float) -> float:
        return -_mean([(one * scale).log_softmax(1).diagonal() for one in edited])

    return min(SCALES, key=cross_entropy)


def _mean(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).mean())


def _fit(
    key: VisualKey, values_ME: Tensor, entities_M: Tensor, recipe: VisualKeyRecipe
) -> Discriminant:
    return fit_discriminant(
        values_ME,
        entities_M,
        rank=key.projection.out_features,
        num_components=recipe.num_components,
        ridge=recipe.ridge,
    )
