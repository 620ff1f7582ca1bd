"""Requests as careless or hostile authors write them, drawn by a seed, and images beside them."""

import base64
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request to the server."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


CHAT, EDITS = "/v1/chat/completions", "/v1/edits"
METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS")
PATHS = (
    *(EDITS, f"{EDITS}/search", f"{EDITS}/{'0' * 64}", f"{EDITS}/{'0' * 64}/thumbnail"),
    *(f"{EDITS}/{'0' * 64}/restore", f"{EDITS}/zz", f"{EDITS}/%00", f"{EDITS}/..%2f..%2fetc"),
    *("/v1/versions", "/v1/versions/1/diff", "/v1/versions/1/diff?base=2", "/v1/versions/0/diff"),
    *("/v1/versions/1/evaluation", "/v1/versions/9/promote", "/v1/versions/rollback"),
    *("/v1/versions/999999999999/diff?base=1", "/v1/versions/1e3/diff?base=NaN"),
    *("/v1/models", "/v1/models/liveedit@v1", "/v1/models/liveedit@../x", "/v1/models/%ff"),
    *("/v1/status", "/ready", "/", "/page.js", "/page.js/../..", "//", "/nowhere", "/metrics"),
)
QUERIES = (
    "",
    "",
    "?limit=0",
    "?limit=1e9",
    "?offset=-1",
    "?q=%00%ff",
    "?state=x",
    "?q=" + "x" * 300,
)
TYPES = ("application/json", "application/json", "text/plain", "", "application/x-gzip")
MODELS = ("liveedit", "liveedit@unedited", "liveedit@v1", "liveedit@v0", "liveedit@", "x", "", "\0")
ROLES = ("user", "assistant", "system", "tool", "", "User")
FIELDS = (
    *("model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop", "n", "stream"),
    *("stream_options", "liveedit", "image", "prompt", "target", "also_asked", "submitter"),
    *("edits", "limit", "author", "reason", "tools", "logit_bias", ""),
)


def data_uris(folder: Path) -> list[str]:
    """Images of the files that `write_images` wrote, and what only looks like one."""
    ok, odd, cut, bomb = (
        base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        for name in ("ok", "odd", "cut", "bomb")
    )
    good = [f"data:image/png;base64,{data}" for data in (ok, ok, ok, ok, odd)]
    return [
        *(good * 2),
        *(f"data:image/png;base64,{data}" for data in (cut, bomb, ok[:-3], "", "%%%", ok * 2)),
        *(f"data:image/png,{ok}", f"DATA:;BASE64,{ok}", "data:", ",", "http://[", "http://a\0b/x"),
        *("file:///etc/passwd", "s3://b/k", "http://127.0.0.1:1/x.png", "x" * 9_000, "\ud800"),
    ]


def call(draw: random.Random, number: int, images: Sequence[str]) -> Call:
    """One request to the server; some of them are good."""
    kind = draw.random()
    method, path = "POST", draw.choice([CHAT, EDITS])
    if kind < 0.1:
        method, path = draw.choice(METHODS), draw.choice(PATHS) + draw.choice(QUERIES)
    content: Any = _edit_body(draw, number, images)
    if path == CHAT:
        content = _chat_body(draw, number, images)
    elif draw.random() < 0.2:
        content = {"edits": [_edit_body(draw, number, images) for _ in range(draw.choice([0, 2]))]}
    if draw.random() < 0.4:
        content[draw.choice(FIELDS)] = draw.choice([*VALUES, *TEXTS])
    if draw.random() < 0.05:
        content = draw.choice([*VALUES, [content], [[[[content]]]], "x"])
    data = bytearray(json.dumps(content).encode())
    for _ in range(draw.choice([0, 0, 0, 1, 3])):
        data[draw.randrange(len(data))] = draw.choice([0, 9, 34, 92, 123, 125, 200, 255])
    if draw.random() < 0.02:
        data = bytearray(b"[" * draw.choice([100, 50_000]))
    headers = {"Content-Type": draw.choice(TYPES)} if draw.random() < 0.2 else {}
    if draw.random() < 0.05:
        headers["Idempotency-Key"] = draw.choice(["", "x" * 300, "a\tb", "'; DROP--"])
    return Call(
        method=method,
        path=path,
        body=bytes(data),
        headers={"Content-Type": "application/json", **headers},
    )


def _text(draw: random.Random, good: str, share: float = 0.3) -> str:
    return draw.choice(TEXTS) if draw.random() < share else good


def _image(draw: random.Random, images: Sequence[str]) -> str:
    return draw.choice(images) if draw.random() < 0.5 else images[0]


def _edit_body(draw: random.Random, number: int, images: Sequence[str]) -> dict[str, Any]:
    return {
        "image": _image(draw, images),
        "prompt": _text(draw, f"What is number {number}?"),
        "target": _text(draw, "a rose"),
    }


def _chat_body(draw: random.Random, number: int, images: Sequence[str]) -> dict[str, Any]:
    def turn() -> dict[str, Any]:
        text = _text(draw, f"What is number {number}?", 0.2)
        shown = {"type": "image_url", "image_url": {"url": _image(draw, images)}}
        content: Any = draw.choice([text, [{"type": "text", "text": text}, shown], [shown], []])
        return {"role": draw.choice(ROLES) if draw.random() < 0.2 else "user", "content": content}

    return {
        "model": draw.choice(MODELS) if draw.random() < 0.3 else "liveedit",
        "messages": [turn() for _ in range(draw.choice([1, 1, 1, 2, 0, 70]))],
        "max_tokens": 2,
    }
