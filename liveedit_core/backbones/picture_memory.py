"""What the image tower made of the pictures seen last, so that each picture passes it once."""

from collections import OrderedDict

from torch import Tensor

PictureFeatures = tuple[Tensor, Tensor]
"""Pyramid [E] and projected rows [I, D] of one picture."""


class PictureMemory:
    """Bounded memory of tower outputs; the picture that was not asked for the longest goes first.

    Args:
        max_bytes: most bytes of features, the encoded pictures included; 0 remembers nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._features: OrderedDict[bytes, PictureFeatures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, picture: bytes) -> PictureFeatures | None:
        """The features of a picture, if they are remembered."""
        found = self._features.get(picture)
        if found is not None:
            self._features.move_to_end(picture)
        return found

    def keep(self, picture: bytes, features: PictureFeatures) -> None:
        """Remember the features of a picture that is not remembered yet."""
        self._features[picture] = features
        self.num_bytes += _size(picture, features)
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= _size(*self._features.popitem(last=False))


def _size(picture: bytes, features: PictureFeatures) -> int:
    return len(picture) + sum(part.numel() * part.element_size() for part in features)
