"""One MLflow run, written so that an MLflow outage never stops or slows a job.

Every record goes to a spool file first and from there to MLflow, in order. During an outage records
wait in the file, also for a restarted run. Records that MLflow rejects for good (a parameter that
changed) move to a file beside the spool, with the reason; all others to `<run>.sent`, from which a
run is made again that was deleted with its experiment or database, or without them. On a
full disk records wait in memory. Only the driver uses it.
"""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra._compat import keep_mlflow_from_making_folders, limit_mlflow_database_retries
from infra.tracking.line_files import LineFiles, RejectedRecordError, parsed
from infra.tracking.moved_folder import follow_folder
from liveedit_core.errors import ConfigError, TrackingError
from liveedit_core.masking import masked

if TYPE_CHECKING:
    from mlflow import MlflowClient

_RETRY_INTERVAL_S = 30.0
_MAX_RETRY_FRACTION = 0.1
"""At most this fraction of the time during an outage goes into retries."""
_REJECTED_CODES = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})
_DELETED_CODES = _REJECTED_CODES | {"RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
_MOST_PARAMS = 100
"""MLflow takes so many at once."""
_ARTIFACTS = "mlflow_artifacts"
_DEFAULT = "mlflow.db"
"""Stands in a run's file for the database of its root, wherever that is moved."""
_DAMAGED = ("file is not a database", "image is malformed", "no such table", "no such column")
_MOVE_AWAY = (
    "The database is damaged: move it away, and the next start of each run makes it again from "
    "mlflow_runs"
)
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""Defaults that the environment overrides. MLflow would retry for minutes; the spool retries."""

_logger = logging.getLogger(__name__)


class _DeletedRunError(TrackingError):
    """The run was deleted in MLflow."""


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
        self._sent_file = state / f"{run_name}.sent"
        self._unspooled: list[str] = []
        """Records that the full disk did not take."""
        self._files = LineFiles()
        self._connection: Connection | None = None
        self._retry_at_s = 0.0
        with _run_folder_errors(state):
            state.mkdir(parents=True, exist_ok=True)

    @property
    def tracking_uri(self) -> str:
        return default_tracking_uri(self._root)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings of the run; MLflow keeps the first value of a name."""
        if params:
            self._record({"kind": "params", "values": {k: str(v) for k, v in params.items()}})

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

    def hold(self) -> None:
        """Let records wait in the spool until `flush_spool` or `end`: MLflow starts slowly."""
        self._retry_at_s = math.inf

    def flush_spool(self) -> int:
        """Send what waits, now; returns how many records still wait."""
        self._retry_at_s = 0.0
        return self._send_spool()

    @property
    def run_id(self) -> str:
        """Of the run in MLflow, "" before there is one; another one after it was made again."""
        return str(self._known_run().get("run_id", ""))

    def connect(self) -> Connection:
        """The run on its server, created or found at the first call; TrackingError in an outage."""
        if self._connection is None:
            try:
                self._connection = self._open_run()
            except Exception as error:  # MLflow lets errors of many libraries through
                is_damaged = any(words in str(error) for words in _DAMAGED)
                cure = f". {_MOVE_AWAY}" if is_damaged else ""
                raise TrackingError(f"MLflow at {self.tracking_uri}: {error}{cure}") from error
        return self._connection

    def _open_run(self) -> Connection:
        uri = self.tracking_uri
        if uri == _database_uri(self._root):
            before = follow_folder(self._root / _DEFAULT, self._root / _ARTIFACTS)
            if before:
                _logger.warning("MLflow's artifacts were in %s and are found here now", before)
        client = open_client(uri)
        is_default = uri == _database_uri(self._root)
        artifacts = (self._root / _ARTIFACTS).as_uri() if is_default else None
        experiment = client.get_experiment_by_name(self._experiment)
        experiment_id: str = (
            experiment.experiment_id
            if experiment
            else client.create_experiment(self._experiment, artifact_location=artifacts)
        )
        if experiment and experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment_id)
            _logger.warning("MLflow's experiment %r was deleted: restored", self._experiment)
        known = self._known_run()
        # The default database moves with its folder.
        place = _DEFAULT if is_default else masked(uri)
        before = masked(str(known.get("tracking_uri", "")))
        is_known = before == place or (is_default and before.endswith(f"/{_DEFAULT}"))
        run_id = str(known.get("run_id", "")) if is_known else ""
        if run_id and _is_deleted(client, run_id):
            sent = self._files.lines(self._sent_file)
            _logger.warning(
                "MLflow's run %r (%s) was deleted: made again from its %d records",
                self._run_name,
                run_id,
                len(sent),
            )
            again = [line for record in sent if (line := _sent_again(record))]
            if not self._files.rewrite(
                self._spool_file, [*again, *self._files.lines(self._spool_file)]
            ):
                raise TrackingError(f"{self._spool_file} cannot be written")
            self._sent_file.unlink(missing_ok=True)
            run_id = ""
        if run_id:
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = client.create_run(experiment_id, run_name=self._run_name).info.run_id
            self._files.rewrite(
                self._run_file, [json.dumps({"tracking_uri": place, "run_id": run_id})]
            )
        return Connection(client, uri, experiment_id, run_id)

    def _known_run(self) -> dict[str, Any]:
        try:
            found = json.loads(self._run_file.read_text())
        except (OSError, ValueError):  # none yet, or a file that a full disk cut
            return {}
        return found if isinstance(found, dict) else {}

    def _record(self, *records: dict[str, Any]) -> None:
        now_ms = int(time.time() * 1000)
        self._unspooled += [masked(json.dumps({**record, "time_ms": now_ms})) for record in records]
        self._send_spool()

    def _spool(self) -> None:
        """Write what is in memory to the spool, unless the disk is full."""
        if self._unspooled and self._files.append(self._spool_file, self._unspooled):
            self._unspooled = []

    def _send_spool(self) -> int:
        """Send in order until the spool is empty or MLflow fails; returns how many are left."""
        self._spool()
        num_left = len(self._files.lines(self._spool_file)) + len(self._unspooled)
        if not num_left or time.monotonic() < self._retry_at_s:
            return num_left
        if self._send_waiting():
            self._send_waiting()
        return len(self._files.lines(self._spool_file)) + len(self._unspooled)

    def _send_waiting(self) -> bool:
        """Whether the run was found deleted: the next call makes it again."""
        num_sent = num_spooled = 0
        is_deleted = False
        start_s = time.monotonic()
        lines: list[str] = []
        try:
            connection = self.connect()  # a run that is made again fills the spool
            lines = self._files.lines(self._spool_file)
            num_spooled = len(lines)
            lines += self._unspooled
            for line in lines:
                self._send_or_reject(connection, line)
                num_sent += 1
        except _DeletedRunError:
            is_deleted, self._connection = True, None
        except TrackingError as error:
            now_s = time.monotonic()
            pause_s = max(_RETRY_INTERVAL_S, (now_s - start_s) / _MAX_RETRY_FRACTION)
            self._retry_at_s = now_s + pause_s
            self._connection = None
            _logger.warning(
                "%d records wait in %s: %s", len(lines) - num_sent, self._spool_file, error
            )
        if num_sent:
            self._files.append(self._sent_file, lines[:num_sent])
            if self._files.rewrite(self._spool_file, lines[num_sent:]):
                self._unspooled = []
            else:  # what stays in the file is sent again, which counts once
                self._unspooled = self._unspooled[max(num_sent - num_spooled, 0) :]
        return is_deleted

    def _send_or_reject(self, connection: Connection, line: str) -> None:
        try:
            _send(connection, line)
        except RejectedRecordError as error:
            if alone := _each_param(line):
                for one in alone:
                    self._send_or_reject(connection, one)
                return
            _logger.warning("MLflow rejected a record: %s", error)
            self._files.append(
                self._rejected_file, [json.dumps({"record": line, "reason": error.message})]
            )


def default_tracking_uri(run_root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the database that all runs under this root share."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _database_uri(run_root)


def _database_uri(run_root: Path) -> str:
    path = str(run_root.absolute() / _DEFAULT)
    return f"sqlite:///{path.replace('%', '%25').replace('?', '%3F')}"


def _sent_again(line: str) -> str:
    """A record for a run that is made again: it runs, and its models get new ids; "" for none."""
    try:
        record = parsed(line)
    except RejectedRecordError:
        return ""
    record.pop("model_id", None)
    return "" if record.get("kind") == "end" else json.dumps(record)


def _each_param(line: str) -> list[str]:
    """A record for each parameter of a record of several; none of any other record."""
    try:
        record = parsed(line)
        values = record["values"] if record.get("kind") == "params" else {}
        return [json.dumps({"kind": "param", "key": k, "value": v}) for k, v in values.items()]
    except (RejectedRecordError, LookupError, AttributeError):
        return []


def _is_deleted(client: "MlflowClient", run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "deleted")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return True  # the second of an id that MLflow never gave
        raise


@contextlib.contextmanager
def _run_folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"run_root: {folder} cannot be made: {error.strerror}") from error


def open_client(tracking_uri: str) -> "MlflowClient":
    """A client with telemetry off and short timeouts; importing MLflow takes seconds."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    if not tracking_uri.startswith("http"):
        from mlflow.store.db import utils as db_utils

        limit_mlflow_database_retries(db_utils)
        keep_mlflow_from_making_folders(db_utils)
        logging.getLogger(db_utils.__name__).setLevel(logging.CRITICAL)
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
    from mlflow.entities import Param

    client, run_id = connection.client, connection.run_id
    kind = record["kind"]
    if kind == "params":
        params = [Param(key, value) for key, value in record["values"].items()]
        for start in range(0, len(params), _MOST_PARAMS):
            client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])
    elif kind == "param":
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
        _deliver(connection, parsed(line))
    except RejectedRecordError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
        raise RejectedRecordError(f"unreadable record or missing file: {error!r}") from error
    except MlflowException as error:
        if error.error_code in _DELETED_CODES and _is_deleted(connection.client, connection.run_id):
            raise _DeletedRunError(f"run {connection.run_id}: {error}") from error
        if error.error_code in _REJECTED_CODES:
            raise RejectedRecordError(str(error)) from error
        raise TrackingError(f"MLflow at {connection.tracking_uri}: {error}") from error
    except Exception as error:  # MLflow lets errors of many libraries through
        raise TrackingError(f"MLflow at {connection.tracking_uri}: {error}") from error
