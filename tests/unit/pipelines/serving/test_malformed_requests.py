"""Thousands of malformed HTTP requests: each is refused with a reason, or accepted and true."""

import json
import logging
import random
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from infra.requests.request_log import RequestLog
from tests.malformed_requests import CHAT, EDITS, Call, call, data_uris, write_images
from tests.running_server import Place

_MAX_GROWTH_BYTES = 64 * 1024 * 1024
_TENTHS = 10


def _check_edits(client: TestClient, asked: Call, content: dict[str, Any]) -> int:
    """Every accepted edit is in the log as it was sent, every other has a reason; how many."""
    sent = json.loads(asked.body)
    num_accepted = 0
    for one, row in zip(sent.get("edits", [sent]), content["data"], strict=True):
        if row["status"] == "refused":
            assert row["reason"]
            continue
        stored = client.get(f"{EDITS}/{row['id']}").json()
        assert (stored["prompt"], stored["target"]) == (one["prompt"], one["target"])
        num_accepted += row["is_new"]
    return num_accepted


def _ask_all(place: Place, folder: Path, num_requests: int, caplog: Any) -> None:
    caplog.set_level(logging.ERROR)
    write_images(folder)
    images = data_uris(folder)
    draw = random.Random(7)
    statuses: Counter[int] = Counter()
    accepted, peaks = 0, []
    log = RequestLog(place.operations.store)
    num_before = len(log)
    with place.client() as client:
        for number in range(num_requests):
            asked = call(draw, number, images)
            answer = client.request(
                asked.method, asked.path, content=asked.body, headers=asked.headers
            )
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, (asked, answer.text)
            if answer.status_code >= 400 and asked.method != "HEAD":
                content = answer.json()
                if "error" in content:
                    assert content["error"]["message"], asked
                else:
                    assert all(row["reason"] for row in content["data"]), asked
            elif asked.path == CHAT and answer.headers["content-type"] == "application/json":
                (choice, *_) = answer.json()["choices"]
                assert isinstance(choice["message"]["content"], str)
            elif answer.status_code == 201:
                accepted += _check_edits(client, asked, answer.json())
            if (number + 1) % (num_requests // _TENTHS) == 0:
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        assert client.get("/ready").json()["status"] == "ready"
    assert len(log) == num_before + accepted
    refused = sum(count for status, count in statuses.items() if status >= 400)
    assert min(num_requests - refused, refused, accepted) > num_requests // 50, statuses
    assert not [record for record in caplog.records if record.exc_info]
    assert peaks[-1] - peaks[_TENTHS // 4] < _MAX_GROWTH_BYTES


def test_hundreds_of_malformed_requests(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _ask_all(place, tmp_path, 300, caplog)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_thousand_malformed_requests(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _ask_all(place, tmp_path, 10_000, caplog)
