"""Whatever files arrive, each leaves the inbox: read, or put aside with a receipt."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.inputs.limits import InputLimits
from pipelines.editing.inbox import MAX_TRIES, Inbox, InboxFileError
from tests.unit.tiny_inputs import image

_NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20
).filter(lambda name: name not in (".", "..") and not name.startswith(".tmp-"))
_VALUES = st.none() | st.integers() | st.text(max_size=10) | st.lists(st.text(max_size=3))
_LINES = st.binary(max_size=60) | st.fixed_dictionaries(
    {
        "image": st.sampled_from(["red.png", "../red.png", "file://[x", "s3://b/k", "\0"])
        | _VALUES,
        "prompt": st.just("What is this?") | _VALUES,
        "target": st.just("a rose") | _VALUES,
    }
).map(lambda line: json.dumps(line).encode())
_CONTENTS = st.lists(_LINES, max_size=4).map(b"\n".join)


@settings(max_examples=25, deadline=None)
@given(files=st.dictionaries(_NAMES, _CONTENTS, max_size=3))
@example(files={"\x1b]0;x\x07": b"[" * 50_000, "\u202e": b"\xff" * 2_000})
def test_any_file_is_read_or_put_aside(files: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "in"
        folder.mkdir()
        (folder / "red.png").write_bytes(image(1))
        for name, content in files.items():
            (folder / f"{name}.jsonl").write_bytes(content)
        inbox = Inbox(str(folder), limits=InputLimits(), settle_s=0)
        log = RequestLog(ObjectStore(Path(root) / "store"))
        num_read = num_accepted = 0
        for _ in range(MAX_TRIES):
            for entry in inbox.waiting():
                try:
                    intake = inbox.take(entry, log)
                except InboxFileError:
                    continue
                if intake is not None:
                    num_read, num_accepted = num_read + 1, num_accepted + intake.num_new
        assert inbox.waiting() == []
        assert num_read == len(files)
        assert len(log) == num_accepted
        receipts = [json.loads(f.read_text()) for f in (Path(root) / "in_done").glob("*.json")]
        refused = [line for receipt in receipts for line in receipt["refused"]]
        assert all(line["message"] and line["error_type"] for line in refused)
