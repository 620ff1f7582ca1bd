"""The residual of a batch whose inputs keep different experts, of different banks (Eq. 6).

    residual_b = gain * (relu(LN(h_b) @ down^T) * weights_b) @ up,  weights 0 where b keeps no slot

The experts of all rows are stacked once; each row has a weight for every slot.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import Residual
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.routing import slot_residual


@dataclass(frozen=True, kw_only=True)
class KeptExpert:
    """One expert that one input keeps."""

    edit_id: str
    weight: float | Tensor
    """Of all slots, or of each, [R]."""
    down_RD: Tensor
    up_RD: Tensor


@dataclass(frozen=True, kw_only=True)
class KeptExperts:
    """All that one input keeps, of the generator that wrote them."""

    generator: LiveEditGenerator
    experts: tuple[KeptExpert, ...]


def fused_rows(rows: Sequence[KeptExperts | None]) -> Residual | None:
    """What is added to the hidden states of these inputs, [B, T, D]; None where none keeps any."""
    generators = {id(row.generator): row.generator for row in rows if row and row.experts}
    parts = [_part(generator, rows) for generator in generators.values()]
    if not parts:
        return None

    def add(hidden_BTD: Tensor) -> Tensor:
        added_BTD = sum(part(hidden_BTD) for part in parts)
        assert isinstance(added_BTD, Tensor)
        return added_BTD.to(hidden_BTD.dtype)

    return add


def _part(generator: LiveEditGenerator, rows: Sequence[KeptExperts | None]) -> Residual:
    """The experts of one generator, each once."""
    own = [row.experts if row and row.generator is generator else () for row in rows]
    # The matrices tell experts apart: two banks of one generator may share an edit.
    stacked = {id(expert.down_RD): expert for experts in own for expert in experts}
    first, num_slots = {}, 0
    for key, expert in stacked.items():
        first[key] = num_slots
        num_slots += len(expert.down_RD)
    down_LD = torch.cat([expert.down_RD for expert in stacked.values()])
    up_LD = torch.cat([expert.up_RD for expert in stacked.values()])
    weights_BL = torch.zeros(len(rows), num_slots)
    for row, experts in enumerate(own):
        for expert in experts:
            start = first[id(expert.down_RD)]
            weights_BL[row, start : start + len(expert.down_RD)] = expert.weight
    return float32_residual(generator, weights_BL.to(down_LD.device), down_LD, up_LD)


def float32_residual(
    generator: LiveEditGenerator, weights_BL: Tensor, down_LD: Tensor, up_LD: Tensor
) -> Residual:
    """Eq. 6 with its parts on the device of the hidden states that come, in float32."""
    norm, gain = generator.hidden_norm, generator.config.gain
    kept = [weights_BL, down_LD, up_LD]

    def add(hidden_BTD: Tensor) -> Tensor:
        nonlocal norm, kept
        if hidden_BTD.device != kept[1].device:
            norm = copy.deepcopy(norm).to(hidden_BTD.device)
            kept = [part.to(hidden_BTD.device) for part in kept]
        weights_BL, down_LD, up_LD = kept
        return slot_residual(norm(hidden_BTD.float()), weights_BL, down_LD, up_LD, gain)

    return add
