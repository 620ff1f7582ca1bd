"""Inputs of training in one file, so that a million of them need no memory.

bytes   all texts and all distinct images, end to end
places  for each input: start of the prompt, of the target, end of the target, start and end of
        the image; -1, -1 where there is none
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from liveedit_core.backbones.protocol import BackboneInput


class TrainingInputs(Sequence[BackboneInput]):
    """A sequence that reads what it is asked for.

    Args:
        path: file that `write_training_inputs` wrote.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._file = cast(Any, safe_open(path, "np"))
        self._bytes = self._file.get_slice("bytes")
        self._places = self._file.get_slice("places")
        self._length = int(self._places.get_shape()[0])

    def __reduce__(self) -> tuple[type["TrainingInputs"], tuple[Path]]:
        """Pickle the path: other processes read the same file."""
        return TrainingInputs, (self._path,)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> BackboneInput: ...
    @overload
    def __getitem__(self, index: slice) -> list[BackboneInput]: ...
    def __getitem__(self, index: int | slice) -> BackboneInput | list[BackboneInput]:
        """One input, or some of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not 0 <= index < self._length:
            raise IndexError(index)
        (row,) = self._places[index : index + 1].tolist()
        prompt, target, end, image, image_end = row
        return BackboneInput(
            prompt=self._read(prompt, target).decode(),
            target=self._read(target, end).decode(),
            image_bytes=self._read(image, image_end) if image >= 0 else None,
        )

    def _read(self, start: int, stop: int) -> bytes:
        data: bytes = self._bytes[start:stop].tobytes() if stop > start else b""
        return data


def write_training_inputs(path: Path, inputs: Sequence[BackboneInput]) -> None:
    """Write inputs to a file; an image that many share is written once."""
    parts: list[bytes] = []
    size = 0

    def add(part: bytes) -> int:
        nonlocal size
        parts.append(part)
        size += len(part)
        return size - len(part)

    places: list[tuple[int, ...]] = []
    images: dict[bytes | None, tuple[int, int]] = {None: (-1, -1)}
    for item in inputs:
        image = item.image_bytes
        if image is not None and image not in images:
            start = add(image)
            images[image] = (start, start + len(image))
        prompt, target = add(item.prompt.encode()), add(item.target.encode())
        places.append((prompt, target, size, *images[image]))
    tensors: dict[str, npt.NDArray[Any]] = {
        "bytes": np.frombuffer(b"".join(parts), dtype=np.uint8),
        "places": np.array(places, dtype=np.int64).reshape(-1, 5),
    }
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial)
    partial.replace(path)
