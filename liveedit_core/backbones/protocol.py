"""What the method asks of a vision-language model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from liveedit_core.backbones.suffix import SuffixParts
from liveedit_core.errors import ConfigError
from liveedit_core.states import LayerStates


@dataclass(frozen=True, kw_only=True)
class BackboneInput:
    """A question, with or without an image, and (for teacher forcing) its answer."""

    prompt: str
    target: str = ""
    image_bytes: bytes | None = field(default=None, repr=False)


Residual = Callable[[Tensor], Tensor]
"""Maps rows at l_e, [B, T, D], to what is added to them."""
RouteOnce = Callable[[Sequence[int], Sequence[LayerStates]], Residual | None]
"""Called at the prefill of each batch with the batch's positions in the list of inputs and their
states; None means: leave the backbone alone."""


class Backbone(Protocol):
    """A frozen VLM, cut at its edit layer."""

    digest: str
    edit_layer: int
    hidden_size: int
    visual_size: int
    num_image_tokens: int
    encoding: str
    """All that rows depend on beside weights, layer and input: prompt format, pyramid levels."""

    def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """Image tower and layers 0..l_e; float32 on the CPU, in the order of the inputs."""
        ...

    def target_logits(
        self, states: Sequence[LayerStates], hidden_BTD: Tensor, *, has_end: bool = False
    ) -> list[Tensor]:
        """Layers l_e + 1 .. on (edited) rows; logits [O, V] at target positions only.

        Args:
            states: give the spans.
            hidden_BTD: padded rows at l_e, residual included.
            has_end: also the position after the target, [O + 1, V].
        """
        ...

    def generate(
        self, inputs: Sequence[BackboneInput], route: RouteOnce | None, *, max_new_tokens: int
    ) -> list[str]:
        """Greedy answers to the prompts, whatever targets the inputs carry.

        `route` is asked once per batch of inputs with images.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without special tokens."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of some tokens, special ones left out, stripped."""
        ...


@runtime_checkable
class TrainableBackbone(Backbone, Protocol):
    """A backbone that a generator can be trained for, and whose weights processes can share."""

    tokenizer: Any
    decoder: Any
    """Holds `layers`."""
    batch_size: int
    end_id: int
    """Token that must follow an answer."""

    def suffix_parts(self) -> SuffixParts:
        """What runs after l_e, as views that share the weights (see `suffix.DecoderSuffix`)."""
        ...

    def drop_suffix(self) -> list[nn.Module]:
        """Free the layers after l_e; from now on the backbone only encodes.

        Returns:
            The modules that run up to l_e, for a gang of processes to share out.
        """
        ...

    def check_input(self, item: BackboneInput) -> None:
        """All that `encode` could refuse, before any model runs; raises InputError."""
        ...


def as_trainable(backbone: Backbone) -> TrainableBackbone:
    """The backbone, if it can be trained for and shared out.

    Raises:
        ConfigError: it provides too little.
    """
    if not isinstance(backbone, TrainableBackbone):
        raise ConfigError(
            f"a {type(backbone).__name__} can neither be trained for nor shared by several "
            "processes: it lacks what `TrainableBackbone` asks of it"
        )
    return backbone
