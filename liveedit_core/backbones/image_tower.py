"""The image tower run apart from the decoder: features of each image once, and its pyramid.

A pyramid is one vector for a whole image: several levels of a convolutional tower, each pooled to a
coarse grid. Routing by the visual key reads it (METHOD.md 2).
"""

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from liveedit_core.backbones.image_views import figure, trimmed, views
from liveedit_core.backbones.views import with_hook
from liveedit_core.devices import device_of
from liveedit_core.inputs.images import decode_image

IMAGE_CACHE_BYTES = 64 * 1024 * 1024
"""About a thousand images of the built-in backbone."""
PYRAMIDS_AT_ONCE = 4
"""Images of one forward pass; of the built-in tower each takes 8 MB, and more are no faster."""


@dataclass(frozen=True, kw_only=True)
class PyramidLevel:
    """Which output of the tower, and how finely it keeps positions."""

    module: str
    """Submodule of the tower whose output [B, C, height, width] is taken; "" for the tower."""
    width: int
    """Channels of that output."""
    grid: int
    """The output is averaged to `grid` x `grid` cells."""

    @property
    def size(self) -> int:
        """Its share of the pyramid's width."""
        return self.width * self.grid**2


class ImageFeatures(NamedTuple):
    """What the tower computes for one image."""

    pyramid_E: Tensor
    """float32; of a tower with views, that of a figure may follow."""
    projected_ID: Tensor
    """What the decoder gets in place of the image tokens."""


class ImageFeatureCache:
    """LRU cache of image features, bounded in bytes (the encoded images included); 0 keeps none."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._features: OrderedDict[bytes, ImageFeatures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, image: bytes) -> ImageFeatures | None:
        """The features of an image, if they are cached."""
        found = self._features.get(image)
        if found is not None:
            self._features.move_to_end(image)
        return found

    def put(self, image: bytes, features: ImageFeatures) -> None:
        """Cache the features of an image that is not cached yet."""
        self._features[image] = features
        self.num_bytes += _num_bytes(image, features)
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= _num_bytes(*self._features.popitem(last=False))


def _num_bytes(image: bytes, features: ImageFeatures) -> int:
    return len(image) + sum(part.numel() * part.element_size() for part in features)


class ImageTower:
    """Image tower (at `path`) and projector of a model; without `levels`, pyramids are empty.

    Each image is encoded again at `more_sizes` (side lengths in pixels) for its pyramid, the mean
    over all sizes: strokes too fine for one size are seen at another. With `has_views` a pyramid is
    that of the trimmed image, and there are those of further views (`image_views.py`).
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        path: str = "model.vision_tower",
        *,
        levels: Sequence[PyramidLevel] = (),
        more_sizes: Sequence[int] = (),
        has_views: bool = False,
        cache_bytes: int = IMAGE_CACHE_BYTES,
    ) -> None:
        self.model = model
        self.processor = processor
        self.path = path
        self.levels = tuple(levels)
        self.more_sizes = tuple(more_sizes) if levels else ()
        self.has_views = has_views
        self._root, self._path = model, path
        """Where the tower of pyramids is."""
        if has_views:
            tower = folded(model.get_submodule(path))
            self._root, self._path = nn.ModuleDict({"tower": tower}), "tower"
        self.pyramid_size = sum(level.size for level in levels)
        self.cache = ImageFeatureCache(cache_bytes)
        self._lock = threading.Lock()

    @torch.no_grad()
    def features(self, images: Sequence[bytes], batch_size: int) -> dict[bytes, ImageFeatures]:
        """Features by image; each distinct image that is not cached is encoded once."""
        with self._lock:
            found = {image: self.cache.get(image) for image in dict.fromkeys(images)}
            done = {image: features for image, features in found.items() if features is not None}
            missing = [image for image in found if image not in done]
            for start in range(0, len(missing), batch_size):
                chunk = missing[start : start + batch_size]
                for image, features in zip(chunk, self._encoded(chunk), strict=True):
                    done[image] = features
                    self.cache.put(image, features)
        return done

    def _encoded(self, images: Sequence[bytes]) -> list[ImageFeatures]:
        decoded = [decode_image(image) for image in images]
        pixels_BCHW = self._pixels(decoded)
        view, outputs = self._reading_view(self.model, self.path)
        projected = view.get_image_features(pixel_values=pixels_BCHW).pooler_output
        if self.has_views:
            pyramids = self._with_figures(decoded)
        else:
            pyramids = list(self._pyramids(outputs, pixels_BCHW).float())
        return [
            ImageFeatures(pyramid_E.clone(), projected_ID.clone())
            for pyramid_E, projected_ID in zip(pyramids, projected, strict=True)
        ]

    @torch.no_grad()
    def view_pyramids(self, image: bytes) -> Tensor:
        """Pyramids of an image in all views, its own first, [V, E]; that is the cached one, if it
        was encoded before."""
        turned = views(trimmed(decode_image(image)))
        with self._lock:
            known = self.cache.get(image) if self.has_views else None
            if known is None:
                return self._pyramids_of(turned)
            own_1E = known.pyramid_E[: self.pyramid_size][None]
            return torch.cat([own_1E, self._pyramids_of(turned[1:])])

    def _with_figures(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """The pyramid of each trimmed image, followed by that of its figure, if it has one."""
        figures = [figure(image) for image in images]
        found = [one for one in figures if one is not None]
        seen = [*map(trimmed, images), *found]
        whole_BE, *others = self._pyramids_of(seen).split(len(images))
        more = iter(torch.cat(others) if others else ())
        return [
            whole_E if one is None else torch.cat([whole_E, next(more)])
            for whole_E, one in zip(whole_BE, figures, strict=True)
        ]

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """[B, C, height, width], as the tower takes them."""
        pixels: Tensor = self.processor.image_processor(images=list(images), return_tensors="pt")[
            "pixel_values"
        ]
        return pixels.to(device_of(self._root.get_submodule(self._path)))

    def _pyramids_of(self, images: Sequence[Image.Image]) -> Tensor:
        """Pyramids [B, E] of decoded images, float32."""
        parts = []
        for start in range(0, len(images), PYRAMIDS_AT_ONCE):
            pixels_BCHW = self._pixels(images[start : start + PYRAMIDS_AT_ONCE])
            view, outputs = self._reading_view(self._root, self._path)
            view.get_submodule(self._path)(pixels_BCHW)
            parts.append(self._pyramids(outputs, pixels_BCHW).float())
        return torch.cat(parts)

    def _reading_view(self, view: Any, path: str) -> tuple[Any, dict[int, Tensor]]:
        """A view of a model that leaves the output of each level in the dict."""
        outputs: dict[int, Tensor] = {}
        for index, level in enumerate(self.levels):
            place = f"{path}.{level.module}".rstrip(".")
            view = with_hook(view, place, partial(outputs.__setitem__, index))
        return view, outputs

    def _pyramids(self, outputs: dict[int, Tensor], pixels_BCHW: Tensor) -> Tensor:
        """Pyramids [B, E]: the mean over all sizes; outputs and pixels are those at the first."""
        total_BE = self._joined(outputs, pixels_BCHW)
        for size in self.more_sizes:
            resized = functional.interpolate(
                pixels_BCHW, size=(size, size), mode="bicubic", antialias=True
            )
            view, others = self._reading_view(self._root, self._path)
            view.get_submodule(self._path)(resized)
            total_BE = total_BE + self._joined(others, pixels_BCHW)
        return total_BE / (1 + len(self.more_sizes))

    def _joined(self, outputs: dict[int, Tensor], pixels_BCHW: Tensor) -> Tensor:
        """The levels pooled, flattened and concatenated, [B, E]."""
        pooled = [
            functional.adaptive_avg_pool2d(outputs[i], level.grid).flatten(1)
            for i, level in enumerate(self.levels)
        ]
        return torch.cat(pooled, dim=1) if pooled else pixels_BCHW.new_zeros(len(pixels_BCHW), 0)


def folded(tower: nn.Module) -> nn.Module:
    """A copy of a frozen tower with its batch norms folded into the convolutions before them, in
    the memory format that convolutions are fastest in; outputs differ by rounding. A tower without
    batch norms is returned as it is."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in tower.modules()):
        return tower
    tower = copy.deepcopy(tower)
    before: nn.Conv2d | None = None
    for name, module in list(tower.named_modules()):
        if isinstance(module, nn.Conv2d):
            before = module
        elif isinstance(module, nn.BatchNorm2d) and before is not None:
            mean, variance = module.running_mean, module.running_var
            assert mean is not None
            assert variance is not None
            weight, bias = fuse_conv_bn_weights(
                before.weight, before.bias, mean, variance, module.eps, module.weight, module.bias
            )
            before.weight = nn.Parameter(weight, requires_grad=False)
            before.bias = nn.Parameter(bias, requires_grad=False)
            # timm's batch norms have an activation of their own.
            tower.set_submodule(name, nn.Sequential(*module.children()))
            before = None
    return tower.to(memory_format=torch.channels_last)
