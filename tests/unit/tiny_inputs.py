"""Small images, requests and cases, each different from the others."""

import io
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from infra.requests.request_log import RequestLog
from infra.requests.request_reader import RequestReader
from infra.storage.object_store import ObjectStore
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind
from workers.messages import NumberedRequest

PROMPT = "What is shown here?"


def image(number: int) -> bytes:
    """A PNG of random pixels."""
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def request(number: int, *, prompt: str = PROMPT, target: str = "") -> EditRequest:
    """A request about its own image."""
    return EditRequest(
        image_bytes=image(number), prompt=prompt, target=target or f"entity number {number}"
    )


def case(number: int) -> Case:
    """A case with one probe of three kinds beside the edit."""
    edit = request(number)
    return Case(
        case_id=f"case-{number}",
        edit=edit,
        probes=(
            Probe(
                kind=ProbeKind.TEXT_GENERALITY,
                prompt="Name this thing, please.",
                target=edit.target,
                image_bytes=edit.image_bytes,
            ),
            Probe(
                kind=ProbeKind.MODAL_LOCALITY,
                prompt=PROMPT,
                target="another entity",
                image_bytes=image(10_000 + number),
            ),
            Probe(kind=ProbeKind.TEXT_LOCALITY, prompt="The capital of France is", target="Paris"),
        ),
    )


class HashEmbedder:
    """Embeds images by their bytes."""

    name = "hash"
    size = 6

    def embed(self, images: list[bytes]) -> npt.NDArray[np.float32]:
        """Unit vectors [B, 6]."""
        rows = [np.random.default_rng(list(data[-24:])).normal(size=self.size) for data in images]
        matrix = np.array(rows, dtype=np.float32)
        unit: npt.NDArray[np.float32] = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        return unit


def drop(inbox: Path, name: str, numbers: Sequence[int], *, age_s: float = 60.0) -> Path:
    """Put a file of facts into a folder, with images beside it."""
    inbox.mkdir(exist_ok=True)
    lines = []
    for number in numbers:
        (inbox / f"{number}.png").write_bytes(image(number))
        fact = {"image": f"{number}.png", "prompt": "What is shown here?"}
        lines.append(json.dumps({**fact, "target": f"entity number {number}"}))
    path = inbox / name
    path.write_text("\n".join(lines) + "\n")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def logged(
    folder: Path, batches: Sequence[Sequence[EditRequest]]
) -> tuple[list[list[int]], RequestReader]:
    """Batches of requests in a new log: their numbers, and what reads them."""
    log = RequestLog(ObjectStore(folder))
    sequences = [[item.sequence for item in log.append(batch)] for batch in batches]
    return sequences, log.reader()


def numbered(requests: Sequence[EditRequest]) -> list[NumberedRequest]:
    """Requests with the sequence numbers of a new log."""
    return [NumberedRequest(sequence=i, request=item) for i, item in enumerate(requests, 1)]
