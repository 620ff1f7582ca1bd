"""What the image tower made of the images seen last, so that each image passes it once."""

from collections import OrderedDict

from torch import Tensor

ImageFeatures = tuple[Tensor, Tensor]
"""Pyramid [E] and projected rows [I, D] of one image."""


class ImageMemory:
    """Bounded memory of tower outputs; the image that was not asked for the longest goes first.

    Args:
        max_bytes: most bytes of features, the encoded images included; 0 remembers nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._features: OrderedDict[bytes, ImageFeatures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, image: bytes) -> ImageFeatures | None:
        """The features of an image, if they are remembered."""
        found = self._features.get(image)
        if found is not None:
            self._features.move_to_end(image)
        return found

    def keep(self, image: bytes, features: ImageFeatures) -> None:
        """Remember the features of an image that is not remembered yet."""
        self._features[image] = features
        self.num_bytes += _size(image, features)
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= _size(*self._features.popitem(last=False))


def _size(image: bytes, features: ImageFeatures) -> int:
    return len(image) + sum(part.numel() * part.element_size() for part in features)
