"""The matrices of N experts: a tensor in memory, or something that reads those that are asked for.

An input keeps few experts, and only their matrices are needed (Eq. 6); routing needs the features
alone. So a repository of many edits may leave its matrices where they are stored. Whoever stores
them implements `StoredMatrices`; the functions here treat both alike.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class StoredMatrices(Protocol):
    """One factor of N experts, [N, R, D] float32, that is read when it is indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, R, D)."""

    def __getitem__(self, index_U: Tensor) -> Tensor:
        """Those at some positions, in that order, [U, R, D].

        Raises:
            StorageUnavailableError: The store does not answer.
            IntegrityError: Their file is gone or damaged.
        """


Matrices = Tensor | StoredMatrices


def dense(matrices: Matrices) -> Tensor:
    """All of them in memory."""
    if isinstance(matrices, Tensor):
        return matrices
    return matrices[torch.arange(matrices.shape[0])]


def selected(matrices: Matrices, index_U: Tensor) -> Matrices:
    """Those at some positions; what is stored stays where it is."""
    if isinstance(matrices, Tensor):
        return matrices[index_U]
    return _Selected(matrices, index_U)


def joined(first: Matrices, second: Matrices) -> Matrices:
    """Both, one after the other; what is stored stays where it is."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    return _Joined(first, second)


@dataclass(frozen=True)
class _Selected:
    base: StoredMatrices
    index_U: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.index_U), *self.base.shape[1:])

    def __getitem__(self, index_U: Tensor) -> Tensor:
        return self.base[self.index_U[index_U]]


@dataclass(frozen=True)
class _Joined:
    first: Matrices
    second: Matrices

    @property
    def shape(self) -> tuple[int, ...]:
        count = self.first.shape[0] + self.second.shape[0]
        return (count, *self.first.shape[1:])

    def __getitem__(self, index_U: Tensor) -> Tensor:
        num_first = self.first.shape[0]
        is_first_U = index_U < num_first
        picked = torch.empty(len(index_U), *self.first.shape[1:])
        picked[is_first_U] = self.first[index_U[is_first_U]]
        picked[~is_first_U] = self.second[index_U[~is_first_U] - num_first]
        return picked
