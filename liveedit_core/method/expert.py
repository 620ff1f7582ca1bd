"""Experts and the generator that writes them: f_eg of Eq. 1."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from liveedit_core.errors import NumericsError
from liveedit_core.method.attention import CrossAttention
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.features import EditQuestion
from liveedit_core.outcome import WriteOutcome
from liveedit_core.states import Padded

FOCUS = 40.0
"""Attention logit of a rank slot at its position after `initialize_as_copier`."""


@dataclass(frozen=True, kw_only=True)
class Expert:
    """What one edit becomes: a low-rank map and its routing features (float32)."""

    edit_id: str
    visual_feature_QM: Tensor
    prompt_feature_QM: Tensor
    down_RD: Tensor
    up_RD: Tensor
    outcome: WriteOutcome = field(default_factory=WriteOutcome)
    forms_FX: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    """Slots, bias and key of each form (`prompt_key`); no rows: all slots answer the fact."""
    question: EditQuestion | None = None
    """What tells which older edits this one corrects; not stored with the expert."""

    @property
    def rank(self) -> int:
        """R: its own, which other experts need not have."""
        return len(self.down_RD)

    def check_finite(self) -> None:
        """Raises NumericsError if a tensor holds NaN or infinity."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and not value.isfinite().all():
                raise NumericsError(
                    f"edit {self.edit_id}: {name} holds NaN or infinity; the expert is not stored. "
                    "Check the image and target of this edit, and the generator checkpoint."
                )


class ExpertGenerator(nn.Module):
    """Writes one of the two matrices of an expert from the hidden states of its edit (Eq. 1).

    With target positions (ours), rank slot r starts as a copy of one position: the one before
    target token r for `down` (when to answer), the embedding of token r for `up` (what to answer).
    Without them it starts at random, as in the paper, and trains many times longer.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.scale = 1.0 / (config.expert_scale * math.sqrt(config.rank))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.query = nn.Parameter(torch.empty(1, config.rank, config.module_dim))
        nn.init.kaiming_normal_(self.query)
        self.attention = CrossAttention(
            config.module_dim, config.hidden_size, config.hidden_size, config.num_attention_heads
        )
        if config.num_target_positions:
            # 0: other positions; 1: the last prompt token; then target tokens, target embeddings
            shape = (2 * config.num_target_positions + 2, config.hidden_size)
            self.position = nn.Parameter(torch.randn(shape))

    @torch.no_grad()
    def initialize_as_copier(self, first_position: int) -> None:
        """Let slot r attend to position index `first_position + r` and copy its value."""
        attention = self.attention
        slots = torch.arange(self.query.shape[1]) + first_position
        slots = slots.clamp(max=self.position.shape[0] - 1)
        keys_RM = self.position[slots] @ attention.k_proj.weight.T
        per_head = keys_RM.unflatten(-1, (attention.num_heads, -1))
        focused = FOCUS * per_head / per_head.square().sum(-1, keepdim=True)
        self.query.copy_(focused.flatten(-2)[None])
        for linear in (attention.q_proj, attention.v_proj):
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, signal: Padded, position_BS: Tensor) -> Tensor:
        """One matrix per edit, [B, R, D]; see `LiveEditGenerator.edit_signal`."""
        context_BSD = self.norm(signal.values_BSD)
        keys_BSD = context_BSD + self.position[position_BS] if hasattr(self, "position") else None
        matrix: Tensor = self.attention(self.query, context_BSD, signal.mask_BS, keys_BSD)
        return matrix * self.scale
