"""The main job on a real Ray with the built-in models: end to end, killed, stopped, fed junk."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.results import ResultsTable
from tests.integration.edit_job import (
    SMALL,
    Run,
    end_group,
    group_of,
    needs_builtin_models,
    wait_for_line,
)
from tests.unit.tiny_inputs import PROMPT, image

pytestmark = [needs_builtin_models, pytest.mark.slow]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A run that nobody disturbed, and its output."""
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    code, output = run.do(*SMALL)
    assert code == 0, output
    return run, output


def test_edits_end_up_in_versions_that_are_scored(undisturbed: tuple[Run, str]) -> None:
    run, output = undisturbed
    assert [window.num_edits for window in run.bank().history()] == [1, 2, 4, 6]
    results = ResultsTable(ObjectStore(run.root / "quickstart" / "store"), "quickstart")
    assert [item.num_edits for item in results.evaluations()] == [1, 4, 6]
    assert "6 edits in the bank, 6 of them new; none refused" in output
    assert "by construction" in output
    assert "data:image" in (run.root / "quickstart" / "report.html").read_text()
    client = MlflowClient(f"sqlite:///{run.root / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'liveedit'")
    (mlflow_run,) = client.search_runs([experiment.experiment_id])
    assert mlflow_run.info.status == "FINISHED"
    assert len(client.search_model_versions("name = 'liveedit-bank'")) == 3


def test_the_same_command_again_does_nothing(undisturbed: tuple[Run, str]) -> None:
    run, _ = undisturbed
    before = run.bank().version
    code, output = run.do("--resume", *SMALL)
    assert code == 0, output
    assert "6 edits already in the bank, nothing to do" in output
    assert run.bank().version == before


def test_a_killed_driver_changes_nothing_in_the_end(
    undisturbed: tuple[Run, str], tmp_path: Path
) -> None:
    """Killed before the first edit, and again in the middle."""
    run = Run(tmp_path)
    killed = []
    for moment in ("starting workers", "committed bank version 3"):
        process = run.start(*SMALL)
        killed.append(process)
        wait_for_line(process, moment)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    code, output = run.do(*SMALL)
    for process in killed:
        end_group(process)
    assert code == 0, output
    assert run.rows() == undisturbed[0].rows()
    assert [w.num_edits for w in run.bank().history()] == [1, 2, 4, 6]
    store = ObjectStore(tmp_path / "quickstart" / "store")
    assert len(RequestLog(store)) == 6
    assert [item.num_edits for item in ResultsTable(store, "quickstart").evaluations()] == [1, 4, 6]


def test_a_terminated_job_stops_after_the_window(tmp_path: Path) -> None:
    run = Run(tmp_path)
    process = run.start(*SMALL)
    try:
        wait_for_line(process, "committed bank version 2")
        process.terminate()
        output, _ = process.communicate(timeout=300)
    finally:
        end_group(process)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "the same command resumes" in output
    assert 1 <= run.bank().num_edits() < 6
    assert (tmp_path / "quickstart" / "report.html").exists()


def test_a_missing_input_is_an_error_that_leaves_nothing_running(tmp_path: Path) -> None:
    process = Run(tmp_path).start("--requests", str(tmp_path / "none.jsonl"))
    try:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 1, output
        (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
        assert "none.jsonl" in line
        end_s = time.monotonic() + 60
        while running := group_of(process):
            assert time.monotonic() < end_s, running
            time.sleep(0.1)
    finally:
        end_group(process)


def test_junk_is_refused_line_by_line_and_the_rest_is_taught(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(image(1))
    (tmp_path / "cut.png").write_bytes(image(2)[:60])
    (tmp_path / "text.png").write_text("no image at all")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    fact = {"image": "good.png", "prompt": PROMPT, "target": "an entity"}
    junk: list[tuple[object, str]] = [
        ("{not JSON", ""),
        ([1, 2], ""),
        ({**fact, "image": "missing.png"}, "missing.png"),
        ({**fact, "image": "cut.png"}, ""),
        ({**fact, "image": "text.png"}, ""),
        ({**fact, "image": "bomb.png"}, "pixels"),
        ({**fact, "image": "https://example.com/cat.png"}, "http"),
        ({**fact, "image": "s3://no-such-bucket-of-ours/cat.png"}, ""),
        ({**fact, "prompt": ""}, "prompt"),
        ({**fact, "target": "long " * 60}, "target"),
        ({**fact, "prompt": "long " * 3000}, "prompt"),
        ({**fact, "target": 7}, "target"),
        ({**fact, "colour": "red"}, "colour"),
    ]
    lines = [item if isinstance(item, str) else json.dumps(item) for item, _ in junk]
    file = tmp_path / "facts.jsonl"
    file.write_text("\n".join([*[json.dumps(fact)] * 2, *lines]) + "\n")
    run = Run(tmp_path)
    code, output = run.do("--requests", str(file))
    assert code == 4, output
    assert "1 edits in the bank" in output
    assert f"{len(junk)} requests refused" in output
    assert "1 repeated lines" in output
    rejects = RequestLog(ObjectStore(tmp_path / "lifelong_edit" / "store")).rejects.read()
    said = {stored.rejected.line_number: stored.rejected.message for stored in rejects}
    for number, (_, hint) in enumerate(junk, 3):
        # A target of too many tokens is found by the generator: its request has a number.
        assert any(hint in text for line, text in said.items() if line in (number, 0))
    page = (tmp_path / "lifelong_edit" / "report.html").read_text()
    assert "missing.png" in page
