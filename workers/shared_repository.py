"""The experts of one bank version in a form that Ray's object store shares without copies.

Ray lays NumPy arrays out of band: each node holds them once, in shared memory, and every actor of
the node reads that very memory. Torch tensors would be copied into each call.
Matrices that are read on demand stay in the store; only where they are travels.
"""

import warnings
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from liveedit_core.method.expert_matrices import Matrices, StoredMatrices
from liveedit_core.method.repository import ExpertRepository


@dataclass(frozen=True, kw_only=True)
class SharedRepository:
    """An `ExpertRepository` as arrays; read-only where it arrives."""

    edit_ids: tuple[str, ...]
    visual_features_NK: np.ndarray
    prompt_features_NK: np.ndarray
    down: np.ndarray | StoredMatrices
    up: np.ndarray | StoredMatrices

    @classmethod
    def of(cls, repository: ExpertRepository) -> Self:
        """The same memory, seen by NumPy."""
        return cls(
            edit_ids=repository.edit_ids,
            visual_features_NK=repository.visual_features_NK.numpy(),
            prompt_features_NK=repository.prompt_features_NK.numpy(),
            down=_shared(repository.down),
            up=_shared(repository.up),
        )

    def repository(self) -> ExpertRepository:
        """The same memory, seen by torch; nothing may write into it."""
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
        # Torch has no read-only tensors and says so; a repository is never written to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
