"""What a hostile image file may cost before its pixels are decoded, found by a look at its parts.

Decoders limit neither the scans of a JPEG (each runs over the whole image) nor the parts that they
walk through in Python. With these limits, and those of bytes and pixels, decoding takes seconds.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from liveedit_core.inputs.rejects import RefusedInputError, RejectType

MAX_SCANS = 32
"""Of a JPEG; encoders write 1 to 14."""
MAX_SEGMENTS = 4_096
"""Of a JPEG; a colour profile has at most 255."""
MAX_CHUNKS = 32_768
"""Of a PNG; encoders write about one for 8 kB."""
MAX_BLOCKS = 32_768
"""Of a GIF before its first frame, with up to 255 bytes each; the others are not read."""
MAX_RUN_LENGTH_BYTES = 2_097_152
"""Of a run-length coded BMP, which Pillow decodes in Python: a second."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_GIF = (b"GIF87a", b"GIF89a")
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
_START_OF_SCAN, _END_OF_IMAGE, _ADOBE = 0xDA, 0xD9, 0xEE
_KEPT_CHUNKS = (b"tRNS", b"eXIf")
"""Of the chunks that a PNG decoder may ignore, those that change what is seen."""


def check_container(data: bytes) -> None:
    """Refuse an image file that is expensive by its build."""
    if data.startswith(_JPEG):
        num_scans = 0
        for num_segments, (marker, _, _) in enumerate(_segments(data), 1):
            num_scans += marker == _START_OF_SCAN
            _check(num_scans, MAX_SCANS, "scans")
            _check(num_segments, MAX_SEGMENTS, "segments")
    elif data.startswith(_PNG):
        for number, _ in enumerate(_chunks(data), 1):
            _check(number, MAX_CHUNKS, "chunks")
    elif data.startswith(_GIF):
        for number, _ in enumerate(_blocks(data), 1):
            _check(number, MAX_BLOCKS, "blocks")
    elif data.startswith(b"BM") and int.from_bytes(data[30:34], "little") in (1, 2):
        _check(len(data), MAX_RUN_LENGTH_BYTES, "bytes of a run-length coded BMP")


def without_metadata(data: bytes) -> bytes:
    """The parts of a PNG or JPEG file that make its pixels; other files as they are."""
    if data.startswith(_PNG):
        return _PNG + b"".join(chunk for name, chunk in _chunks(data) if _is_kept(name, chunk))
    if not data.startswith(_JPEG):
        return data
    parts = [_JPEG]
    for marker, start, end in _segments(data):
        if marker == _START_OF_SCAN:
            return b"".join([*parts, data[start:]])
        is_metadata = 0xE1 <= marker <= 0xEF or marker == 0xFE
        if not is_metadata or marker == _ADOBE:
            parts.append(data[start:end])
    return data


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a JPEG; the data of a scan follows its segment."""
    position = 2
    while found := _MARKER.search(data, position):
        marker, start = found.group(1)[0], found.start()
        if marker == _END_OF_IMAGE:
            return
        position = start + 2 + max(int.from_bytes(data[start + 2 : start + 4], "big"), 2)
        yield marker, start, position


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and bytes of each chunk of a PNG."""
    position = len(_PNG)
    while len(data) >= position + 12:
        (length,) = struct.unpack(">I", data[position : position + 4])
        yield data[position + 4 : position + 8], data[position : position + 12 + length]
        position += 12 + length


def _blocks(data: bytes) -> Iterator[int]:
    """Where each block of the extensions before the first frame of a GIF starts."""
    flags = data[10] if len(data) > 10 else 0
    position = 13 + (3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0)
    while data[position : position + 1] == b"!":
        position += 2
        while position < len(data):
            yield position
            length = data[position]
            position += 1 + length
            if length == 0:
                break


def _is_kept(name: bytes, chunk: bytes) -> bool:
    if name[:1].isupper():
        return True
    return name in _KEPT_CHUNKS and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _check(number: int, limit: int, what: str) -> None:
    if number > limit:
        raise RefusedInputError(
            f"the image has more than {limit:,} {what}, which no encoder writes (a decompression "
            "bomb?): save it anew",
            RejectType.IMAGE_TOO_LARGE,
        )
