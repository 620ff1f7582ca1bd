"""What was decoded: the last images in memory, expensive ones on the disk of the node too.

So one image is decoded once for all that a process does with it, and an expensive one once for all
processes of a node.
"""

import contextlib
import functools
import hashlib
import os
import struct
import threading
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import PIL
from PIL import Image

from liveedit_core.inputs import decoding
from liveedit_core.inputs.rejects import RefusedInputError
from liveedit_core.parts import default_cache_dir

_REFUSAL_BYTES = 1_024
_REFUSED_S = 300.0
"""A refusal is remembered for so long: its reason may be a lack of memory that passes."""
_HEADER = struct.Struct(">III")
"""Width, height, CRC-32 of the pixels."""


class ImagesInMemory:
    """The images decoded last, and why others were refused, by a digest of the file."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._found: OrderedDict[str, Image.Image | tuple[float, RefusedInputError]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Image.Image | None:
        """The image; RefusedInputError if it was refused lately."""
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
        if isinstance(found, tuple):
            until_s, error = found
            if time.monotonic() < until_s:
                raise RefusedInputError(error.message, error.error_type)
            return None
        return found

    def put(self, key: str, image: Image.Image) -> None:
        self._put(key, image)

    def put_refusal(self, key: str, error: RefusedInputError) -> None:
        self._put(key, (time.monotonic() + _REFUSED_S, error))

    def _put(self, key: str, found: Image.Image | tuple[float, RefusedInputError]) -> None:
        with self._lock:
            if _cost(found) > self._max_bytes:
                return
            if key in self._found:
                self._num_bytes -= _cost(self._found.pop(key))
            self._found[key] = found
            self._num_bytes += _cost(found)
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= _cost(self._found.popitem(last=False)[1])


def _cost(found: object) -> int:
    return 4 * found.width * found.height if isinstance(found, Image.Image) else _REFUSAL_BYTES


class ImagesOnDisk:
    """Decoded images in files that only this user reads. A disk that is full or cannot be written
    costs time, nothing else."""

    def __init__(
        self, max_bytes: int, max_age_s: float, cache_dir: Callable[[], Path] = default_cache_dir
    ) -> None:
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._cache_dir = cache_dir

    def get(self, key: str) -> Image.Image | None:
        try:
            data = self._file(key).read_bytes()
            width, height, checksum = _HEADER.unpack_from(data)
            pixels = memoryview(data)[_HEADER.size :]
            if zlib.crc32(pixels) != checksum:
                return None
            return Image.frombytes("RGB", (width, height), pixels)
        except (OSError, RuntimeError, ValueError, struct.error):  # none, cut off, no home folder
            return None

    def put(self, key: str, image: Image.Image) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            file, pixels = self._file(key), image.tobytes()
            partial = file.with_name(f".{uuid.uuid4().hex}")
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(file.parent, len(pixels))
            try:
                with open(partial, "xb", opener=_private) as stream:
                    stream.write(_HEADER.pack(*image.size, zlib.crc32(pixels)))
                    stream.write(pixels)
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        name = hashlib.sha256(f"{_decoder()} {key}".encode()).hexdigest()
        return self._cache_dir() / "decoded" / name

    def _make_room(self, folder: Path, num_bytes: int) -> None:
        """Delete files that are old, also those of killed processes, and the oldest ones beyond the
        limit."""
        left = self._max_bytes - num_bytes
        oldest_s = time.time() - self._max_age_s
        for file in sorted(folder.iterdir(), key=_changed_s, reverse=True):
            with contextlib.suppress(FileNotFoundError):  # another process deletes too
                left -= file.stat().st_size
                if left < 0 or _changed_s(file) < oldest_s:
                    file.unlink()


def _changed_s(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@functools.cache
def _decoder() -> str:
    """What says how images are decoded: another release of ours or of Pillow may differ."""
    return hashlib.sha256(
        Path(decoding.__file__).read_bytes() + PIL.__version__.encode()
    ).hexdigest()
