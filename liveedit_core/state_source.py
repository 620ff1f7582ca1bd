"""Where hidden states come from, computed or cached, and what identifies them in a cache."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.method.config import StateDtype
from liveedit_core.schema import digest_of_parts
from liveedit_core.states import LayerStates


class StateSource(Protocol):
    """Gives the states of inputs, computed or cached."""

    def states(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """float32, in the order of the inputs; all on one device."""


class BackboneStates:
    """Encodes inputs with a backbone, without a cache.

    A copy in another process does not take the backbone along: its first call runs `load` there.
    Padded batches round differently with other neighbours; inputs that are encoded `one_by_one` do
    not depend on each other.
    """

    def __init__(
        self,
        backbone: Backbone | None,
        load: Callable[[], Backbone] | None = None,
        one_by_one: bool = False,
    ) -> None:
        self._backbone = backbone
        self._load = load
        self._one_by_one = one_by_one

    def __reduce__(self) -> tuple[type["BackboneStates"], tuple[object, ...]]:
        backbone = None if self._load else self._backbone
        return BackboneStates, (backbone, self._load, self._one_by_one)

    def states(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """See `StateSource.states`."""
        if self._backbone is None:
            assert self._load is not None
            self._backbone = self._load()
        if not self._one_by_one:
            return self._backbone.encode(inputs)
        from liveedit_core.backbones.apart import encode_apart  # it imports all of the adapter

        return encode_apart(self._backbone, inputs)


@dataclass(frozen=True, kw_only=True)
class StateIdentity:
    """Everything that states depend on, except the input; equal ids mean equal states."""

    backbone_digest: str
    edit_layer: int
    encoding: str
    """Prompt format and pyramid levels; see `Backbone.encoding`."""
    hidden_size: int
    prompt_size: int
    """P: width of a prompt's embedding; 0 without one."""
    dtype: StateDtype
    """In which the states are stored: rounding changes them."""

    @classmethod
    def of(cls, backbone: Backbone, dtype: StateDtype) -> Self:
        """Identity of what a backbone encodes."""
        return cls(
            backbone_digest=backbone.digest,
            edit_layer=backbone.edit_layer,
            encoding=backbone.encoding,
            hidden_size=backbone.hidden_size,
            prompt_size=backbone.prompt_size,
            dtype=dtype,
        )

    def image_id(self, image_bytes: bytes) -> str:
        """Identity of an image's pyramid (64 hex digits); it does not depend on the edit layer."""
        texts = (self.backbone_digest, self.encoding, self.dtype)
        return digest_of_parts([*(text.encode() for text in texts), image_bytes])

    def state_id(self, item: BackboneInput) -> str:
        """Identity of an input's states (64 hex digits)."""
        states = (self.backbone_digest, str(self.edit_layer), self.encoding, self.dtype)
        wordings = json.dumps(item.wordings) if item.also_asked else item.prompt
        # One part less for a text-only input, so that it differs from an empty image.
        image: tuple[bytes, ...] = () if item.image_bytes is None else (item.image_bytes,)
        if self.prompt_size and not image:  # earlier, text-only inputs had no embeddings of prompts
            image = (b"", b"with prompt pyramids")
        return digest_of_parts(
            [*(text.encode() for text in (*states, wordings, item.target)), *image]
        )
