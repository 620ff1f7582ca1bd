"""How a visual key gets its weights: no gradient steps, but closed forms and held-out entities.

The linear map is a discriminant of all training entities. Its scale and threshold would be too
optimistic if they were measured on the same things, so they come from folds: a map of the other
folds, and the drawings of the entities held out, half of them taught and half of them strangers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit_core.method.config import VisualKeyRecipe
from liveedit_core.method.visual_key import VisualKey, commonness
from liveedit_core.training.discriminant import Discriminant, fit_discriminant

NUM_FOLDS = 4
SCALES = tuple(2 ** (exponent / 4) for exponent in range(8, 29))
"""4 to 128: candidates for the scale of the margins."""


@dataclass(frozen=True, kw_only=True)
class KeyReport:
    """What the folds say about entities that the map was not fitted on, means over the folds."""

    own_first: float
    """Share of other drawings whose own entity ranks first among those taught."""
    own_kept: float
    """Share of other drawings that pass the threshold of their own entity."""
    num_taught: float
    """Entities in the bank of a fold."""
    visual_midpoint: float
    """Visual margin that `answer_fraction` of the strangers exceed."""
    rival_midpoint: float
    """Visual margin that `rival_fraction` of them exceed."""


@torch.no_grad()
def fit_visual_key(
    key: VisualKey, rows_ME: Tensor, entities_M: Tensor, recipe: VisualKeyRecipe
) -> KeyReport:
    """Fit map, sentinels, scale and threshold on drawings of training entities.

    Args:
        key: is filled in place.
        rows_ME: pyramids of M drawings.
        entities_M: int64 entity of each, 0.., each with two drawings or more.
        recipe: settings.
    """
    order = torch.randperm(int(entities_M.max()) + 1)
    folds = [
        _margins(key, rows_ME, entities_M, order[f::NUM_FOLDS], recipe) for f in range(NUM_FOLDS)
    ]
    owns = [own for own, _ in folds]
    strangers = [stranger for _, stranger in folds]
    offset = _exceeded_by(recipe.stranger_fraction, strangers)
    scale = _best_scale(owns)
    key.offset.fill_(offset)
    key.log_scale.copy_(torch.tensor(scale).log())
    fitted = _fit(key, rows_ME, entities_M, recipe)
    key.mean.copy_(fitted.mean_E)
    key.deviation.copy_(fitted.deviation_E)
    key.projection.weight.copy_(fitted.weight_RE)
    crowd = _one_drawing_each(entities_M)
    chosen = crowd[torch.randperm(len(crowd))[: len(key.sentinels)]]
    key.sentinels[: len(chosen)] = fitted.unit(rows_ME[chosen])
    return KeyReport(
        own_first=_mean([(own.argmax(1) == torch.arange(len(own))).float() for own in owns]),
        own_kept=_mean([(own.diagonal() > offset).float() for own in owns]),
        num_taught=sum(len(own) for own in owns) / NUM_FOLDS,
        visual_midpoint=scale * (_exceeded_by(recipe.answer_fraction, strangers) - offset),
        rival_midpoint=scale * (_exceeded_by(recipe.rival_fraction, strangers) - offset),
    )


def _fit(
    key: VisualKey, rows_ME: Tensor, entities_M: Tensor, recipe: VisualKeyRecipe
) -> Discriminant:
    rank = key.projection.out_features
    return fit_discriminant(
        rows_ME, entities_M, rank=rank, num_components=recipe.num_components, ridge=recipe.ridge
    )


def _margins(
    key: VisualKey, rows_ME: Tensor, entities_M: Tensor, held_out_S: Tensor, recipe: VisualKeyRecipe
) -> tuple[Tensor, Tensor]:
    """Of a map that never saw some entities: cosines, corrected but not yet scaled.

    Returns:
        (other drawings of taught entities [S/2, S/2], drawings of strangers [S/2, S/2]) with the
        drawings that were taught, one an entity.
    """
    is_held_M = torch.isin(entities_M, held_out_S)
    fitted = _fit(key, rows_ME[~is_held_M], entities_M[~is_held_M], recipe)
    unit_MR = fitted.unit(rows_ME)
    crowd = _one_drawing_each(entities_M)
    crowd = crowd[~is_held_M[crowd]]
    common_M = commonness(unit_MR, unit_MR[crowd], min(key.nearest, len(crowd)))[:, 0]
    drawings = [(entities_M == entity).nonzero().flatten() for entity in held_out_S]
    pairs = [index[torch.randperm(len(index))[:2]] for index in drawings]
    half = len(pairs) // 2
    taught = torch.stack([first for first, _ in pairs[:half]])

    def corrected(asked: Tensor) -> Tensor:
        local = (common_M[asked][:, None] + common_M[taught]) / 2
        return unit_MR[asked] @ unit_MR[taught].T - local

    others = torch.stack([second for _, second in pairs[:half]])
    strangers = torch.stack([first for first, _ in pairs[half:]])
    return corrected(others), corrected(strangers)


def _exceeded_by(fraction: float, strangers: list[Tensor]) -> float:
    """What this share of the strangers exceeds with some expert, mean over the folds."""
    return sum(float(one.max(1).values.quantile(1 - fraction)) for one in strangers) / NUM_FOLDS


def _best_scale(owns: list[Tensor]) -> float:
    """The scale at which a softmax over margins is least surprised by the own entity (temperature
    scaling: Guo et al., ICML 2017)."""

    def surprise(scale: float) -> float:
        return -_mean([(own * scale).log_softmax(1).diagonal() for own in owns])

    return min(SCALES, key=surprise)


def _one_drawing_each(entities_M: Tensor) -> Tensor:
    """Position of the first drawing of each entity."""
    return torch.stack([(entities_M == entity).nonzero()[0, 0] for entity in entities_M.unique()])


def _mean(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).mean())
