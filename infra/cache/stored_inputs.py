"""Inputs of a training in a store, so that each process reads those that it needs.

<prefix>/places      for each input: start of the prompt, of the target, end of the target, start
                     and end of the image (-1, -1 without one); written last
<prefix>/<number>    all texts and all distinct images, concatenated, in pieces
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.protocol import BackboneInput

_PIECE_BYTES = 256 * 1024
_PIECES_KEPT = 8


class StoredInputs(Sequence[BackboneInput]):
    """Read when they are indexed; picklable and small."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    def __reduce__(self) -> tuple[type["StoredInputs"], tuple[ObjectStore, str]]:
        return StoredInputs, (self._store, self._prefix)

    def _key(self, name: str | int) -> str:
        return f"{self._prefix}/{name}"

    @functools.cached_property
    def _places(self) -> npt.NDArray[np.int64]:
        data = self._store.get(self._key("places"))
        return np.frombuffer(data, np.int64).reshape(-1, 5)

    def write(self, inputs: Sequence[BackboneInput]) -> None:
        """Write them, each distinct image once."""
        waiting = bytearray()
        size = num_pieces = 0

        def add(part: bytes) -> int:
            nonlocal size, num_pieces
            waiting.extend(part)
            size += len(part)
            while len(waiting) >= _PIECE_BYTES:
                self._store.put(self._key(num_pieces), bytes(waiting[:_PIECE_BYTES]))
                del waiting[:_PIECE_BYTES]
                num_pieces += 1
            return size - len(part)

        places: list[tuple[int, ...]] = []
        images: dict[bytes, tuple[int, int]] = {b"": (-1, -1)}
        for item in inputs:
            image = item.image_bytes
            digest = b"" if image is None else hashlib.sha256(image).digest()
            if image is not None and digest not in images:
                start = add(image)
                images[digest] = (start, start + len(image))
            prompt, target = add(item.prompt.encode()), add(item.target.encode())
            places.append((prompt, target, size, *images[digest]))
        self._store.put(self._key(num_pieces), bytes(waiting))
        self._store.put(self._key("places"), np.array(places, np.int64).tobytes())

    def exists(self) -> bool:
        return self._store.exists(self._key("places"))

    def delete(self) -> None:
        for key in self._store.list(f"{self._prefix}/"):
            self._store.delete(key)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> BackboneInput: ...
    @overload
    def __getitem__(self, index: slice) -> list[BackboneInput]: ...
    def __getitem__(self, index: int | slice) -> BackboneInput | list[BackboneInput]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        prompt, target, end, image, image_end = self._places[index].tolist()
        return BackboneInput(
            prompt=self._read(prompt, target).decode(),
            target=self._read(target, end).decode(),
            image_bytes=self._read(image, image_end) if image >= 0 else None,
        )

    def _read(self, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        first, last = start // _PIECE_BYTES, (stop - 1) // _PIECE_BYTES
        pieces = [_piece(self._store, self._key(n)) for n in range(first, last + 1)]
        start -= first * _PIECE_BYTES
        return b"".join(pieces)[start : stop - first * _PIECE_BYTES]


@dataclass(frozen=True)
class ChosenInputs(Sequence[BackboneInput]):
    """Some inputs by their positions; of `StoredInputs`, whoever indexes it reads them."""

    inputs: Sequence[BackboneInput]
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> BackboneInput: ...
    @overload
    def __getitem__(self, index: slice) -> list[BackboneInput]: ...
    def __getitem__(self, index: int | slice) -> BackboneInput | list[BackboneInput]:
        if isinstance(index, slice):
            return [self.inputs[position] for position in self.positions[index]]
        return self.inputs[self.positions[index]]


@functools.lru_cache(_PIECES_KEPT)
def _piece(store: ObjectStore, key: str) -> bytes:
    return store.get(key)
