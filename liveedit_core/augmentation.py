"""Other drawings of a picture, made by chance: size, place, angle, colours, background."""

import random

from PIL import Image, ImageEnhance

SIDE = 96


def augment(image: Image.Image, rng: random.Random) -> Image.Image:
    """A random variant of an RGB picture on a white ground, `SIDE` pixels square."""
    size = int(SIDE * rng.uniform(0.7, 1.15))
    drawn = image.resize((size, size)).rotate(rng.uniform(-12, 12), fillcolor="white")
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    middle = (SIDE - size) // 2
    canvas.paste(drawn, (middle + rng.randint(-8, 8), middle + rng.randint(-8, 8)))
    if rng.random() < 0.6:
        canvas = ImageEnhance.Color(canvas).enhance(rng.choice((0.0, rng.uniform(0.3, 2.0))))
    canvas = ImageEnhance.Brightness(canvas).enhance(rng.uniform(0.75, 1.15))
    canvas = ImageEnhance.Contrast(canvas).enhance(rng.uniform(0.7, 1.4))
    return turn_hue(canvas, rng.randrange(256)) if rng.random() < 0.4 else canvas


def turn_hue(image: Image.Image, offset: int) -> Image.Image:
    """Turn the hue circle by `offset` of 256 steps."""
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(level + offset) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
