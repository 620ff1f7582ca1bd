"""Thousands of malformed requests: each is refused with a reason, or accepted and true."""

import json
import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.inputs.datasets import load_requests
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import EditRequest
from pipelines.editing.intake import Item, Source, log_requests
from tests.malformed_requests import line, write_images

_FILES = 10
_MAX_GROWTH_BYTES = 64 * 1024 * 1024


def _check(item: Item, raw: bytes) -> None:
    if isinstance(item, Rejected):
        assert item.message
        assert item.error_type
        return
    assert isinstance(item, EditRequest)
    content = json.loads(raw)
    assert (item.prompt, item.target) == (content["prompt"], content["target"])
    if content.get("image") is None:
        assert (item.image_bytes, item.image_uri) == (None, "")
        return
    assert item.image_bytes is not None
    assert item.image_bytes.startswith(b"\x89PNG")
    assert item.image_uri.endswith((".png",))


def _logged(folder: Path, log: RequestLog, seed: int, num_lines: int) -> tuple[int, int]:
    """How many lines of a file are accepted and refused."""
    draw = random.Random(seed)
    lines = [line(draw, seed * num_lines + number) for number in range(num_lines)]
    path = folder / f"{seed}.jsonl"
    path.write_bytes(b"\n".join(lines))
    wanted = [raw for raw in lines if raw.strip()]

    def items() -> Iterator[Item]:
        found = load_requests(path)
        for raw, item in zip(wanted, found, strict=True):
            _check(item, raw)
            yield item

    intake = log_requests(Source(name="", digest=str(seed), items=items()), log)
    num_refused = len(intake.rejected) + intake.num_duplicates
    assert intake.num_accepted + num_refused == len(wanted)
    return intake.num_accepted, num_refused


def _all_logged(folder: Path, num_requests: int) -> None:
    write_images(folder)
    log = RequestLog(ObjectStore(folder / "store"))
    num_accepted = num_refused = 0
    peaks = []
    for seed in range(_FILES):
        accepted, refused = _logged(folder, log, seed, num_requests // _FILES)
        num_accepted, num_refused = num_accepted + accepted, num_refused + refused
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    assert min(num_accepted, num_refused) > num_requests // 20
    assert len(log) == num_accepted
    assert peaks[-1] - peaks[_FILES // 4] < _MAX_GROWTH_BYTES


def test_hundreds_of_malformed_requests(tmp_path: Path) -> None:
    _all_logged(tmp_path, 300)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_thousand_malformed_requests(tmp_path: Path) -> None:
    _all_logged(tmp_path, 10_000)
