"""Training losses (Eq. 8 to 16); each is a mean over the batch."""

import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.training.recipe import KlDirection

EPSILON = 1e-8
"""Added to probabilities before the logarithm."""


def target_nll(logits: list[Tensor], labels: list[Tensor]) -> Tensor:
    """-log p(token) from logits [O, V], mean over tokens, then over items (Eq. 8, 9)."""
    return torch.stack(
        [functional.cross_entropy(row, label) for row, label in zip(logits, labels, strict=True)]
    ).mean()


def locality_kl(
    edited: list[Tensor], original: list[Tensor], direction: KlDirection = "original_to_edited"
) -> Tensor:
    """KL between the backbone's and the edited distribution at target tokens (Eq. 10).

    The paper has KL(original || edited); the authors' code computes the other direction.
    """
    losses = []
    for edited_OV, original_OV in zip(edited, original, strict=True):
        edited_log, original_log = edited_OV.log_softmax(-1), original_OV.log_softmax(-1)
        if direction == "edited_to_original":
            edited_log, original_log = original_log, edited_log
        divergence = functional.kl_div(edited_log, original_log, reduction="sum", log_target=True)
        losses.append(divergence / len(edited_OV))
    return torch.stack(losses).mean()


def info_nce(scores_BC: Tensor, positive_B: Tensor | None = None) -> Tensor:
    """-log softmax at the positive column, by default the diagonal (Eq. 13 to 15)."""
    if positive_B is None:
        positive_B = torch.arange(len(scores_BC), device=scores_BC.device)
    shares = scores_BC.float().softmax(-1).gather(1, positive_B[:, None])
    return -(shares + EPSILON).log().mean()


def soft_absolute(scores_BB: Tensor) -> Tensor:
    """-log sigmoid(s_jj) - log(1 - sigmoid(s_j,j-1)): negatives are rolled (Eq. 16)."""
    return gate_loss(scores_BB.diagonal(), scores_BB.roll(1, dims=1).diagonal())


def gate_loss(positive_B: Tensor, negative_B: Tensor) -> Tensor:
    """Mean of -log sigmoid(positive) - log(1 - sigmoid(negative))."""
    push = -(positive_B.float().sigmoid() + EPSILON).log()
    pull = -(1 - negative_B.float().sigmoid() + EPSILON).log()
    return push.mean() + pull.mean()


def hard_neighbour(scores_BB: Tensor, sentinel_B: Tensor) -> Tensor:
    """InfoNCE over the batch's experts and the sentinel; the own expert is positive (Eq. 13)."""
    return info_nce(torch.cat([scores_BB, sentinel_B[:, None]], dim=1))


def hard_sentinel(scores_BB: Tensor, sentinel_B: Tensor) -> Tensor:
    """InfoNCE over the same columns; the sentinel is positive (Eq. 14)."""
    columns = torch.cat([scores_BB, sentinel_B[:, None]], dim=1)
    last = columns.shape[1] - 1
    return info_nce(columns, torch.full((len(columns),), last, device=columns.device))
