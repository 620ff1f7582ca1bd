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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from liveedit_core.backbones.image_views import figure, trimmed
from liveedit_core.backbones.views import with_hook, with_part
from liveedit_core.devices import device_of
from liveedit_core.inputs.images import decode_image

if TYPE_CHECKING:  # it imports timm, which only some models need
    from liveedit_core.backbones.lowered.tower import LoweredTower

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
    """LRU cache of image features, bounded in bytes (the encoded images included); 0 keeps none.
    Threads may share it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._features: OrderedDict[bytes, ImageFeatures] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, image: bytes) -> ImageFeatures | None:
        """The features of an image, if they are cached."""
        with self._lock:
            found = self._features.get(image)
            if found is not None:
                self._features.move_to_end(image)
            return found

    def put(self, image: bytes, features: ImageFeatures) -> None:
        """Cache the features of an image, unless another thread was first."""
        with self._lock:
            if image in self._features:
                return
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
    that of the trimmed image, followed by that of its figure (`image_views.py`); both are computed
    in `dtype` where the tower can be lowered.
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
        turned: Sequence[Tensor] = (),
        dtype: torch.dtype = torch.float32,
        cache_bytes: int = IMAGE_CACHE_BYTES,
    ) -> None:
        self.model = model
        self.processor = processor
        self.path = path
        self.levels = tuple(levels)
        self.more_sizes = tuple(more_sizes) if levels else ()
        self.has_views = has_views
        self.turned = tuple(turned)
        """By level the maps of its channels in turned images, [3, C + 1, C], the last row added; ()
        where nobody fitted them (`VisualKey.turned`)."""
        self._root, self._path = model, path
        """Where the tower of pyramids is."""
        self._lowered: LoweredTower | None = None
        if has_views:
            tower = folded(model.get_submodule(path))
            self._root, self._path = nn.ModuleDict({"tower": tower}), "tower"
            self._lowered = _lowered(tower, [level.module for level in levels], dtype)
        self.dtype = torch.float32 if self._lowered is None else dtype
        """In which images are encoded."""
        self.pyramid_size = sum(level.size for level in levels)
        self.cache = ImageFeatureCache(cache_bytes)

    @torch.no_grad()
    def features(self, images: Sequence[bytes], batch_size: int) -> dict[bytes, ImageFeatures]:
        """Features by image; each distinct image that is not cached is encoded once."""
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
        if (lowered := self._usable()) is None:
            view, outputs = self._reading_view(self.model, self.path)
        else:
            outputs, last_BCHW = lowered.whole(pixels_BCHW)
            view = with_part(self.model, self.path, _Computed(last_BCHW))
        projected = view.get_image_features(pixel_values=pixels_BCHW).pooler_output
        first_BE = self._joined(outputs, pixels_BCHW)
        if self.has_views:
            pyramids = self._with_figures(decoded, pixels_BCHW, first_BE)
        else:
            pyramids = self._pyramids(pixels_BCHW, first_BE)
        return [
            ImageFeatures(pyramid_E.clone(), projected_ID.clone())
            for pyramid_E, projected_ID in zip(pyramids, projected, strict=True)
        ]

    def _with_figures(
        self, images: Sequence[Image.Image], pixels_BCHW: Tensor, first_BE: Tensor
    ) -> list[Tensor]:
        """The pyramid of each trimmed image, followed by that of its figure, if it has one.

        Where nothing was trimmed, `first_BE` is the part of the first size.
        """
        seen = [trimmed(image) for image in images]
        figures = [figure(image) for image in images]
        is_whole = [one is image for one, image in zip(seen, images, strict=True)]
        others = [one for one, whole in zip(seen, is_whole, strict=True) if not whole]
        others += [one for one in figures if one is not None]
        known = iter(self._pyramids(pixels_BCHW[is_whole], first_BE[is_whole]))
        further = iter(self.pyramids_of(others) if others else [])
        own = [next(known if whole else further) for whole in is_whole]
        return [
            own_E if one is None else torch.cat([own_E, next(further)])
            for own_E, one in zip(own, figures, strict=True)
        ]

    @torch.no_grad()
    def pyramids_of(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Of images as they are: nothing is trimmed."""
        return self._pyramids(self._pixels(images))

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """[B, C, height, width], as the tower takes them."""
        pixels: Tensor = self.processor.image_processor(images=list(images), return_tensors="pt")[
            "pixel_values"
        ]
        return pixels.to(device_of(self._root.get_submodule(self._path)))

    def _pyramids(self, pixels_BCHW: Tensor, first_BE: Tensor | None = None) -> list[Tensor]:
        """Pyramids of images: the mean over all sizes, float32; `first_BE` is the part of the first
        size, if it is known."""
        done: list[Tensor] = []
        for start in range(0, len(pixels_BCHW), PYRAMIDS_AT_ONCE):
            rows = slice(start, start + PYRAMIDS_AT_ONCE)
            pixels = pixels_BCHW[rows]
            total_BE = self._part(pixels) if first_BE is None else first_BE[rows]
            for size in self.more_sizes:
                resized = functional.interpolate(
                    pixels, size=(size, size), mode="bicubic", antialias=True
                )
                total_BE = total_BE + self._part(resized)
            done += (total_BE / (1 + len(self.more_sizes))).float().unbind()
        return done

    def _part(self, pixels_BCHW: Tensor) -> Tensor:
        """The part of pyramids that is of one size, [B, E]."""
        if (lowered := self._usable()) is not None:
            return self._joined(lowered(pixels_BCHW), pixels_BCHW)
        view, outputs = self._reading_view(self._root, self._path)
        view.get_submodule(self._path)(pixels_BCHW)
        return self._joined(outputs, pixels_BCHW)

    @property
    def has_own_bits(self) -> bool:
        """Whether the features of an image have the same bits beside any other images."""
        lowered = self._usable()
        return lowered is not None and lowered.has_own_bits

    def _usable(self) -> "LoweredTower | None":
        return self._lowered if bool(torch.backends.mkldnn.enabled) else None

    def _reading_view(self, view: Any, path: str) -> tuple[Any, list[Tensor]]:
        """A view of a model that leaves the output of each level in the list."""
        outputs = [torch.empty(0) for _ in self.levels]
        for index, level in enumerate(self.levels):
            place = f"{path}.{level.module}".rstrip(".")
            view = with_hook(view, place, partial(outputs.__setitem__, index))
        return view, outputs

    def _joined(self, outputs: Sequence[Tensor], pixels_BCHW: Tensor) -> Tensor:
        """The levels pooled, flattened and concatenated, [B, E]."""
        pooled = [
            functional.adaptive_avg_pool2d(output, level.grid).flatten(1)
            for output, level in zip(outputs, self.levels, strict=True)
        ]
        return torch.cat(pooled, dim=1) if pooled else pixels_BCHW.new_zeros(len(pixels_BCHW), 0)


def _lowered(tower: nn.Module, modules: Sequence[str], dtype: torch.dtype) -> "LoweredTower | None":
    from liveedit_core.backbones.lowered.tower import LoweredTower

    return LoweredTower.of(tower, modules, dtype)


class _Computed(nn.Module):
    """Stands for a tower whose output is known."""

    def __init__(self, last_BCHW: Tensor) -> None:
        super().__init__()
        self._last_BCHW = last_BCHW

    def forward(self, *pixels: Any, **options: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(last_hidden_state=self._last_BCHW)


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
