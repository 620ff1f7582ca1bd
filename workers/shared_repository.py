"""The experts of one bank version in a form that Ray's object store shares without copies.

Ray keeps NumPy arrays once a node in shared memory, which every actor of the node reads; torch
tensors would be copied into each call. Of matrices that are read on demand, only the location is
sent.
"""

import warnings
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from liveedit_core.method.repository import ExpertRepository, Matrices, StoredMatrices


@dataclass(frozen=True, kw_only=True)
class SharedRepository:
    """An `ExpertRepository` as arrays, read-only in the receiving process."""

    edit_ids: tuple[str, ...]
    visual_features_NK: np.ndarray
    prompt_features_NK: np.ndarray
    down: np.ndarray | StoredMatrices
    up: np.ndarray | StoredMatrices

    @classmethod
    def of(cls, repository: ExpertRepository) -> Self:
        """The same memory as NumPy arrays."""
        return cls(
            edit_ids=repository.edit_ids,
            visual_features_NK=repository.visual_features_NK.numpy(),
            prompt_features_NK=repository.prompt_features_NK.numpy(),
            down=_shared(repository.down),
            up=_shared(repository.up),
        )

    def repository(self) -> ExpertRepository:
        """The same memory as torch tensors, which must not be written to."""
        return ExpertRepository(
            edit_ids=self.edit_ids,
            visual_features_NK=_tensor(self.visual_features_NK),
            prompt_features_NK=_tensor(self.prompt_features_NK),
            down=_matrices(self.down),
            up=_matrices(self.up),
        )


def _shared(matrices: Matrices) -> np.ndarray | StoredMatrices:
    return matrices.numpy() if isinstance(matrices, Tensor) else matrices


def _matrices(shared: np.ndarray | StoredMatrices) -> Matrices:
    return _tensor(shared) if isinstance(shared, np.ndarray) else shared


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # Torch has no read-only tensors and warns; a repository is never written to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
