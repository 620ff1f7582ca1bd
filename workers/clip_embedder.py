"""Image embeddings by OpenCLIP; the one file that imports open_clip.

The default, "builtin", needs no download of its own and does not import it: the EfficientNet-Lite0
of the built-in backbone at 128 pixels, as the image tower of an OpenCLIP model without projection.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from liveedit_core.devices import chosen_device, chosen_dtype
from liveedit_core.errors import ConfigError
from liveedit_core.inputs.images import decode_image

BUILTIN = "builtin"


class ClipEmbedder:
    """An OpenCLIP model of which only `encode_image` is used."""

    def __init__(
        self,
        name: str,
        model: Any,
        preprocess: Callable[[Image.Image], torch.Tensor],
        *,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        """Wrap a model of open_clip in evaluation mode.

        Embeddings of two names cannot be compared. `preprocess` makes a tensor [3, H, W]; `device`
        and `dtype` are as in recipes.
        """
        self.name = name
        self._device = chosen_device(device)
        self._dtype = chosen_dtype(dtype, self._device)
        self._model = model.to(self._device, self._dtype)
        self._preprocess = preprocess
        self.size = int(self._embed([Image.new("RGB", (8, 8))]).shape[1])
        """C: width of an embedding."""

    def embed(self, images: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Embed at least one PNG, JPEG, WebP or GIF image: [B, C], rows of length 1."""
        return self._embed([decode_image(data) for data in images])

    @torch.inference_mode()
    def _embed(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        pixels = torch.stack([self._preprocess(image) for image in images])
        features = self._model.encode_image(pixels.to(self._device, self._dtype)).float()
        unit = torch.nn.functional.normalize(features, dim=-1).cpu()
        return np.ascontiguousarray(unit.numpy(), dtype=np.float32)


def load_clip_embedder(
    model: str = BUILTIN, pretrained: str = "", *, device: str = "cpu", dtype: str = "auto"
) -> ClipEmbedder:
    """Load "builtin" or an open_clip model with weights from a tag of open_clip or a file."""
    if model == BUILTIN:
        from liveedit_core.builtin.image_embedder import load_image_embedder

        return ClipEmbedder(*load_image_embedder(), device=device, dtype=dtype)
    import open_clip

    try:
        loaded, _, preprocess = open_clip.create_model_and_transforms(
            model, pretrained=pretrained, device="cpu"
        )
    except RuntimeError as error:
        raise ConfigError(
            f"embedding.open_clip_model {model!r} with open_clip_pretrained {pretrained!r}: {error}"
        ) from error
    name = f"{model}/{pretrained}"
    return ClipEmbedder(name, loaded.eval(), preprocess, device=device, dtype=dtype)
