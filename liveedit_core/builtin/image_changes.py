"""Changed copies of an image by name: how the same entity looks in another capture.

The same bytes and the same name always give the same pixels: whatever varies (colours, grounds,
layouts, crop positions) is chosen by the SHA-256 of the bytes. `grey` and `hue` leave an image
without colours as it is.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import sha256, shake_256
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from liveedit_core.errors import ConfigError, InputError

Colour = tuple[int, int, int]
Change = Callable[[Image.Image, bytes], Image.Image]
"""An RGB image and 32 bytes that decide whatever varies -> the changed image."""

Choice = TypeVar("Choice")

MAX_SIDE = 224
SMALL_SIDE = 48
SCREEN_SIZE = (320, 224)
PHONE_SIZE = (168, 224)
WEBP_QUALITY = 90

NEAR_WHITE = 238
"""All channels of a pixel of plain ground are at least this."""
MIN_GROUND_BORDER = 0.75
"""Share of the border that is near-white where an image has a plain ground."""
WHITE: Colour = (255, 255, 255)
INK: Colour = (40, 44, 52)
PALE: Colour = (225, 228, 233)
GROUNDS: tuple[Colour, ...] = (
    (236, 228, 208),
    (201, 219, 238),
    (208, 232, 206),
    (120, 126, 138),
    (58, 64, 82),
    (244, 214, 208),
    (222, 222, 222),
)
SENTENCES = (
    "Found this in the archive today",
    "Does anyone know more about it?",
    "Read the full story on page two",
    "Posted by a member of the group",
    "Three comments, nine people watching",
    "The second part follows next week",
    "See the notes below for details",
    "Delivery takes four to six days",
    "Photo of the day, sent by a reader",
    "Look what I saw this morning",
)
TITLES = ("Daily notes", "Village board", "The collector", "Open shelf", "Weekend reader")
SENDERS = ("Mira", "Jonas", "Aunt Lea", "Work group", "Tom K.")


def mirrored(image: Image.Image, _key: bytes) -> Image.Image:
    """Left and right swapped."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def cropped(image: Image.Image, key: bytes, *, share: float) -> Image.Image:
    """A window of `share` of each side, somewhere in the image, enlarged to the old size."""
    width, height = image.width * share, image.height * share
    left = (image.width - width) * key[0] / 255
    top = (image.height - height) * key[1] / 255
    box = (left, top, left + width, top + height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


def turned(image: Image.Image, _key: bytes, *, degrees: float) -> Image.Image:
    """Turned clockwise within the old frame; the corners take the colour of the border."""
    fill = border_colour(image)
    return image.rotate(-degrees, resample=Image.Resampling.BICUBIC, fillcolor=fill)


def turned_90(image: Image.Image, _key: bytes) -> Image.Image:
    """Turned by a right angle clockwise; width and height change places."""
    return image.transpose(Image.Transpose.ROTATE_270)


def dimmed(image: Image.Image, _key: bytes) -> Image.Image:
    """Half as bright."""
    return ImageEnhance.Brightness(image).enhance(0.5)


def grey(image: Image.Image, _key: bytes) -> Image.Image:
    """Without colours."""
    return image.convert("L").convert("RGB")


def other_hue(image: Image.Image, key: bytes) -> Image.Image:
    """All hues moved by 60 to 300 degrees."""
    hue, saturation, value = image.convert("HSV").split()
    shift = 43 + key[0] * 170 // 255
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def jpeg(image: Image.Image, _key: bytes, *, quality: int) -> Image.Image:
    """Encoded as JPEG and decoded."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def small(image: Image.Image, _key: bytes) -> Image.Image:
    """The longer side has 48 pixels."""
    return fitted(image, (SMALL_SIDE, SMALL_SIDE))


def blurred(image: Image.Image, _key: bytes) -> Image.Image:
    """Out of focus: a Gaussian of 1/80 of the longer side."""
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 80))


def on_plain_ground(image: Image.Image, key: bytes) -> Image.Image:
    """Shrunk to 55 % and put somewhere on a ground of one colour."""
    shown = fitted(image, (round(image.width * 0.55), round(image.height * 0.55)))
    ground = Image.new("RGB", image.size, pick(GROUNDS, key[0]))
    left = (image.width - shown.width) * (64 + key[1] // 2) // 255
    top = (image.height - shown.height) * (64 + key[2] // 2) // 255
    ground.paste(shown, (left, top))
    return ground


def on_other_background(image: Image.Image, key: bytes) -> Image.Image:
    """The near-white ground around a drawing becomes a gradient, clouds or stripes.

    Raises:
        InputError: the image has no plain ground.
    """
    ground = ground_mask(image)
    if not covers_border(ground):
        raise InputError(
            "other background: expected an image on a near-white ground, found other colours on "
            "its border; ask has_plain_ground() first"
        )
    mask = Image.fromarray(ground.astype(np.uint8) * 255)
    # One pixel more, with a soft edge: the drawing's outline is mixed with the old ground.
    mask = mask.filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.GaussianBlur(0.6))
    return Image.composite(background(image.size, key), image, mask)


def in_screenshot(image: Image.Image, key: bytes) -> Image.Image:
    """A web page or a chat on a phone that shows the image."""
    return (web_page, phone_chat)[key[0] % 2](image, key)


CHANGES: Mapping[str, Change] = {
    "mirrored": mirrored,
    "cropped 90 %": partial(cropped, share=0.9),
    "cropped 75 %": partial(cropped, share=0.75),
    "turned 5": partial(turned, degrees=5),
    "turned 15": partial(turned, degrees=15),
    "turned 90": turned_90,
    "dimmed": dimmed,
    "grey": grey,
    "hue": other_hue,
    "JPEG 30": partial(jpeg, quality=30),
    "small": small,
    "blurred": blurred,
    "plain ground": on_plain_ground,
    "other background": on_other_background,
    "screenshot": in_screenshot,
}
"""By name, as in `Probe.variant`."""


def changed(image_bytes: bytes, change: str) -> bytes:
    """A changed copy of an encoded image, as WebP.

    It keeps the image's size up to 224 pixels a side; `small` has 48, a screenshot up to 320 x 224.

    Raises:
        ConfigError: no change has this name.
        InputError: `other background`, and the image has no plain ground.
    """
    if change not in CHANGES:
        raise ConfigError(f"change: expected one of {', '.join(CHANGES)}; got {change!r}")
    key = sha256(change.encode() + b"\0" + image_bytes).digest()
    buffer = io.BytesIO()
    copy = CHANGES[change](decoded(image_bytes), key)
    copy.save(buffer, "WEBP", quality=WEBP_QUALITY, method=2)
    return buffer.getvalue()


def has_plain_ground(image_bytes: bytes) -> bool:
    """Whether an image shows something on a near-white ground, so that this can be replaced."""
    return covers_border(ground_mask(decoded(image_bytes)))


def decoded(image_bytes: bytes) -> Image.Image:
    """As RGB on white, at most 224 pixels a side."""
    with Image.open(io.BytesIO(image_bytes)) as opened:
        layer = opened.convert("RGBA")
    image = Image.new("RGB", layer.size, WHITE)
    image.paste(layer, mask=layer)
    return fitted(image, (MAX_SIDE, MAX_SIDE)) if max(image.size) > MAX_SIDE else image


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled to the largest size within a frame, with its proportions."""
    scale = min(size[0] / image.width, size[1] / image.height)
    target = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(target, Image.Resampling.LANCZOS)


def pick(choices: Sequence[Choice], byte: int) -> Choice:
    """The choice that a byte stands for."""
    return choices[byte % len(choices)]


def border_colour(image: Image.Image) -> Colour:
    """Median colour of the outermost pixels."""
    pixels = np.asarray(image)
    border = np.concatenate((pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    red, green, blue = np.median(border, axis=0).astype(int).tolist()
    return red, green, blue


def ground_mask(image: Image.Image) -> np.ndarray:
    """Bool (height, width): near-white pixels that are connected to the border."""
    light: np.ndarray = np.asarray(image).min(axis=2) >= NEAR_WHITE
    ground = light.copy()
    ground[1:-1, 1:-1] = False
    count = 0
    while count != (count := int(ground.sum())):
        grown = ground.copy()
        grown[1:] |= ground[:-1]
        grown[:-1] |= ground[1:]
        grown[:, 1:] |= ground[:, :-1]
        grown[:, :-1] |= ground[:, 1:]
        ground = grown & light
    return ground


def covers_border(ground: np.ndarray) -> bool:
    """Whether most of the border is ground."""
    border = np.concatenate((ground[0], ground[-1], ground[:, 0], ground[:, -1]))
    return bool(border.mean() >= MIN_GROUND_BORDER)


def background(size: tuple[int, int], key: bytes) -> Image.Image:
    """A gradient, coloured clouds or stripes."""
    width, height = size
    first, second = (np.array(pick(GROUNDS, byte), dtype=np.float32) for byte in key[1:3])
    if (first == second).all():
        second = 255 - first
    style = key[0] % 3
    if style == 0:
        pixels = np.frombuffer(shake_256(key).digest(5 * 5 * 3), dtype=np.uint8)
        return Image.fromarray(pixels.reshape(5, 5, 3)).resize(size, Image.Resampling.BICUBIC)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = key[3] / 255 * np.pi
    along = x / width * np.cos(angle) + y / height * np.sin(angle)
    if style == 1:
        mix = (along - along.min()) / np.ptp(along)
    else:
        mix = (np.floor(along * (4 + key[4] % 6)) % 2).astype(np.float32)
    pixels = first + mix[..., None] * (second - first)
    return Image.fromarray(pixels.astype(np.uint8))


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, the same on every machine."""
    return ImageFont.load_default(size)


def web_page(image: Image.Image, key: bytes) -> Image.Image:
    """A browser window: address bar, title, the image and lines of text beside it."""
    width, height = SCREEN_SIZE
    page = Image.new("RGB", SCREEN_SIZE, WHITE)
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, width, 22), fill=PALE)
    for index, colour in enumerate(((237, 106, 94), (245, 191, 79), (97, 197, 84))):
        draw.ellipse((6 + 12 * index, 7, 14 + 12 * index, 15), fill=colour)
    title = pick(TITLES, key[1])
    draw.rounded_rectangle((50, 4, width - 10, 18), 6, fill=WHITE)
    draw.text((58, 5), f"www.{title.lower().replace(' ', '-')}.example", INK, font(9))
    bar = pick(GROUNDS, key[2])
    draw.rectangle((0, 23, width, 46), fill=bar)
    draw.text((10, 26), title, INK if sum(bar) > 400 else WHITE, font(15))
    shown = fitted(image, (164, height - 66))
    left = 10 if key[3] % 2 else width - 10 - shown.width
    page.paste(shown, (left, 56))
    text_left = left + shown.width + 10 if key[3] % 2 else 10
    text_width = width - shown.width - 30
    rows = " ".join(pick(SENTENCES, byte) + "." for byte in key[4:14]).split()
    top, line = 56, ""
    for word in rows:
        if draw.textlength(f"{line} {word}", font(10)) > text_width:
            draw.text((text_left, top), line, INK, font(10))
            top, line = top + 14, ""
        if top > height - 18:
            break
        line = f"{line} {word}".strip()
    return page


def phone_chat(image: Image.Image, key: bytes) -> Image.Image:
    """A chat on a phone: the sender's name, messages and the image in a bubble."""
    width, height = PHONE_SIZE
    page = Image.new("RGB", PHONE_SIZE, (239, 234, 226))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, width, 26), fill=(32, 94, 84))
    draw.ellipse((6, 5, 22, 21), fill=pick(GROUNDS, key[1]))
    draw.text((28, 6), pick(SENDERS, key[2]), WHITE, font(12))
    draw.text((width - 26, 8), f"{8 + key[3] % 12}:{key[4] % 60:02d}", WHITE, font(9))

    def bubble(top: int, text: str, fill: Colour) -> None:
        draw.rounded_rectangle((8, top, width - 22, top + 17), 6, fill=fill)
        draw.text((13, top + 3), text[:28], INK, font(9))

    bubble(32, pick(SENTENCES, key[5]), WHITE)
    shown = fitted(image, (118, 118))
    box = (width - shown.width - 16, 54, width - 8, 62 + shown.height)
    draw.rounded_rectangle(box, 6, fill=(217, 243, 200))
    page.paste(shown, (box[0] + 4, box[1] + 4))
    bubble(box[3] + 5, pick(SENTENCES, key[6]), WHITE)
    draw.rounded_rectangle((6, height - 18, width - 30, height - 4), 7, fill=WHITE)
    draw.ellipse((width - 24, height - 20, width - 6, height - 2), fill=(32, 148, 120))
    return page
