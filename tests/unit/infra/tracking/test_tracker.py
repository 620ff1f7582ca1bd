"""The tracker delivers to a real MLflow database, and waits for one that is away."""

import json
import resource
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from infra.tracking.tracker import Tracker
from liveedit_core.errors import TrackingError


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


def test_what_is_held_is_sent_in_order_later(run_root: Path) -> None:
    tracker = make_tracker(run_root)
    tracker.hold()
    tracker.log_params({"seed": 7})
    tracker.log_params({"seed": 8})
    assert len(spool(run_root).splitlines()) == 2
    assert tracker.run_id == ""
    assert tracker.flush_spool() == 0
    tracker.set_tags({"git": "abc"})
    assert spool(run_root) == ""
    found = run_of(tracker).data
    assert (found.params, found.tags["git"]) == ({"seed": "7"}, "abc")


def test_settings_are_one_record_and_a_record_for_each_is_still_read(run_root: Path) -> None:
    folder = run_root / "mlflow_runs"
    folder.mkdir()
    earlier = '{"kind": "param", "key": "seed", "value": "7", "time_ms": 1}'
    (folder / "run-1.spool.jsonl").write_text(f"{earlier}\n")
    tracker = make_tracker(run_root)
    tracker.log_params({f"setting.{number}": number for number in range(150)})
    found = run_of(tracker).data.params
    assert found == {"seed": "7"} | {f"setting.{number}": str(number) for number in range(150)}
    assert len((folder / "run-1.sent").read_text().splitlines()) == 2


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


_NO_RECORDS = b'\xff\xfe\n[1]\n5\nnull\n{}\n{"kind": 5}\n' + b"[" * 100_000 + b"\n"
_WRONG_VALUES = b'{"kind": "metrics", "values": 5, "step": "a", "time_ms": 1}\n{"kind": "tag"}\n'


def test_lines_that_are_no_records_hold_up_no_others(run_root: Path) -> None:
    folder = run_root / "mlflow_runs"
    folder.mkdir()
    (folder / "run-1.spool.jsonl").write_bytes(_NO_RECORDS + _WRONG_VALUES)
    tracker = make_tracker(run_root)
    tracker.log_metrics({"a": 1.0}, step=1)
    assert run_of(tracker).data.metrics == {"a": 1.0}
    assert spool(run_root) == ""
    assert len((folder / "run-1.refused.jsonl").read_text().splitlines()) == 9


def test_a_damaged_journal_gives_what_it_still_holds(run_root: Path) -> None:
    tracker = make_tracker(run_root)
    tracker.log_metrics({"a": 1.0}, step=1)
    connection = tracker.connect()
    connection.client.delete_run(connection.run_id)
    journal = run_root / "mlflow_runs" / "run-1.sent"
    journal.write_bytes(_NO_RECORDS + journal.read_bytes())
    assert run_of(make_tracker(run_root)).info.run_id != connection.run_id
    again = make_tracker(run_root)
    assert again.flush_spool() == 0
    assert run_of(again).data.metrics == {"a": 1.0}


@pytest.mark.parametrize("name", ["spool.jsonl", "sent", "json"])
def test_a_file_of_a_run_that_cannot_be_used_stops_nothing(
    run_root: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_tracker(run_root).log_metrics({"a": 1.0}, step=1)
    file = run_root / "mlflow_runs" / f"run-1.{name}"
    file.unlink()
    file.mkdir()
    tracker = make_tracker(run_root)
    tracker.log_metrics({"b": 2.0}, step=2)
    assert run_of(tracker).data.metrics["b"] == 2.0
    assert 1 <= len([text for text in caplog.messages if "cannot be used" in text]) <= 2


def test_an_id_that_mlflow_never_gave_is_no_run(run_root: Path) -> None:
    make_tracker(run_root).log_metrics({"a": 1.0}, step=1)
    file = run_root / "mlflow_runs" / "run-1.json"
    file.write_text(json.dumps({"tracking_uri": "mlflow.db", "run_id": "../../etc"}))
    assert run_of(make_tracker(run_root)).info.status == "RUNNING"


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_damaged_database_says_what_to_do_and_is_made_again(
    run_root: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    make_tracker(run_root).log_metrics({"a": 1.0}, step=1)
    database = run_root / "mlflow.db"
    database.write_bytes(content)
    make_tracker(run_root).log_metrics({"a": 2.0}, step=2)
    assert "The database is damaged: move it away" in caplog.text
    database.unlink()
    moved = run_root.rename(
        run_root.with_name(f"{run_root.name}-moved")
    )  # MLflow remembers a database by its place
    again = make_tracker(moved)
    assert again.flush_spool() == 0
    assert history_of(again, "a") == [(1, 1.0), (2, 2.0)]


def test_records_sent_twice_after_a_kill_count_once(run_root: Path) -> None:
    tracker = make_tracker(run_root)
    path = run_root / "mlflow_runs" / "run-1.spool.jsonl"
    record = {"kind": "metrics", "values": {"a": 1.0}, "step": 1, "time_ms": 1000}
    for _ in range(2):
        path.write_text(json.dumps(record) + "\n")
        assert tracker.flush_spool() == 0
    connection = tracker.connect()
    assert len(connection.client.get_metric_history(connection.run_id, "a")) == 1


def history_of(tracker: Tracker, name: str) -> list[tuple[int, float]]:
    connection = tracker.connect()
    found = connection.client.get_metric_history(connection.run_id, name)
    return [(metric.step, metric.value) for metric in found]


@pytest.mark.parametrize("deleted", ["run", "experiment", "database"])
@pytest.mark.parametrize("is_resumed", [True, False])
def test_what_was_deleted_in_mlflow_is_made_again_and_said_once(
    run_root: Path, deleted: str, is_resumed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make_tracker(run_root)
    tracker.log_params({"seed": 7})
    tracker.log_metrics({"a": 0.5}, step=1)
    connection = tracker.connect()
    if deleted == "run":
        connection.client.delete_run(connection.run_id)
    elif deleted == "experiment":
        connection.client.delete_experiment(connection.experiment_id)
    else:
        empty_database(run_root)
    if is_resumed:
        tracker = make_tracker(run_root)
    tracker.log_metrics({"a": 0.75}, step=2)
    tracker.end()
    assert tracker.flush_spool() == 0
    again = make_tracker(run_root)
    assert run_of(again).data.params == {"seed": "7"}
    assert run_of(again).info.lifecycle_stage == "active"
    assert history_of(again, "a") == [(1, 0.5), (2, 0.75)]
    said = [record for record in caplog.records if "was deleted" in record.getMessage()]
    assert len(said) == 1


def empty_database(run_root: Path) -> None:
    """As one that was deleted and made anew; this process keeps the deleted file open."""
    with closing(sqlite3.connect(run_root / "mlflow.db")) as link, link:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs", "experiments"):
            link.execute(f"DELETE FROM {table}")


@pytest.mark.parametrize("name", ["what?", "50%25 off", "a#b", "Grüße und Küsse"])
def test_the_database_is_in_the_run_root_whatever_its_name(
    run_root: Path, tmp_path: Path, name: str
) -> None:
    named = tmp_path / "in" / name
    shutil.copytree(run_root, named)
    before = (named / "mlflow.db").read_bytes()
    tracker = make_tracker(named)
    tracker.log_metrics({"a": 0.5}, step=1)
    assert tracker.flush_spool() == 0
    assert (named / "mlflow.db").read_bytes() != before
    assert [path.name for path in (tmp_path / "in").iterdir()] == [name]


def test_a_run_root_that_was_moved_continues_its_runs(run_root: Path, tmp_path: Path) -> None:
    shutil.copytree(run_root, tmp_path / "old")
    tracker = make_tracker(tmp_path / "old")
    tracker.log_metrics({"a": 0.5}, step=1)
    report = tmp_path / "report.html"
    report.write_text("first")
    run_id = tracker.connect().run_id
    (tmp_path / "old").rename(tmp_path / "new")
    moved = make_tracker(tmp_path / "new")
    moved.log_artifact(report)
    assert moved.connect().run_id == run_id
    assert history_of(moved, "a") == [(1, 0.5)]
    assert len(list((tmp_path / "new" / "mlflow_artifacts").rglob("report.html"))) == 1
    assert not (tmp_path / "old").exists()


def test_a_full_disk_stops_nothing_and_is_said_once(
    run_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make_tracker(run_root)
    tracker.log_metrics({"a": 0.5}, step=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        tracker.log_metrics({"a": 0.75}, step=2)
        tracker.log_metrics({"a": 0.875}, step=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = [text for text in caplog.messages if "spool.jsonl cannot be used" in text]
    assert len(said) == 1
    assert tracker.flush_spool() == 0
    assert history_of(tracker, "a") == [(1, 0.5), (2, 0.75), (3, 0.875)]


def test_passwords_of_a_server_are_never_shown(
    run_root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://anna:s3cret@127.0.0.1:9/x")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = make_tracker(run_root)
    tracker.log_params({"uri": tracker.tracking_uri})
    with pytest.raises(TrackingError, match=r"http://\*\*\*@127") as caught:
        tracker.connect()
    written = "".join(path.read_text() for path in (run_root / "mlflow_runs").iterdir())
    assert "s3cret" not in str(caught.value) + caplog.text + written
