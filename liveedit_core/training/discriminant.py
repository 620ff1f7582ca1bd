"""Linear discriminant analysis in closed form (Fisher 1936): the projection of a key."""

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

    def unit(self, values_ME: Tensor) -> Tensor:
        """Projections as unit vectors, [M, R]."""
        scaled_ME = (values_ME - self.mean_E) / self.deviation_E
        return functional.normalize(scaled_ME @ self.weight_RE.T, dim=-1)


def fit_discriminant(
    values_ME: Tensor, classes_M: Tensor, *, rank: int, num_components: int, ridge: float
) -> Discriminant:
    """Directions that tell classes apart, on the leading principal components; `ridge` is added to
    the covariance within classes, as a share of its mean variance."""
    mean, deviation = values_ME.mean(0), values_ME.std(0) + SMALLEST_DEVIATION
    scaled = (values_ME - mean) / deviation
    num_components = min(num_components, *scaled.shape)
    _, _, components_EC = torch.pca_lowrank(scaled, num_components, center=False, niter=4)
    reduced_MC = scaled @ components_EC
    _, label_M = classes_M.unique(return_inverse=True)
    counts_S1 = torch.bincount(label_M)[:, None]
    sums_SC = reduced_MC.new_zeros(len(counts_S1), num_components)
    means_SC = sums_SC.index_add_(0, label_M, reduced_MC) / counts_S1
    within_CC = torch.cov((reduced_MC - means_SC[label_M]).T, correction=0)
    within_CC.diagonal().add_(ridge * within_CC.diagonal().mean())
    whiten_CC = torch.linalg.inv(torch.linalg.cholesky(within_CC)).T
    between_CC = torch.cov((means_SC @ whiten_CC).T, correction=0)
    directions_CR = torch.linalg.eigh(between_CC).eigenvectors[:, -rank:]
    weight = (components_EC @ whiten_CC @ directions_CR).T
    return Discriminant(
        mean_E=mean,
        deviation_E=deviation,
        weight_RE=weight / (scaled @ weight.T).std(),  # unit size, so that it fits float16
    )


def first_of_each(classes_M: Tensor) -> Tensor:
    """Position of the first value of each class."""
    return torch.stack([(classes_M == one).nonzero()[0, 0] for one in classes_M.unique()])
