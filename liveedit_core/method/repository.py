"""The expert repository: N experts, their routing features as stacked tensors in memory.

Their matrices are in memory too, or read when an input keeps them (`expert_matrices.py`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from liveedit_core.errors import ShapeError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.expert import Expert
from liveedit_core.method.expert_matrices import Matrices, dense, joined, selected


@dataclass(frozen=True, kw_only=True)
class ExpertRepository:
    """Immutable stack of experts; the order carries no meaning."""

    edit_ids: tuple[str, ...]
    visual_features_NK: Tensor
    prompt_features_NK: Tensor
    down: Matrices
    """[N, R, D]."""
    up: Matrices

    def __post_init__(self) -> None:
        for name in ("visual_features_NK", "prompt_features_NK", "down", "up"):
            tensor = getattr(self, name)
            if tensor.shape[0] != len(self.edit_ids):
                raise ShapeError(
                    f"repository: {len(self.edit_ids)} edits, but {name} is {tuple(tensor.shape)}"
                )

    def __len__(self) -> int:
        return len(self.edit_ids)

    @property
    def down_NRD(self) -> Tensor:
        """All of them; reads them where they are stored."""
        return dense(self.down)

    @property
    def up_NRD(self) -> Tensor:
        """All of them; reads them where they are stored."""
        return dense(self.up)

    def matrices(self, index_U: Tensor) -> tuple[Tensor, Tensor]:
        """Down and up of the experts at some positions, two [U, R, D]; no others are read."""
        return self.down[index_U], self.up[index_U]

    @classmethod
    def empty(cls, config: GeneratorConfig) -> Self:
        """A repository without experts."""
        return cls.from_experts(config, ())

    @classmethod
    def from_experts(cls, config: GeneratorConfig, experts: Sequence[Expert]) -> Self:
        """Stack experts."""
        features = (0, config.feature_size)
        matrices = (0, config.rank, config.hidden_size)
        if not experts:
            return cls(
                edit_ids=(),
                visual_features_NK=torch.zeros(features),
                prompt_features_NK=torch.zeros(features),
                down=torch.zeros(matrices),
                up=torch.zeros(matrices),
            )
        return cls(
            edit_ids=tuple(expert.edit_id for expert in experts),
            visual_features_NK=torch.stack([e.visual_feature_QM.flatten() for e in experts]),
            prompt_features_NK=torch.stack([e.prompt_feature_QM.flatten() for e in experts]),
            down=torch.stack([expert.down_RD for expert in experts]),
            up=torch.stack([expert.up_RD for expert in experts]),
        )

    @classmethod
    def from_arrays(
        cls,
        config: GeneratorConfig,
        edit_ids: Sequence[str],
        visual: np.ndarray,
        prompt: np.ndarray,
        down: np.ndarray,
        up: np.ndarray,
    ) -> Self:
        """Wrap stored arrays.

        Args:
            visual, prompt: float32 [N, K].
            down, up: float32 [N, R, D] (or flattened).

        Raises:
            ShapeError: the arrays do not fit the config.
        """
        count = len(edit_ids)
        matrices = (count, config.rank, config.hidden_size)
        shapes = ((count, config.feature_size),) * 2 + (matrices,) * 2
        try:
            stacked = [
                torch.from_numpy(np.array(array, dtype=np.float32).reshape(shape))
                for array, shape in zip((visual, prompt, down, up), shapes, strict=True)
            ]
        except ValueError as error:
            raise ShapeError(f"repository of {count} edits: {error}") from error
        return cls(
            edit_ids=tuple(edit_ids),
            visual_features_NK=stacked[0],
            prompt_features_NK=stacked[1],
            down=stacked[2],
            up=stacked[3],
        )

    def with_experts(self, config: GeneratorConfig, experts: Sequence[Expert]) -> Self:
        """This repository and some more experts."""
        more = type(self).from_experts(config, experts)
        return replace(
            self,
            edit_ids=self.edit_ids + more.edit_ids,
            visual_features_NK=torch.cat([self.visual_features_NK, more.visual_features_NK]),
            prompt_features_NK=torch.cat([self.prompt_features_NK, more.prompt_features_NK]),
            down=joined(self.down, more.down),
            up=joined(self.up, more.up),
        )

    def without(self, edit_ids: Collection[str]) -> Self:
        """This repository without some edits."""
        gone = set(edit_ids)
        return self.take([i for i, edit_id in enumerate(self.edit_ids) if edit_id not in gone])

    def take(self, index: Sequence[int]) -> Self:
        """The experts at some positions, in that order."""
        chosen = torch.tensor(list(index), dtype=torch.int64)
        return replace(
            self,
            edit_ids=tuple(self.edit_ids[i] for i in index),
            visual_features_NK=self.visual_features_NK[chosen],
            prompt_features_NK=self.prompt_features_NK[chosen],
            down=selected(self.down, chosen),
            up=selected(self.up, chosen),
        )
