"""One MLflow run, written so that an MLflow outage never stops or slows a job.

Every record goes to a spool file first and from there to MLflow, in order. During an outage records
wait in the file, also for a restarted run. Records that MLflow rejects for good (a parameter that
changed) move to a file beside the spool, with the reason. Only the driver uses it.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra._compat import limit_mlflow_database_retries
from liveedit_core.errors import LiveEditError, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_RETRY_INTERVAL_S = 30.0
_MAX_RETRY_FRACTION = 0.1
"""At most this fraction of the time during an outage goes into retries."""
_REJECTED_CODES = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""Defaults that the environment overrides. MLflow would retry for minutes; the spool retries."""

_logger = logging.getLogger(__name__)


class RejectedRecordError(LiveEditError):
    """MLflow will never accept this record."""


@dataclass(frozen=True)
class Connection:
    """A run on a tracking server that answered."""

    client: "MlflowClient"
    tracking_uri: str
    experiment_id: str
    run_id: str


class Tracker:
    """The MLflow run of a job; the same root and name continue the same run."""

    def __init__(self, run_root: Path, *, experiment: str, run_name: str) -> None:
        root = run_root.absolute()
        state = root / "mlflow_runs"
        self._root = root
        self._experiment = experiment
        self._run_name = run_name
        self._run_file = state / f"{run_name}.json"
        self._spool_file = state / f"{run_name}.spool.jsonl"
        self._rejected_file = state / f"{run_name}.refused.jsonl"
        self._connection: Connection | None = None
        self._retry_at_s = 0.0
        state.mkdir(parents=True, exist_ok=True)
        waiting = self._spool_file.read_text() if self._spool_file.exists() else ""
        if waiting and not waiting.endswith("\n"):
            with self._spool_file.open("a") as file:
                file.write("\n")  # complete the line that a killed predecessor did not

    @property
    def tracking_uri(self) -> str:
        return default_tracking_uri(self._root)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings of the run; MLflow keeps the first value of a name."""
        self._record(*({"kind": "param", "key": k, "value": str(v)} for k, v in params.items()))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, model_id: str = "") -> None:
        """Record metrics of the run and, with `model_id`, of that LoggedModel as well. `step` is
        the number of edits or the training step."""
        values = {name: float(value) for name, value in metrics.items()}
        record = {"kind": "metrics", "values": values, "step": step}
        self._record({**record, "model_id": model_id} if model_id else record)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Record a file; it must not be moved until the spool is empty."""
        self._record({"kind": "artifact", "path": str(path.absolute()), "folder": folder})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record tags; the last value of a name wins."""
        self._record(*({"kind": "tag", "key": k, "value": str(v)} for k, v in tags.items()))

    def end(self, status: str = "FINISHED") -> None:
        """Record how the run ended ("FINISHED", "FAILED", "KILLED") and send what waits."""
        self._record({"kind": "end", "status": status})
        self.flush_spool()

    def flush_spool(self) -> int:
        """Send what waits, now; returns how many records still wait."""
        self._retry_at_s = 0.0
        return self._send_spool()

    def connect(self) -> Connection:
        """The run on its server, created or found at the first call; TrackingError in an outage."""
        if self._connection is None:
            try:
                self._connection = self._open_run()
            except Exception as error:  # MLflow lets errors of many libraries through
                raise TrackingError(f"MLflow at {self.tracking_uri}: {error}") from error
        return self._connection

    def _open_run(self) -> Connection:
        uri = self.tracking_uri
        client = open_client(uri)
        is_default = uri == _database_uri(self._root)
        artifacts = (self._root / "mlflow_artifacts").as_uri() if is_default else None
        experiment = client.get_experiment_by_name(self._experiment)
        experiment_id: str = (
            experiment.experiment_id
            if experiment
            else client.create_experiment(self._experiment, artifact_location=artifacts)
        )
        known = json.loads(self._run_file.read_text()) if self._run_file.exists() else {}
        if known.get("tracking_uri") == uri:
            run_id: str = known["run_id"]
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = client.create_run(experiment_id, run_name=self._run_name).info.run_id
            self._run_file.write_text(json.dumps({"tracking_uri": uri, "run_id": run_id}))
        return Connection(client, uri, experiment_id, run_id)

    def _record(self, *records: dict[str, Any]) -> None:
        now_ms = int(time.time() * 1000)
        with self._spool_file.open("a") as file:
            file.writelines(json.dumps({**record, "time_ms": now_ms}) + "\n" for record in records)
        self._send_spool()

    def _send_spool(self) -> int:
        """Send in order until the spool is empty or MLflow fails; returns how many are left."""
        lines = self._spool_file.read_text().splitlines() if self._spool_file.exists() else []
        if not lines or time.monotonic() < self._retry_at_s:
            return len(lines)
        num_sent = 0
        start_s = time.monotonic()
        try:
            connection = self.connect()
            for line in lines:
                self._send_or_reject(connection, line)
                num_sent += 1
        except TrackingError as error:
            now_s = time.monotonic()
            pause_s = max(_RETRY_INTERVAL_S, (now_s - start_s) / _MAX_RETRY_FRACTION)
            self._retry_at_s = now_s + pause_s
            self._connection = None
            _logger.warning(
                "%d records wait in %s: %s", len(lines) - num_sent, self._spool_file, error
            )
        waiting = lines[num_sent:]
        if num_sent:
            temporary = self._spool_file.with_suffix(".tmp")
            temporary.write_text("".join(f"{line}\n" for line in waiting))
            temporary.replace(self._spool_file)
        return len(waiting)

    def _send_or_reject(self, connection: Connection, line: str) -> None:
        try:
            _send(connection, line)
        except RejectedRecordError as error:
            _logger.warning("MLflow rejected a record: %s", error)
            with self._rejected_file.open("a") as file:
                file.write(json.dumps({"record": line, "reason": error.message}) + "\n")


def default_tracking_uri(run_root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the database that all runs under this root share."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _database_uri(run_root)


def _database_uri(run_root: Path) -> str:
    return f"sqlite:///{run_root.absolute() / 'mlflow.db'}"


def open_client(tracking_uri: str) -> "MlflowClient":
    """A client with telemetry off and short timeouts; importing MLflow takes seconds."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    if not tracking_uri.startswith("http"):
        from mlflow.store.db import utils as db_utils

        limit_mlflow_database_retries(db_utils)
        logging.getLogger(db_utils.__name__).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def log_metrics(
    connection: Connection,
    values: Mapping[str, float],
    *,
    step: int,
    model_id: str | None = None,
    time_ms: int | None = None,
) -> None:
    """Send metrics of the run, and of a LoggedModel; measured now unless `time_ms` is given."""
    from mlflow.entities import Metric

    when = int(time.time() * 1000) if time_ms is None else time_ms
    metrics = [Metric(k, float(v), when, step, model_id=model_id) for k, v in values.items()]
    connection.client.log_batch(connection.run_id, metrics=metrics)


def _deliver(connection: Connection, record: dict[str, Any]) -> None:
    client, run_id = connection.client, connection.run_id
    kind = record["kind"]
    if kind == "param":
        client.log_param(run_id, record["key"], record["value"])
    elif kind == "tag":
        client.set_tag(run_id, record["key"], record["value"])
    elif kind == "metrics":
        log_metrics(
            connection,
            record["values"],
            step=record["step"],
            model_id=record.get("model_id"),
            time_ms=record["time_ms"],
        )
    elif kind == "artifact":
        if not Path(record["path"]).is_file():
            raise FileNotFoundError(record["path"])
        client.log_artifact(run_id, record["path"], record["folder"] or None)
    elif kind == "end":
        client.set_terminated(run_id, record["status"], record["time_ms"])
    else:
        raise ValueError(f"unknown kind {kind!r}")


def _send(connection: Connection, line: str) -> None:
    """Send one record; TrackingError if it must be sent again."""
    from mlflow.exceptions import MlflowException

    try:
        _deliver(connection, json.loads(line))
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise RejectedRecordError(f"unreadable record or missing file: {error!r}") from error
    except MlflowException as error:
        if error.error_code in _REJECTED_CODES:
            raise RejectedRecordError(str(error)) from error
        raise TrackingError(f"MLflow at {connection.tracking_uri}: {error}") from error
    except Exception as error:  # MLflow lets errors of many libraries through
        raise TrackingError(f"MLflow at {connection.tracking_uri}: {error}") from error
