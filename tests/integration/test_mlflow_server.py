"""A real MLflow server with passwords that alone holds the artifacts; and what its outage loses."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlflow.artifacts
import pytest
from mlflow import MlflowClient

from infra.bank.expert_bank import ExpertBank
from infra.reports.plots import Line, draw_by_num_edits
from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import BANK_MODEL, ModelRegistry
from infra.tracking.tracker import Tracker
from liveedit_core.errors import TrackingError
from pipelines.operations.open_editor import open_editor
from tests.integration.conftest import free_ports, wait_until_ready
from tests.small_rows import SMALL_IDENTITY, small_row
from tests.tiny_backbone import tiny_backbone
from tests.unit.tiny_operations import Operations, SyntheticEvaluation, some_cases

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import os, signal, sys
from pathlib import Path
from infra.tracking.tracker import Tracker
tracker = Tracker(Path(sys.argv[1]), experiment="outage", run_name="killed")
for step in range(1, 4):
    tracker.log_metrics({"reliability": step / 10}, step=step)
os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass
class MlflowServer:
    """`mlflow server` with basic authentication and artifact proxying, on loopback."""

    folder: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client_environment(self) -> dict[str, str]:
        """What a job needs to know; nothing of it is in any file of the project."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": "tests",
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the spool tries again; sooner over
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "120",  # where the machine is busy
        }

    def start(self) -> None:
        """Start it, on what an earlier one left, and wait until it answers."""
        config = self.folder / "auth.ini"
        config.write_text(
            "[mlflow]\n"
            "default_permission = NO_PERMISSIONS\n"
            f"database_uri = sqlite:///{self.folder / 'auth.db'}\n"
            "admin_username = tests\n"
        )
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
        command += ["--serve-artifacts", "--artifacts-destination", str(self.folder / "artifacts")]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    "MLFLOW_AUTH_CONFIG_PATH": str(config),
                    "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
                    "MLFLOW_FLASK_SERVER_SECRET_KEY": self.secret_key,
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
            )
        wait_until_ready(self.process, f"{self.uri}/health", self.folder / "server.log")

    def kill(self) -> None:
        """End it and its workers at once, as a crash would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own: its group is its id
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(running_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    """The server, and its address and password in the environment."""
    for name, value in running_server.client_environment.items():
        monkeypatch.setenv(name, value)
    return running_server


def bank_with_one_edit(root: Path) -> tuple[ExpertBank, int]:
    bank = ExpertBank.open_or_create(ObjectStore(root), "main", SMALL_IDENTITY)
    row = small_row(1)
    fragments = bank.fragment_writer().write([row])
    return bank, bank.commit(fragments, epoch=bank.acquire_writer(), message="window 1")


def history(tracker: Tracker, run_id: str) -> list[tuple[int, float]]:
    found = tracker.connect().client.get_metric_history(run_id, "reliability")
    return [(metric.step, metric.value) for metric in found]


@pytest.mark.slow
def test_a_bank_version_goes_to_a_guarded_server_and_comes_back(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, version = bank_with_one_edit(tmp_path / "store")
    tracker = Tracker(tmp_path / "runs", experiment="served", run_name="run")
    registry = ModelRegistry(tracker)
    registered = registry.register_bank_version(bank, version, metrics={"reliability": 0.75})
    registry.versions().set_alias(BANK_MODEL, "champion", registered.version)
    for step, value in ((1, 1.0), (10, 0.9)):
        tracker.log_metrics({"reliability": value}, step=step, model_id=registered.model_id)
    figure = tmp_path / "what-was-taught.png"
    line = Line(label="reliability", x=(1, 10), y=(1.0, 0.9))
    draw_by_num_edits(figure, [line], title="What was taught")
    tracker.log_artifact(figure, "figures")
    tracker.end()

    # Another machine: it shares no folder with the server, only address and password.
    client = MlflowClient()
    found = client.get_model_version_by_alias(BANK_MODEL, "champion")
    assert found.version == str(registered.version)
    run = client.get_run(tracker.connect().run_id)
    assert run.info.artifact_uri is not None
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert history(tracker, run.info.run_id) == [(1, 0.75), (1, 1.0), (10, 0.9)]
    image = mlflow.artifacts.download_artifacts(
        artifact_uri=f"{run.info.artifact_uri}/figures/{figure.name}", dst_path=str(tmp_path / "b")
    )
    assert Path(image).read_bytes() == figure.read_bytes()
    manifest = mlflow.artifacts.download_artifacts(
        artifact_uri=f"models:/{BANK_MODEL}@champion", dst_path=str(tmp_path / "c")
    )
    content = json.loads((Path(manifest) / "manifest.json").read_text())
    assert content["bank_version"] == version
    assert not (tmp_path / "runs" / "mlflow_artifacts").exists()

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(TrackingError, match="authenticate"):
        Tracker(tmp_path / "runs", experiment="served", run_name="stranger").connect()


@pytest.mark.slow
def test_an_outage_in_mid_run_loses_no_metric_and_doubles_none(
    server: MlflowServer, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    tracker = Tracker(runs, experiment="outage", run_name="lives")
    tracker.log_metrics({"reliability": 1.0}, step=1)
    run_id = tracker.connect().run_id
    assert history(tracker, run_id) == [(1, 1.0)]

    server.kill()
    for step in range(2, 6):
        tracker.log_metrics({"reliability": 1.0 / step}, step=step)
    figure = tmp_path / "figure.txt"
    figure.write_text("kept until it can be sent")
    tracker.log_artifact(figure)
    assert tracker.flush_spool() == 5
    subprocess.run([sys.executable, "-c", DRIVER, str(runs)], cwd=ROOT, check=False)

    server.start()
    tracker.log_metrics({"reliability": 0.1}, step=6)
    tracker.end()
    expected = [(1, 1.0), *((step, 1.0 / step) for step in range(2, 6)), (6, 0.1)]
    assert history(tracker, run_id) == expected
    run = tracker.connect().client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert [item.path for item in tracker.connect().client.list_artifacts(run_id)] == [figure.name]

    # The records of a driver that was killed wait for the next start of the same run.
    resumed = Tracker(runs, experiment="outage", run_name="killed")
    resumed.end()
    assert history(resumed, resumed.connect().run_id) == [(1, 0.1), (2, 0.2), (3, 0.3)]
    left = [path.read_text() for path in (runs / "mlflow_runs").glob("*.jsonl")]
    assert left == ["", ""]


@pytest.mark.long
def test_a_champion_is_promoted_and_opened_through_the_server(
    server: MlflowServer, tmp_path: Path
) -> None:
    operations = Operations(tmp_path)
    version = operations.teach(some_cases(1, 3))
    SyntheticEvaluation(operations).record(version)
    number = str(version.version)
    promoter = operations.promoter("thresholds.modal_locality=0.0")
    decision = promoter.promote(f"models:/{BANK_MODEL}/{number}")
    assert decision.refusals == ()
    operations_uri = operations.operations_store.root_uri
    # The environment names the server.
    model = open_editor(backbone=tiny_backbone(), operations=operations_uri)
    assert list(model.edits) == operations.bank.edit_ids()
    client = MlflowClient(server.uri)
    assert client.get_model_version_by_alias(BANK_MODEL, "champion").version == number
    assert client.get_model_version(BANK_MODEL, number).tags["promotion.who"] == "anna"
