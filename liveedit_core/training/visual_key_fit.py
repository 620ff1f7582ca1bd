"""Fits the visual key: no gradient steps, but closed forms and held-out entities.

The projection is a linear discriminant of all training entities (Fisher 1936). Scale and threshold
would be too optimistic on the same entities, so they come from folds: the projection of the other
folds on drawings of the held-out entities, half of which are edited.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.method.config import VisualKeyRecipe
from liveedit_core.method.visual_key import VisualKey, commonness

NUM_FOLDS = 4
SCALES = tuple(2 ** (exponent / 4) for exponent in range(8, 29))
"""4 to 128: candidates for the scale of the margins."""
SMALLEST_DEVIATION = 1e-6


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
    key: VisualKey, pyramids_ME: Tensor, entities_M: Tensor, recipe: VisualKeyRecipe
) -> KeyReport:
    """Fit a key in place; `entities_M` counts from 0, each entity with two drawings or more."""
    order = torch.randperm(int(entities_M.max()) + 1)
    folds = [
        _cosines(key, pyramids_ME, entities_M, order[f::NUM_FOLDS], recipe)
        for f in range(NUM_FOLDS)
    ]
    edited = [edited_SS for edited_SS, _ in folds]
    unedited = [unedited_SS for _, unedited_SS in folds]
    offset = _exceeded_by(recipe.unedited_fraction, unedited)
    scale = _best_scale(edited)
    key.offset.fill_(offset)
    key.log_scale.copy_(torch.tensor(scale).log())
    fitted = _fit(key, pyramids_ME, entities_M, recipe)
    key.mean.copy_(fitted.mean_E)
    key.deviation.copy_(fitted.deviation_E)
    key.projection.weight.copy_(fitted.weight_RE)
    sentinels = _one_drawing_each(entities_M)
    chosen = sentinels[torch.randperm(len(sentinels))[: len(key.sentinels)]]
    key.sentinels[: len(chosen)] = fitted.unit(pyramids_ME[chosen])
    return KeyReport(
        own_first=_mean([(one.argmax(1) == torch.arange(len(one))).float() for one in edited]),
        own_kept=_mean([(one.diagonal() > offset).float() for one in edited]),
        num_edited=sum(len(one) for one in edited) / NUM_FOLDS,
        visual_midpoint=scale * (_exceeded_by(recipe.answer_fraction, unedited) - offset),
        other_image_midpoint=scale * (_exceeded_by(recipe.other_image_fraction, unedited) - offset),
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
    sentinels = _one_drawing_each(entities_M)
    sentinels = sentinels[~is_held_M[sentinels]]
    nearest = min(key.nearest, len(sentinels))
    common_M = commonness(unit_MR, unit_MR[sentinels], nearest)[:, 0]
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


def _exceeded_by(fraction: float, unedited: list[Tensor]) -> float:
    """The largest cosine that this share of the images exceeds, mean over the folds."""
    return sum(float(one.max(1).values.quantile(1 - fraction)) for one in unedited) / NUM_FOLDS


def _best_scale(edited: list[Tensor]) -> float:
    """Scale with the lowest cross-entropy of the own entity (temperature scaling, Guo 2017)."""

    def cross_entropy(scale: float) -> float:
        return -_mean([(one * scale).log_softmax(1).diagonal() for one in edited])

    return min(SCALES, key=cross_entropy)


def _one_drawing_each(entities_M: Tensor) -> Tensor:
    """Position of the first drawing of each entity."""
    return torch.stack([(entities_M == entity).nonzero()[0, 0] for entity in entities_M.unique()])


def _mean(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).mean())


@dataclass(frozen=True, kw_only=True)
class Discriminant:
    """Standardise, then project."""

    mean_E: Tensor
    deviation_E: Tensor
    weight_RE: Tensor

    def unit(self, values_ME: Tensor) -> Tensor:
        """Projections as unit vectors, [M, R]."""
        scaled_ME = (values_ME - self.mean_E) / self.deviation_E
        return functional.normalize(scaled_ME @ self.weight_RE.T, dim=-1)


def _fit(
    key: VisualKey, values_ME: Tensor, entities_M: Tensor, recipe: VisualKeyRecipe
) -> Discriminant:
    """Linear discriminant analysis in closed form, on the leading principal components."""
    mean, deviation = values_ME.mean(0), values_ME.std(0) + SMALLEST_DEVIATION
    scaled = (values_ME - mean) / deviation
    num_components = min(recipe.num_components, *scaled.shape)
    _, _, components_EC = torch.pca_lowrank(scaled, num_components, center=False, niter=4)
    reduced_MC = scaled @ components_EC
    _, label_M = entities_M.unique(return_inverse=True)
    counts_S1 = torch.bincount(label_M)[:, None]
    sums_SC = reduced_MC.new_zeros(len(counts_S1), num_components)
    means_SC = sums_SC.index_add_(0, label_M, reduced_MC) / counts_S1
    within_CC = torch.cov((reduced_MC - means_SC[label_M]).T, correction=0)
    within_CC += recipe.ridge * within_CC.diagonal().mean() * torch.eye(num_components)
    whiten_CC = torch.linalg.inv(torch.linalg.cholesky(within_CC)).T
    between_CC = torch.cov((means_SC @ whiten_CC).T, correction=0)
    directions_CR = torch.linalg.eigh(between_CC).eigenvectors[:, -key.projection.out_features :]
    weight = (components_EC @ whiten_CC @ directions_CR).T
    return Discriminant(
        mean_E=mean,
        deviation_E=deviation,
        weight_RE=weight / (scaled @ weight.T).std(),  # unit size, so that it fits float16
    )
