"""What a driver left in its spool is delivered by another run, once, and never while it lives."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Run

from infra.tracking.metric_spool import hold_run, left_behind
from infra.tracking.tracker import Tracker

OUTAGE = "nonsense://nowhere"
ROOT = Path(__file__).resolve().parents[4]

DRIVER = """
import os, signal, sys
from pathlib import Path
from infra.tracking.tracker import Tracker
tracker = Tracker(Path(sys.argv[1]), experiment="nightly", run_name="monday")
for step in range(1, 4):
    tracker.log_metrics({"reliability": step / 10}, step=step)
if sys.argv[2] == "ends":
    tracker.end("FAILED")
os.kill(os.getpid(), signal.SIGKILL)
"""


def die_in_an_outage(run_root: Path, monkeypatch: pytest.MonkeyPatch, how: str = "") -> None:
    """A driver that records three metrics while MLflow is away, and is killed."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", OUTAGE)
    subprocess.run([sys.executable, "-c", DRIVER, str(run_root), how], cwd=ROOT, check=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


def run_named(tracker: Tracker, experiment: str, name: str) -> Run:
    client = tracker.connect().client
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id], f"run_name = '{name}'")
    return run


@pytest.mark.parametrize(("how", "status"), [("", "KILLED"), ("ends", "FAILED")])
def test_the_next_run_delivers_in_order_what_a_dead_driver_left(
    run_root: Path, monkeypatch: pytest.MonkeyPatch, how: str, status: str
) -> None:
    die_in_an_outage(run_root, monkeypatch, how)
    tracker = Tracker(run_root, experiment="tests", run_name="tuesday")
    tracker.end()
    run = run_named(tracker, "nightly", "monday")
    history = tracker.connect().client.get_metric_history(run.info.run_id, "reliability")
    assert [(item.step, item.value) for item in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert [item.timestamp for item in history] == sorted(item.timestamp for item in history)
    assert run.info.status == status
    assert tracker.deliver_left_behind() == 0


def test_nothing_is_taken_from_a_driver_that_lives(
    run_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", OUTAGE)
    alive = Tracker(run_root, experiment="nightly", run_name="monday")
    alive.log_metrics({"reliability": 0.5}, step=1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    later = Tracker(run_root, experiment="tests", run_name="tuesday")
    assert later.deliver_left_behind() == 0
    assert alive.flush_spool() == 0
    assert run_named(later, "nightly", "monday").data.metrics == {"reliability": 0.5}


def test_records_of_another_server_wait_for_it(
    run_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_in_an_outage(run_root, monkeypatch)
    run_file = run_root / "mlflow_runs" / "monday.json"
    run_file.write_text('{"tracking_uri": "http://127.0.0.1:9", "run_id": "1"}')
    tracker = Tracker(run_root, experiment="tests", run_name="tuesday")
    assert tracker.deliver_left_behind() == 0
    assert len((run_root / "mlflow_runs" / "monday.spool.jsonl").read_text().splitlines()) == 3


def test_a_name_is_free_when_its_last_holder_lets_go(tmp_path: Path) -> None:
    (tmp_path / "a.spool.jsonl").write_text("{}\n")
    holders = [hold_run(tmp_path, "a", experiment="e") for _ in range(2)]
    holders[0].close()
    assert list(left_behind(tmp_path)) == []
    holders[1].close()
    assert [(run.run_name, run.experiment) for run in left_behind(tmp_path)] == [("a", "e")]
