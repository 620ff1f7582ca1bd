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
from torch import Tensor, nn

from liveedit_core.devices import chosen_device, chosen_dtype
from liveedit_core.errors import ConfigError
from liveedit_core.inputs.images import decode_image
from workers.models import one_process_at_a_time

BUILTIN = "builtin"
_TOWER = "tf_efficientnet_lite0"
_SIDE = 128


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
        return _load_builtin(device, dtype)
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


class _Tower(nn.Module):
    """An image tower alone, with the interface of OpenCLIP's models."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def encode_image(self, pixels_B3HW: Tensor) -> Tensor:
        embedding_BC: Tensor = self.trunk(pixels_B3HW)
        return embedding_BC


def _load_builtin(device: str, dtype: str) -> ClipEmbedder:
    import timm
    from torchvision import transforms

    from liveedit_core.builtin.assembly import load_image_tower
    from liveedit_core.parts import IMAGE_TOWER, default_cache_dir, fetch_part

    trunk = timm.create_model(_TOWER, num_classes=0, global_pool="avg").eval()
    with one_process_at_a_time():
        weights = fetch_part(IMAGE_TOWER, default_cache_dir() / "parts", print)
    trunk.load_state_dict(load_image_tower(weights, list(trunk.state_dict())))
    # OpenCLIP's own, in its order.
    preprocess = transforms.Compose(
        [
            transforms.Resize(_SIDE, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(_SIDE),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    name = f"{BUILTIN}:{_TOWER}-{_SIDE}"
    return ClipEmbedder(name, _Tower(trunk).eval(), preprocess, device=device, dtype=dtype)
