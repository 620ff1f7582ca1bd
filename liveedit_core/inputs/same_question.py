"""When two requests ask the same by their content: equal pixels, and equal prompts.

Bytes differ where pixels do not (another encoder, metadata), and prompts in case and spaces.
"""

import base64
import hashlib
import re
import unicodedata

import numpy as np
from PIL import Image

from liveedit_core.inputs.images import decode_image
from liveedit_core.inputs.rejects import RefusedInputError
from liveedit_core.schema import NO_IMAGE, EditRequest, digest_of_parts

_WORD = re.compile(r"\w+")
_INNER_WORD = re.compile(r"(?<=[\w,;)]\s)\w+")
"""Not the first of a sentence or of a quotation."""
_SIDE = 32
_MAX_DIFFERENCE = 30
"""Largest difference of one thumbnail pixel (0..255) between two encodings of one image. JPEG at
quality 10 to 95 and WebP reach 2 to 20; other filled-in forms of one layout begin at 36."""


def digest_of_pixels(image: Image.Image) -> str:
    """sha256 of size and pixels (64 hex digits)."""
    return digest_of_parts((repr(image.size).encode(), image.tobytes()))


def pixel_digest(request: EditRequest) -> str:
    """`digest_of_pixels` of a request's image; of its bytes if they cannot be decoded."""
    if request.pixel_digest:
        return request.pixel_digest
    if request.image_bytes is None:
        return NO_IMAGE
    try:
        return digest_of_pixels(decode_image(request.image_bytes))
    except RefusedInputError:
        return hashlib.sha256(request.image_bytes).hexdigest()


def question_id(request: EditRequest) -> str:
    """Identity of what a request asks: pixels and normalized prompt (64 hex digits)."""
    texts = (pixel_digest(request), normalized_prompt(request.prompt))
    return digest_of_parts(text.encode() for text in texts)


def thumbnail(image_bytes: bytes | None) -> str:
    """Brightness on a coarse grid, as base64; "" without an image that can be decoded."""
    if image_bytes is None:
        return ""
    try:
        image = decode_image(image_bytes)
    except RefusedInputError:
        return ""
    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return base64.b64encode(small.tobytes()).decode()


def looks_alike(thumbnail: str, other: str) -> bool:
    """Whether two thumbnails may be those of one image in two encodings."""
    grids = [np.frombuffer(base64.b64decode(text), np.uint8) for text in (thumbnail, other)]
    if any(grid.size != _SIDE**2 for grid in grids):
        return False
    return int(np.abs(grids[0].astype(int) - grids[1]).max()) <= _MAX_DIFFERENCE


def normalized_prompt(prompt: str) -> str:
    """A prompt without differences of case, spaces and compatibility characters (NFKC)."""
    folded = unicodedata.normalize("NFKC", prompt).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def have_equal_names(prompt: str, other: str) -> bool:
    """Whether neither prompt has a name or a number that the other lacks."""
    texts = [unicodedata.normalize("NFKC", text) for text in (prompt, other)]
    words = [set(_WORD.findall(text.casefold())) for text in texts]
    return _names(texts[0]) <= words[1] and _names(texts[1]) <= words[0]


def _names(text: str) -> set[str]:
    """Words with a digit, and those with a capital that do not begin a sentence."""
    inner = {word for word in _INNER_WORD.findall(text) if word[0].isupper() and word != "I"}
    numbers = {word for word in _WORD.findall(text) if any(map(str.isdigit, word))}
    return {word.casefold() for word in inner | numbers}
