"""What the method asks of a vision-language model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from liveedit_core.states import LayerStates


@dataclass(frozen=True, kw_only=True)
class BackboneInput:
    """A question, with or without an image, and (for teacher forcing) its answer."""

    prompt: str
    target: str = ""
    image_bytes: bytes | None = field(default=None, repr=False)
    also_asked: tuple[str, ...] = ()
    """Further wordings of an edit's prompt; only embeddings depend on them."""
    earlier: tuple[tuple[str, str], ...] = ()
    """Role and text of earlier turns, for models with a chat template; the image belongs to the
    prompt, whose words alone are routed by a prompt key."""
    form: int | None = None
    """See `LayerStates.form`."""

    @property
    def wordings(self) -> tuple[str, ...]:
        """The prompt, and its further wordings."""
        return (self.prompt, *self.also_asked)


Residual = Callable[[Tensor], Tensor]
"""Maps hidden states at l_e, [B, T, D], to what is added to them."""
RouteOnce = Callable[[Sequence[int], Sequence[LayerStates]], Residual | None]
"""Called at the prefill of each batch with the batch's indices in the list of inputs and their
states; None leaves the backbone's hidden states as they are."""


class Backbone(Protocol):
    """A frozen VLM, cut at its edit layer l_e. `VisionLanguageBackbone` implements it."""

    digest: str
    """Identity of the weights."""
    edit_layer: int
    hidden_size: int
    visual_size: int
    """Size of the image pyramid; 0 without one."""
    has_image_views: bool
    """Whether pyramids are those of trimmed images, each followed by that of its figure."""
    prompt_size: int
    """P: width of a prompt's embedding; 0 without one."""
    num_image_tokens: int
    end_id: int
    """Token that must follow an answer."""
    encoding: str
    """All that states depend on beside weights, layer and input: prompt format, pyramids."""

    @property
    def device(self) -> torch.device:
        """Where hidden states are."""
        ...

    def check_input(self, item: BackboneInput) -> None:
        """Raise InputError for what this model cannot take, before any layer runs."""
        ...

    def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """Image tower and layers 0..l_e; float32 on `device`, in the order of the inputs."""
        ...

    def target_logits(
        self, states: Sequence[LayerStates], hidden_BTD: Tensor, *, has_end: bool = False
    ) -> list[Tensor]:
        """Logits of each state at its target positions, [O, V]; differentiable.

        `hidden_BTD` are padded hidden states at l_e, residual included. `has_end` adds the position
        after the target, [O + 1, V].
        """
        ...

    def generate(
        self, inputs: Sequence[BackboneInput], route: RouteOnce | None, *, max_new_tokens: int
    ) -> list[str]:
        """Greedy answers to the prompts, whatever targets the inputs carry.

        `route` is called once per batch of inputs that all have an image, or none; an input may be
        in several batches, and its answer is that of the last one.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without special tokens."""
        ...

    def count_target_tokens(self, text: str) -> int:
        """Tokens of a target as it follows a prompt, which may put a space before it."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of some tokens, special ones left out, stripped."""
        ...
