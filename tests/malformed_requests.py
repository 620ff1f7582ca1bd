"""Requests as careless or hostile authors write them, drawn by a seed, and images beside them."""

import io
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

TEXTS = (
    *("", " ", "\n", "\0", "\u200b", "\u202eabc", "\x1b]0;owned\x07", "\ud800", "\u3164\ufe0f"),
    *("x" * 3_000, "é" * 400, "旅行者2号", "🧑‍🚀", "What is this?", "a rose", "<|im_end|>", "\r\n"),
    *(
        "{image}",
        "%s%n",
        "'; DROP TABLE requests;--",
        "\\",
        '"',
        "NaN",
        "a\tb",
        "\ufeffx",
        "\x9b31m",
    ),
)
PLACES = (
    *(
        "ok.png",
        "odd.png",
        "cut.png",
        "none.png",
        "folder",
        "link.png",
        "loop.png",
        "folder/../ok.png",
    ),
    *(
        "/etc/passwd",
        "/dev/zero",
        "../ok.png",
        "file://[abc/x.png",
        "file:///etc/passwd",
        "file://h/x",
    ),
    *(
        "s3://b/k",
        "s3://",
        "http://x/y.png",
        "a\0b",
        "x" * 5_000,
        "ok.png/",
        "./ok.png",
        "~/ok.png",
    ),
    *(
        "file:ok.png",
        "C:\\ok.png",
        "?",
        "#",
        "%00",
        "%2e%2e/ok.png",
        "",
        " ",
        ".",
        "..",
        "bomb.png",
    ),
)
VALUES: tuple[Any, ...] = (None, True, 0, -1, 1e308, 10**400, [], {}, [[]], ["a"], {"a": 1}, "x")
KEYS = ("image", "prompt", "target", "submitter", "also_asked", "edit", "probes", "promt", "", "\0")


def write_images(folder: Path) -> None:
    """The files that `PLACES` name."""
    for name, size in (("ok.png", (8, 8)), ("odd.png", (1, 300)), ("bomb.png", (7_000, 7_000))):
        buffer = io.BytesIO()
        Image.new("L", size).save(buffer, "PNG")
        (folder / name).write_bytes(buffer.getvalue())
    (folder / "cut.png").write_bytes((folder / "odd.png").read_bytes()[:60])
    (folder / "folder").mkdir()
    (folder / "link.png").symlink_to("/etc/hostname")
    (folder / "loop.png").symlink_to(folder / "loop.png")


def line(draw: random.Random, number: int) -> bytes:
    """One line of a JSONL file; some of them are good."""
    content: dict[str, Any] = {
        "image": draw.choice(PLACES) if draw.random() < 0.5 else "ok.png",
        "prompt": draw.choice(TEXTS) if draw.random() < 0.4 else f"What is number {number}?",
        "target": draw.choice(TEXTS) if draw.random() < 0.4 else "a rose",
    }
    if draw.random() < 0.3:
        content[draw.choice(KEYS)] = draw.choice([*VALUES, *TEXTS])
    if draw.random() < 0.1:
        content.pop(draw.choice(["image", "prompt", "target"]), None)
    text = json.dumps(content, ensure_ascii=draw.random() < 0.5)
    data = bytearray(text.encode("utf-8", "surrogatepass").replace(b"\n", b" "))
    for _ in range(draw.choice([0, 0, 0, 1, 3])):
        data[draw.randrange(len(data))] = draw.choice([0, 9, 34, 92, 123, 125, 200, 255])
    return bytes(data)
