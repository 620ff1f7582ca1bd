"""The expert repository: N experts as stacked tensors.

Routing needs every feature but only the matrices of the few experts that an input keeps (Eq. 6).
So features are in memory, while matrices may stay in storage and be read when they are indexed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from liveedit_core.errors import ShapeError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.expert import Expert


class StoredMatrices(Protocol):
    """One factor of N experts, [N, R, D] float32, read when it is indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, R, D)."""

    def __getitem__(self, index_U: Tensor) -> Tensor:
        """The matrices at some positions, in that order, [U, R, D]."""


Matrices = Tensor | StoredMatrices


@dataclass(frozen=True, kw_only=True)
class ExpertRepository:
    """Immutable stack of experts; their order does not affect any result."""

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
        """All of them in memory; reads stored ones."""
        return _in_memory(self.down)

    @property
    def up_NRD(self) -> Tensor:
        """All of them in memory; reads stored ones."""
        return _in_memory(self.up)

    def matrices(self, index_U: Tensor) -> tuple[Tensor, Tensor]:
        """Down and up of the experts at some positions, two [U, R, D]; reads no others."""
        return self.down[index_U], self.up[index_U]

    @classmethod
    def empty(cls, config: GeneratorConfig) -> Self:
        """A repository without experts."""
        matrices = (0, config.rank, config.hidden_size)
        return cls(
            edit_ids=(),
            visual_features_NK=torch.zeros(0, config.feature_size),
            prompt_features_NK=torch.zeros(0, config.feature_size),
            down=torch.zeros(matrices),
            up=torch.zeros(matrices),
        )

    @classmethod
    def from_experts(cls, config: GeneratorConfig, experts: Sequence[Expert]) -> Self:
        """Stack experts."""
        if not experts:
            return cls.empty(config)
        return cls(
            edit_ids=tuple(expert.edit_id for expert in experts),
            visual_features_NK=torch.stack([e.visual_feature_QM.flatten() for e in experts]),
            prompt_features_NK=torch.stack([e.prompt_feature_QM.flatten() for e in experts]),
            down=torch.stack([expert.down_RD for expert in experts]),
            up=torch.stack([expert.up_RD for expert in experts]),
        )

    def with_experts(self, config: GeneratorConfig, experts: Sequence[Expert]) -> Self:
        """This repository plus some experts."""
        more = type(self).from_experts(config, experts)
        return replace(
            self,
            edit_ids=self.edit_ids + more.edit_ids,
            visual_features_NK=torch.cat([self.visual_features_NK, more.visual_features_NK]),
            prompt_features_NK=torch.cat([self.prompt_features_NK, more.prompt_features_NK]),
            down=_concatenate(self.down, more.down),
            up=_concatenate(self.up, more.up),
        )

    def without(self, edit_ids: Collection[str]) -> Self:
        """This repository without some edits; unknown ids are ignored."""
        removed = set(edit_ids)
        return self.take([i for i, edit_id in enumerate(self.edit_ids) if edit_id not in removed])

    def take(self, index: Sequence[int]) -> Self:
        """The experts at some positions, in that order."""
        chosen = torch.tensor(list(index), dtype=torch.int64)
        return replace(
            self,
            edit_ids=tuple(self.edit_ids[i] for i in index),
            visual_features_NK=self.visual_features_NK[chosen],
            prompt_features_NK=self.prompt_features_NK[chosen],
            down=_select(self.down, chosen),
            up=_select(self.up, chosen),
        )


def _in_memory(matrices: Matrices) -> Tensor:
    if isinstance(matrices, Tensor):
        return matrices
    return matrices[torch.arange(matrices.shape[0])]


def _select(matrices: Matrices, index_U: Tensor) -> Matrices:
    """Some of the matrices; stored ones stay in storage."""
    return matrices[index_U] if isinstance(matrices, Tensor) else _Rows((matrices,), index_U)


def _concatenate(first: Matrices, second: Matrices) -> Matrices:
    """Both in sequence; stored ones stay in storage."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    return _Rows((first, second), torch.arange(first.shape[0] + second.shape[0]))


@dataclass(frozen=True)
class _Rows:
    """Some rows of one or two stacks, read when they are indexed."""

    stacks: tuple[Matrices, ...]
    index_U: Tensor
    """Positions in the stacks, in sequence."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.index_U), *self.stacks[0].shape[1:])

    def __getitem__(self, index_U: Tensor) -> Tensor:
        place_U = self.index_U[index_U]
        picked = torch.empty(len(place_U), *self.shape[1:])
        start = 0
        for stack in self.stacks:
            stop = start + stack.shape[0]
            is_here_U = (place_U >= start) & (place_U < stop)
            picked[is_here_U] = stack[place_U[is_here_U] - start]
            start = stop
        return picked
