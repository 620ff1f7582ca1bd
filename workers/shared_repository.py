"""The experts of one bank version in a form that Ray's object store shares without copies.

Ray lays NumPy arrays out of band: each node holds them once, in shared memory, and every actor of
the node reads that very memory. Torch tensors would be copied into each call.
"""

import warnings
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from liveedit_core.repository import ExpertRepository


@dataclass(frozen=True, kw_only=True)
class SharedRepository:
    """An `ExpertRepository` as arrays; read-only where it arrives."""

    edit_ids: tuple[str, ...]
    visual_features_NK: np.ndarray
    prompt_features_NK: np.ndarray
    down_NRD: np.ndarray
    up_NRD: np.ndarray

    @classmethod
    def of(cls, repository: ExpertRepository) -> Self:
        """The same memory, seen by NumPy."""
        return cls(
            edit_ids=repository.edit_ids,
            visual_features_NK=repository.visual_features_NK.numpy(),
            prompt_features_NK=repository.prompt_features_NK.numpy(),
            down_NRD=repository.down_NRD.numpy(),
            up_NRD=repository.up_NRD.numpy(),
        )

    def repository(self) -> ExpertRepository:
        """The same memory, seen by torch; nothing may write into it."""
        return ExpertRepository(
            edit_ids=self.edit_ids,
            visual_features_NK=_tensor(self.visual_features_NK),
            prompt_features_NK=_tensor(self.prompt_features_NK),
            down_NRD=_tensor(self.down_NRD),
            up_NRD=_tensor(self.up_NRD),
        )


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # Torch has no read-only tensors and says so; a repository is never written to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
