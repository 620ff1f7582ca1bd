"""One row about a whole image: several levels of an image tower, each pooled to a coarse grid."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.views import with_hook


@dataclass(frozen=True, kw_only=True)
class PyramidLevel:
    """Which rows of the tower, and how finely they keep their places."""

    module: str
    """Name of a submodule of the tower whose output is taken; "" for the tower itself."""
    width: int
    """Channels of that output."""
    grid: int
    """The output is averaged to `grid` x `grid` places."""

    @property
    def size(self) -> int:
        """Numbers that the level adds."""
        return self.width * self.grid**2


class TowerPyramid:
    """Reads the levels of a tower while it runs.

    Args:
        tower: image tower whose modules give [B, C, height, width].
        levels: any number; without any, pyramids are empty.
        more_sizes: pixels a side of further looks at each image, averaged with the first: strokes
            that are too fine for one size are seen at another.
    """

    def __init__(
        self, tower: nn.Module, levels: Sequence[PyramidLevel], more_sizes: Sequence[int] = ()
    ) -> None:
        self.tower = tower
        self.more_sizes = tuple(more_sizes) if levels else ()
        self.modules = [tower.get_submodule(level.module) for level in levels]
        self.levels = tuple(levels)
        self.size = sum(level.size for level in levels)

    @contextmanager
    def reading(self) -> Iterator[dict[int, Tensor]]:
        """Within the block, a forward pass of the tower leaves each level's output in the dict."""
        outputs: dict[int, Tensor] = {}

        def reader(position: int) -> Any:
            def read(module: nn.Module, arguments: Any, output: Any) -> None:
                outputs[position] = getattr(output, "last_hidden_state", output)

            return read

        with ExitStack() as stack:
            for position, module in enumerate(self.modules):
                handle = module.register_forward_hook(reader(position))
                stack.callback(handle.remove)
            yield outputs

    def averaged(self, outputs: dict[int, Tensor], pixels_BCHW: Tensor) -> Tensor:
        """Pyramids [B, size] of images, the mean over all sizes at which they are looked at.

        Args:
            outputs: of the tower's pass over the images, each of which may have passed it several
                times in a row.
            pixels_BCHW: what the tower was given.
        """
        total_BE = self.joined(outputs, len(pixels_BCHW))
        total_BE = total_BE[:: len(total_BE) // len(pixels_BCHW)]
        for size in self.more_sizes:
            resized = functional.interpolate(
                pixels_BCHW, size=(size, size), mode="bicubic", antialias=True
            )
            view, others = self.reading_view(nn.Sequential(self.tower), "0")
            view(resized)
            total_BE = total_BE + self.joined(others, len(pixels_BCHW))
        return total_BE / (1 + len(self.more_sizes))

    def reading_view(self, model: Any, path: str) -> tuple[Any, dict[int, Tensor]]:
        """A view of a whole model that leaves each level's output in a dict of its own.

        Args:
            model: holds the tower; is not altered.
            path: of the tower.
        """
        outputs: dict[int, Tensor] = {}
        for position, level in enumerate(self.levels):
            place = f"{path}.{level.module}".rstrip(".")
            model = with_hook(model, place, partial(outputs.__setitem__, position))
        return model, outputs

    @torch.no_grad()
    def each(self, outputs: dict[int, Tensor], pixels_BCHW: Tensor) -> list[Tensor]:
        """`averaged`, a row for each image."""
        return list(self.averaged(outputs, pixels_BCHW).float().cpu())

    def joined(self, outputs: dict[int, Tensor], batch: int) -> Tensor:
        """The levels pooled, flattened and side by side, [B, size]."""
        pooled = [
            functional.adaptive_avg_pool2d(outputs[i], level.grid).flatten(1)
            for i, level in enumerate(self.levels)
        ]
        return torch.cat(pooled, dim=1) if pooled else torch.zeros(batch, 0)
