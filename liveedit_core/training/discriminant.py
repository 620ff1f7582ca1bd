"""Linear discriminant analysis: the linear map that keeps what differs between entities and drops
what differs between drawings of one entity (Fisher 1936; as used for metric learning)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True, kw_only=True)
class Discriminant:
    """Standardise, then project."""

    mean_E: Tensor
    deviation_E: Tensor
    weight_RE: Tensor

    def unit(self, rows_ME: Tensor) -> Tensor:
        """Projected rows of length one, [M, R]."""
        scaled_ME = (rows_ME - self.mean_E) / self.deviation_E
        return functional.normalize(scaled_ME @ self.weight_RE.T, dim=-1)


@torch.no_grad()
def fit_discriminant(
    rows_ME: Tensor, entities_M: Tensor, *, rank: int, num_components: int, ridge: float
) -> Discriminant:
    """Fit on labelled rows, in closed form.

    Args:
        rows_ME: float32 rows of M drawings.
        entities_M: int64 label of each; a label with one drawing says nothing about style.
        rank: R.
        num_components: principal components that are looked at, at most min(M, E).
        ridge: added to the within-entity covariance, as a share of its mean variance.
    """
    mean, deviation = rows_ME.mean(0), rows_ME.std(0) + SMALLEST_DEVIATION
    scaled = (rows_ME - mean) / deviation
    num_components = min(num_components, *scaled.shape)
    _, _, components_EC = torch.pca_lowrank(scaled, num_components, center=False, niter=4)
    reduced_MC = scaled @ components_EC
    means_SC, label_M = means_of(reduced_MC, entities_M)
    within_CC = torch.cov((reduced_MC - means_SC[label_M]).T, correction=0)
    within_CC += ridge * within_CC.diagonal().mean() * torch.eye(num_components)
    whiten_CC = torch.linalg.inv(torch.linalg.cholesky(within_CC)).T
    between_CC = torch.cov((means_SC @ whiten_CC).T, correction=0)
    directions_CR = torch.linalg.eigh(between_CC).eigenvectors[:, -rank:]
    weight = (components_EC @ whiten_CC @ directions_CR).T
    return Discriminant(
        mean_E=mean,
        deviation_E=deviation,
        weight_RE=weight / (scaled @ weight.T).std(),  # rows of about unit size fit float16
    )


def means_of(rows_MC: Tensor, entities_M: Tensor) -> tuple[Tensor, Tensor]:
    """(mean row of each entity [S, C], its position for each row [M])."""
    _, label_M = entities_M.unique(return_inverse=True)
    counts_S1 = torch.bincount(label_M)[:, None]
    sums_SC = rows_MC.new_zeros(len(counts_S1), rows_MC.shape[1]).index_add_(0, label_M, rows_MC)
    return sums_SC / counts_S1, label_M
