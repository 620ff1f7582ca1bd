"""Fits the prompt key: no gradient steps, but closed forms and held-out families of questions.

A family is one question in several wordings. The projection is a linear discriminant of all
training families, whose mean directions are the anchors. Offset and scale come from folds: the
projection of the other folds on the wordings of the held-out families, one wording of each of which
is edited.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.method.config import PromptKeyRecipe
from liveedit_core.method.prompt_key import OWN_SIMILARITY, PromptKey, commonness
from liveedit_core.training.discriminant import Discriminant, fit_discriminant

NUM_FOLDS = 4
LARGEST_SCALE = 128.0


@dataclass(frozen=True, kw_only=True)
class PromptKeyReport:
    """Results on families that the projection was not fitted on."""

    own_first: float
    """Share of other wordings whose own family ranks first among the edited ones."""
    own_kept: float
    """Share of other wordings that pass the gate of their own family's edit."""
    others_kept: float
    """Share of pairs of a wording and the edit of another family that pass."""
    num_edited: float
    """Families in the bank of a fold."""


@torch.no_grad()
def fit_prompt_key(
    key: PromptKey, embeddings_MP: Tensor, families_M: Tensor, recipe: PromptKeyRecipe
) -> PromptKeyReport:
    """Fit a key in place; `families_M` counts from 0, each family with two wordings or more."""
    order = torch.randperm(int(families_M.max()) + 1).to(families_M.device)
    folds = [
        _held_out(key, embeddings_MP, families_M, order[fold::NUM_FOLDS], recipe)
        for fold in range(NUM_FOLDS)
    ]
    others = torch.cat([fold.scores_AS[~fold.is_own_AS] for fold in folds])
    own = torch.cat([fold.scores_AS[fold.is_own_AS] for fold in folds])
    offset = float(_exceeded_by(recipe.other_fraction, others))
    scale = _scale(own - offset)
    key.offset.fill_(offset)
    key.log_scale.fill_(scale).log_()
    fitted = fit_projection(key, embeddings_MP, families_M, recipe)
    key.mean.copy_(fitted.mean_E)
    key.deviation.copy_(fitted.deviation_E)
    key.projection.weight.copy_(fitted.weight_RE)
    key.anchors.copy_(_anchors(key, fitted, embeddings_MP, families_M))
    first = [fold.first() for fold in folds]
    return PromptKeyReport(
        own_first=float(torch.cat(first).float().mean()),
        own_kept=float((own > offset).float().mean()),
        others_kept=float((others > offset).float().mean()),
        num_edited=sum(fold.scores_AS.shape[1] for fold in folds) / NUM_FOLDS,
    )


def fit_projection(
    key: PromptKey, embeddings_MP: Tensor, families_M: Tensor, recipe: PromptKeyRecipe
) -> Discriminant:
    """What maps embeddings to directions."""
    return fit_discriminant(
        embeddings_MP,
        families_M,
        rank=key.projection.out_features,
        num_components=recipe.num_components,
        ridge=recipe.ridge,
    )


@dataclass(frozen=True, kw_only=True)
class _Fold:
    """Corrected cosines of A asked wordings with the S edits of a fold's families."""

    scores_AS: Tensor
    is_own_AS: Tensor

    def first(self) -> Tensor:
        """Whether the own family ranks first, [A]."""
        best_A1 = self.scores_AS.argmax(1, keepdim=True)
        return self.is_own_AS.gather(1, best_A1)[:, 0]


def _held_out(
    key: PromptKey,
    embeddings_MP: Tensor,
    families_M: Tensor,
    held_out_S: Tensor,
    recipe: PromptKeyRecipe,
) -> _Fold:
    is_held_M = torch.isin(families_M, held_out_S)
    fitted = fit_projection(key, embeddings_MP[~is_held_M], families_M[~is_held_M], recipe)
    unit_MR = fitted.unit(embeddings_MP)
    anchors_SR = _anchors(key, fitted, embeddings_MP[~is_held_M], families_M[~is_held_M])
    common_M1 = commonness(unit_MR, anchors_SR)
    wordings = [(families_M == family).nonzero().flatten() for family in held_out_S]
    edited_S = torch.stack([index[torch.randint(len(index), ())] for index in wordings])
    is_edited_M = torch.zeros_like(is_held_M).index_fill_(0, edited_S, True)
    asked_A = (is_held_M & ~is_edited_M).nonzero().flatten()
    return _Fold(
        scores_AS=unit_MR[asked_A] @ unit_MR[edited_S].T
        - common_M1[asked_A]
        - common_M1[edited_S].T,
        is_own_AS=families_M[asked_A][:, None] == families_M[edited_S],
    )


def _anchors(
    key: PromptKey, fitted: Discriminant, embeddings_MP: Tensor, families_M: Tensor
) -> Tensor:
    """Mean directions of families, [S, R]; none for a key without."""
    unit_MR = fitted.unit(embeddings_MP)
    if not len(key.anchors):
        return unit_MR[:0]
    means = [unit_MR[families_M == family].mean(0) for family in families_M.unique()]
    return functional.normalize(torch.stack(means), dim=-1)


def _scale(margins: Tensor) -> float:
    """With which half of the other wordings that pass reach the own prompt's similarity."""
    passing = margins[margins > 0]
    if not len(passing):
        return LARGEST_SCALE
    return min(LARGEST_SCALE, OWN_SIMILARITY / float(passing.median()))


def _exceeded_by(fraction: float, scores: Tensor) -> Tensor:
    """The score that this share exceeds; `quantile` takes at most 16 million."""
    return scores.sort(descending=True).values[int(fraction * len(scores))]
