"""Tensor experts (TIME-like): an edit is a compact CP-decomposed tensor whose input factors route.

    X = LN(h) - centre, as a matrix [I, J] of norm 1;  c_k = a1_k^T X a2_k;  share = sum_k c_k^2
    h <- h + sum_k c_k (b1_k x b2_k)     of the block with the largest share / own share, if that is
                                         at least `least_share`; else h, bit for bit

After "TIME: Tensor-Factorized Mixture-of-Experts with Intrinsic Routing for Lifelong Multimodal
Knowledge Editing" (ICML 2026), known to us by its abstract only: each edit in CP form in place of
low-rank matrices, routing by the tensor's input factors and by nothing beside them. The rest is
ours: an edit has a block of K components for each token that it must say and for the end. The input
factors are those of the token's own hidden state (its singular vectors), so they need no learning;
the centre is the mean at the ends of other questions, which would make up most of each share. The
output factors are learned by Adam through the frozen layers after l_e, as LiveEdit refines.
A component has 2 (I + J) numbers, a slot of LiveEdit 2 I J. Of equal shares the later edit wins.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.views import WrappedLayer
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.edited_layers import LayerEditor
from liveedit_core.baselines.protocol import EditorMemory, batches_by_length, num_bytes
from liveedit_core.baselines.settings import TensorExpertConfig
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates

ROUNDING = 1e-4
"""Shares that differ by less are equal: the same question in another batch."""


class Blocks:
    """Blocks of K components: factors [M, K, I] and [M, K, J], float32."""

    def __init__(self, centre_D: Tensor, rank: int) -> None:
        hidden_size, device = len(centre_D), centre_D.device
        rows = next(i for i in range(math.isqrt(hidden_size), 0, -1) if hidden_size % i == 0)
        self.shape = (rows, hidden_size // rows)
        self.centre_D = centre_D
        self.rank = min(rank, *self.shape)
        sizes = (*self.shape, *self.shape)
        self.factors = [torch.zeros(0, self.rank, size, device=device) for size in sizes]
        self.own_M = torch.zeros(0, device=device)
        """Share of its own hidden state that a block's input factors hold."""

    def __len__(self) -> int:
        return len(self.own_M)

    def as_matrices(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] as matrices of norm 1, [..., I, J]."""
        centred = layer_normed(hidden) - self.centre_D
        return functional.normalize(centred, dim=-1).view(*hidden.shape[:-1], *self.shape)

    def fitted(self, hidden_MD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Input factors of some tokens, and the coefficients of the tokens in them, [M, K]."""
        left, singular, right = torch.linalg.svd(self.as_matrices(hidden_MD), full_matrices=False)
        return left[..., : self.rank].mT, right[:, : self.rank], singular[:, : self.rank]

    def add(self, factors: Sequence[Tensor], own_M: Tensor) -> None:
        pairs = zip(self.factors, factors, strict=True)
        self.factors = [torch.cat([old, new.detach()]) for old, new in pairs]
        self.own_M = torch.cat([self.own_M, own_M])

    def residual(self, hidden_XD: Tensor, least_share: float) -> Tensor:
        """What the blocks add to some tokens, [X, D]."""
        first, second, *outputs = self.factors
        coefficients_XMK = torch.einsum(
            "xij,mki,mkj->xmk", self.as_matrices(hidden_XD), first, second
        )
        share_XM = coefficients_XMK.square().sum(-1) / self.own_M
        best_X1 = share_XM.amax(1, keepdim=True)
        equal_XM = share_XM >= best_X1 - ROUNDING
        places_M = torch.arange(len(self), device=equal_XM.device)
        chosen_X = torch.where(equal_XM, places_M, -1).amax(1)
        rows_X = torch.arange(len(chosen_X), device=chosen_X.device)
        coefficients_XK = coefficients_XMK[rows_X, chosen_X] * (best_X1 >= least_share)
        added_XD: Tensor = written(coefficients_XK, *(part[chosen_X] for part in outputs))
        return added_XD


def layer_normed(hidden: Tensor) -> Tensor:
    """float32, without weights."""
    return functional.layer_norm(hidden.float(), hidden.shape[-1:])


def written(coefficients_MK: Tensor, first_MKI: Tensor, second_MKJ: Tensor) -> Tensor:
    """sum_k c_k (b1_k x b2_k), [M, D]."""
    return torch.einsum("mk,mki,mkj->mij", coefficients_MK, first_MKI, second_MKJ).flatten(1)


class TensorLayer(WrappedLayer):
    """The first layer after l_e, behind the blocks."""

    def __init__(self, layer: nn.Module, blocks: Blocks, least_share: float) -> None:
        super().__init__(layer)
        self.blocks = blocks
        self.least_share = least_share

    def forward(self, hidden_BTD: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if len(self.blocks):
            added_XD = self.blocks.residual(hidden_BTD.flatten(0, 1), self.least_share)
            hidden_BTD = hidden_BTD + added_XD.to(hidden_BTD).view_as(hidden_BTD)
        output_BTD: Tensor = self.layer(hidden_BTD, *arguments, **options)
        return output_BTD


class TensorExperts(LayerEditor[TensorExpertConfig]):
    """A backbone with blocks of CP components at l_e."""

    name = "TIME-like"

    def __init__(
        self,
        backbone: VisionLanguageBackbone,
        config: TensorExpertConfig,
        *,
        unrelated: Sequence[BackboneInput],
        batch_size: int = 16,
    ) -> None:
        states = backbone.encode(unrelated)
        ends_UD = torch.stack([state.hidden_TD[state.target_span[0] - 1] for state in states])
        self._centre_D = layer_normed(ends_UD).mean(0)
        super().__init__(backbone, config, batch_size=batch_size)

    def fresh_layers(self) -> list[nn.Module]:
        first, *others = self.own_layers()
        self.blocks = Blocks(self._centre_D, self.config.rank)
        return [TensorLayer(first, self.blocks, self.config.least_share), *others]

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Each edit's blocks, whatever the others are."""
        for chosen in batches_by_length([state.num_tokens for state in states], self.batch_size):
            self._learn([states[i] for i in sorted(chosen)])

    def _learn(self, states: Sequence[LayerStates]) -> None:
        hidden_BTD = self.hidden(states)
        ends = [(i, state.target_span) for i, state in enumerate(states)]
        places = [(i, end) for i, span in ends for end in range(span[0] - 1, span[1])]
        rows_M, tokens_M = torch.tensor(places, device=hidden_BTD.device).T
        first, second, coefficients_MK = self.blocks.fitted(hidden_BTD[rows_M, tokens_M])
        drawer = torch.Generator().manual_seed(self.config.seed)
        one = torch.randn(first.shape, generator=drawer).to(first)
        outputs = [nn.Parameter(one), nn.Parameter(torch.zeros_like(second))]
        adam = torch.optim.Adam(outputs, lr=self.config.learning_rate)
        learned = [part.detach().clone() for part in outputs]
        is_open_M = torch.ones(len(places), dtype=torch.bool, device=hidden_BTD.device)
        for _ in range(self.config.max_steps):
            with torch.enable_grad():
                added_MD = written(coefficients_MK, *outputs).to(hidden_BTD)
                edited_BTD = hidden_BTD.index_put((rows_M, tokens_M), added_MD, accumulate=True)
                logits = self.backbone.target_logits(states, edited_BTD, has_end=True)
                losses = [self.target_loss(*pair) for pair in zip(logits, states, strict=True)]
                torch.stack(losses).sum().backward()
            loss_B = torch.stack(losses).detach()
            for part, kept in zip(outputs, learned, strict=True):
                kept[is_open_M] = part.detach()[is_open_M]
            is_open_M &= (loss_B >= self.config.stop_loss)[rows_M]
            if not is_open_M.any():
                break
            adam.step()
            adam.zero_grad()
        self.blocks.add([first, second, *learned], coefficients_MK.square().sum(1))

    def memory(self) -> EditorMemory:
        """Fixed: the centre. Stored: four factors a component, and a share a block."""
        stored = num_bytes([*self.blocks.factors, self.blocks.own_M])
        return EditorMemory(fixed_bytes=num_bytes([self._centre_D]), stored_bytes=stored)
