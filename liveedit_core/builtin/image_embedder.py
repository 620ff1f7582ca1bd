"""The image tower of the built-in backbone as an OpenCLIP model without projection, with its batch
norms folded: embeddings differ by 1e-6 from those of OpenCLIP."""

from collections.abc import Callable

from PIL import Image
from torch import Tensor, nn

from liveedit_core.backbones.image_tower import folded
from liveedit_core.parts import (
    IMAGE_TOWER,
    default_cache_dir,
    fetch_part,
    one_process_at_a_time,
)

_TOWER = "tf_efficientnet_lite0"
_SIDE = 128


class _Tower(nn.Module):
    """An image tower alone, with the interface of OpenCLIP's models."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def encode_image(self, pixels_B3HW: Tensor) -> Tensor:
        embedding_BC: Tensor = self.trunk(pixels_B3HW)
        return embedding_BC


def load_image_embedder() -> tuple[str, nn.Module, Callable[[Image.Image], Tensor]]:
    """Name, model and preprocessing."""
    import timm
    from torchvision import transforms

    from liveedit_core.builtin.assembly import load_image_tower

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
    return f"builtin:{_TOWER}-{_SIDE}", _Tower(folded(trunk)).eval(), preprocess
