"""`--from FILE`: what is no list of edits is refused at once."""

import os
import sys
from pathlib import Path

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from pipelines.cli.main import main
from tests.small_rows import SMALL_IDENTITY, small_request

GIB = 1024**3


def refusal(store: ObjectStore, file: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `bank remove` says."""
    RequestLog(store).append([small_request("flag", "red")])
    ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    assert main(["bank", "remove", "--store", store.root_uri, "--from", file]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("/dev/zero", "is a pipe or device; expected a file"),
        ("pipe", "is a pipe or device; expected a file"),
        ("folder", "is a folder; expected a file"),
        ("sparse", "line 1: longer than 1,048,576 bytes"),
        ("long", "line 2: longer than 1,000 bytes"),
        ("short", "no edit of the request log"),
        ("binary", "line 1: not UTF-8"),
        ("missing", "No such file or directory"),
    ],
)
def test_what_is_no_list_of_edits_is_refused(
    store: ObjectStore,
    tmp_path: Path,
    kind: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("sparse", "long"):
        path.write_text("abcdef\n" if kind == "long" else "")
        os.truncate(path, 10 * GIB)
    elif kind == "short":
        path.write_text("abcdef\n")
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe\n")
    assert reason in refusal(store, str(path), capsys)  # of /dev/zero the join is itself


def test_an_endless_line_on_stdin_is_refused(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/zero") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        said = refusal(store, "-", capsys)
    assert "stdin, line 1: longer than 1,000 bytes" in said
