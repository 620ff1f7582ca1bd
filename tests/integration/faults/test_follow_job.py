"""The continuous mode as a user starts it: the command, the built-in models, a store on S3."""

import json

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.builtin.benchmark import load_builtin_cases
from tests.integration.edit_job import Run, end_group, needs_builtin_models, wait_for_line

pytestmark = [needs_builtin_models, pytest.mark.slow]


def test_facts_that_arrive_on_s3_are_taught_until_a_signal(s3_root: str, run: Run) -> None:
    store = ObjectStore(s3_root)
    edits = [case.edit for case in load_builtin_cases("development")[:3]]
    lines = []
    for number, edit in enumerate(edits):
        store.put(f"inbox/{number}.png", edit.image_bytes or b"")
        fact = {"image": f"{number}.png", "prompt": edit.prompt, "target": edit.target}
        lines.append(json.dumps(fact))
    store.put("inbox/facts.jsonl", "\n".join([*lines, "{not JSON"]).encode())
    process = run.start(
        "--follow",
        f"--store={s3_root}",
        "follow.window_s=0.0",
        "ray.object_store_memory_bytes=100000000",
    )
    try:
        wait_for_line(process, "3 edits in the bank; lag ")
        process.terminate()
        output, _ = process.communicate(timeout=300)
    finally:
        end_group(process)
    assert process.returncode == 0, output
    assert "3 edits in the bank, 3 of them new; 1 requests refused" in output
    bank = ExpertBank.open(store, "main")
    assert bank.edit_ids() == [edit.edit_id for edit in edits]
    assert next(RequestLog(store).read()).request.image_uri == f"{s3_root}/inbox/0.png"
    done = [key for key in store.list("inbox_done/") if key.endswith(".receipt.json")]
    (refused,) = json.loads(store.get(done[0]))["refused"]
    assert refused["line"] == 4
    status = json.loads((run.root / "lifelong_edit" / "follow.json").read_text())
    assert (status["state"], status["num_edits"], status["lag_s"]) == ("ended", 3, 0.0)
    assert (run.root / "lifelong_edit" / "report.html").exists()


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))
