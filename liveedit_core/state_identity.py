"""What determines the rows of an input, as one name: equal names, equal rows."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.method.config import StateDtype


@dataclass(frozen=True, kw_only=True)
class StateIdentity:
    """All that rows depend on, except the input itself."""

    backbone_digest: str
    edit_layer: int
    encoding: str
    """Prompt format and pyramid levels; see `Backbone.encoding`."""
    hidden_size: int
    dtype: StateDtype
    """Rows rounded to another format are other rows."""

    @classmethod
    def of(cls, backbone: Backbone, dtype: StateDtype) -> Self:
        """The identity of what a backbone encodes."""
        return cls(
            backbone_digest=backbone.digest,
            edit_layer=backbone.edit_layer,
            encoding=backbone.encoding,
            hidden_size=backbone.hidden_size,
            dtype=dtype,
        )

    def image_id(self, image_bytes: bytes) -> str:
        """Identity of an image's pyramid (hex, 64 characters); the edit layer plays no part."""
        texts = (self.backbone_digest, self.encoding, self.dtype)
        return _digest([*(text.encode() for text in texts), image_bytes])

    def state_id(self, item: BackboneInput) -> str:
        """Identity of an input's rows (hex, 64 characters)."""
        texts = (self.backbone_digest, str(self.edit_layer), self.encoding, self.dtype)
        question = (item.prompt.encode(), item.target.encode())
        # A text-only input has one part less, so it is never an input with an empty image.
        image = () if item.image_bytes is None else (item.image_bytes,)
        return _digest([*(text.encode() for text in texts), *question, *image])


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
