"""The tracker delivers to a real MLflow database, and waits for one that is away."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from infra.tracking.tracker import Tracker


def run_of(tracker: Tracker) -> Run:
    connection = tracker.connect()
    return MlflowClient(connection.tracking_uri).get_run(connection.run_id)


def make_tracker(run_root: Path, run_name: str = "run-1") -> Tracker:
    return Tracker(run_root, experiment="tests", run_name=run_name)


def spool(run_root: Path) -> str:
    return (run_root / "mlflow_runs" / "run-1.spool.jsonl").read_text()


def test_records_reach_the_run(run_root: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<p>done</p>")
    tracker = make_tracker(run_root)
    tracker.log_params({"seed": 7, "store.root": "/x"})
    tracker.log_metrics({"reliability": 0.5, "modal_locality": 1.0}, step=10)
    tracker.log_metrics({"reliability": 0.75}, step=100)
    tracker.set_tags({"git": "abc"})
    tracker.log_artifact(report, "reports")
    tracker.end()
    run = run_of(make_tracker(run_root))
    connection = tracker.connect()
    history = connection.client.get_metric_history(connection.run_id, "reliability")
    assert [(metric.step, metric.value) for metric in history] == [(10, 0.5), (100, 0.75)]
    assert run.data.params == {"seed": "7", "store.root": "/x"}
    assert run.data.tags["git"] == "abc"
    (stored,) = (run_root / "mlflow_artifacts").rglob("report.html")
    assert stored.read_text() == "<p>done</p>"
    assert stored.parent.name == "reports"
    assert spool(run_root) == ""


def test_the_run_ends_with_its_status_and_goes_on_after_resuming(run_root: Path) -> None:
    tracker = make_tracker(run_root)
    tracker.end("KILLED")
    run_id = tracker.connect().run_id
    assert tracker.connect().client.get_run(run_id).info.status == "KILLED"
    again = make_tracker(run_root)
    assert again.connect().run_id == run_id
    assert again.connect().client.get_run(run_id).info.status == "RUNNING"
    assert make_tracker(run_root, "run-2").connect().run_id != run_id


def test_an_outage_spools_and_a_later_process_delivers(run_root: Path) -> None:
    database = run_root / "mlflow.db"
    database.rename(run_root / "away.db")
    database.mkdir()  # nothing can open a database here
    tracker = make_tracker(run_root)
    tracker.log_params({"seed": 7})
    tracker.log_metrics({"reliability": 0.5}, step=1)
    assert tracker.flush_spool() == 2
    tracker.end()

    database.rmdir()
    (run_root / "away.db").rename(database)
    later = make_tracker(run_root)
    assert later.flush_spool() == 0
    run = run_of(later)
    assert run.data.params == {"seed": "7"}
    assert run.data.metrics == {"reliability": 0.5}
    assert spool(run_root) == ""


def test_during_an_outage_not_every_record_waits_for_the_server(
    run_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    tracker = make_tracker(run_root)
    tracker.log_metrics({"a": 1.0}, step=1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracker.log_metrics({"a": 2.0}, step=2)  # too soon to try again
    assert len(spool(run_root).splitlines()) == 2
    assert tracker.flush_spool() == 0


def test_a_record_that_mlflow_refuses_does_not_hold_up_the_others(run_root: Path) -> None:
    tracker = make_tracker(run_root)
    tracker.log_params({"seed": 7})
    tracker.log_params({"seed": 8, "other": 1})
    tracker.log_artifact(run_root / "not there")
    tracker.log_metrics({"a": 1.0}, step=1)
    run = run_of(tracker)
    assert run.data.params == {"seed": "7", "other": "1"}
    assert run.data.metrics == {"a": 1.0}
    refused = (run_root / "mlflow_runs" / "run-1.refused.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["reason"] for line in refused]
    assert "Changing param values is not allowed" in reasons[0]
    assert "not there" in reasons[1]


def test_a_spool_line_cut_by_a_kill_is_set_aside(run_root: Path) -> None:
    folder = run_root / "mlflow_runs"
    folder.mkdir()
    (folder / "run-1.spool.jsonl").write_text('{"kind": "param", "ke')
    tracker = make_tracker(run_root)
    tracker.log_metrics({"a": 1.0}, step=1)
    assert run_of(tracker).data.metrics == {"a": 1.0}
    assert "unreadable record" in (folder / "run-1.refused.jsonl").read_text()


def test_records_sent_twice_after_a_kill_count_once(run_root: Path) -> None:
    tracker = make_tracker(run_root)
    path = run_root / "mlflow_runs" / "run-1.spool.jsonl"
    record = {"kind": "metrics", "values": {"a": 1.0}, "step": 1, "time_ms": 1000}
    for _ in range(2):
        path.write_text(json.dumps(record) + "\n")
        assert tracker.flush_spool() == 0
    connection = tracker.connect()
    assert len(connection.client.get_metric_history(connection.run_id, "a")) == 1
