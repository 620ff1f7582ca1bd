"""A store that answers badly, is away, or is full, while a driver follows the inbox."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from infra.bank.schema import column_vectors
from infra.storage.s3 import TIMEOUT_VARIABLE
from tests.integration.conftest import S3Server, s3_ports, start_s3_server
from tests.integration.edit_job import ROOT
from tests.integration.faults.faulty_proxy import FaultyProxy, Shares
from tests.integration.faults.scene import LEDGER, Scene, rows_of, undisturbed

pytestmark = pytest.mark.slow


@pytest.fixture
def s3_scene(
    s3_server: S3Server,
    cluster: Cluster,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scene]:
    """A store on the S3 server of all tests."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    root = f"s3://{s3_server.bucket}/{request.node.name}"
    scene = Scene(tmp_path, cluster, request.node.name, root, s3_server.environment)
    yield scene
    scene.end()


def test_a_store_that_fails_every_fifth_request(s3_server: S3Server, s3_scene: Scene) -> None:
    """A third of the faults are writes that were done, although nobody was told."""
    scene = s3_scene
    shares = Shares(
        slow_down=0.09, internal_error=0.05, lost_answer=0.04, stall=0.01, late_answer=0.01
    )
    proxy = FaultyProxy(s3_server.endpoint, shares, seed=3)
    scene.environment = {
        **s3_server.environment,
        "AWS_ENDPOINT_URL": proxy.endpoint,
        TIMEOUT_VARIABLE: "1.5",
    }
    try:
        scene.drop("a.jsonl", range(3))
        driver = scene.start("--follow")
        driver.wait_for("3 edits in the bank; lag ")
        scene.drop("b.jsonl", range(3, 6))
        driver.wait_for("6 edits in the bank; lag ")
        # The last look at the store may meet a fault too.
        assert driver.stop() == 0 or "nothing is lost" in driver.output, driver.output
    finally:
        proxy.close()
    assert proxy.num_faults > 40
    assert all(proxy.injected[fault] for fault in vars(shares) if getattr(shares, fault))
    fault = "S3 request answered 503 or 500, or late or never, or its answer lost"
    scene.check(6, fault=fault, num_faults=proxy.num_faults, batch_size=1)
    assert scene.store.list("inbox/") == []


def test_a_server_that_dies_and_comes_back(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in the middle of the work, once while nothing is to do: the driver waits and says so."""
    folder = tmp_path / "server"
    folder.mkdir()
    ports = s3_ports()
    server = start_s3_server(folder, ports)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    name = test_a_server_that_dies_and_comes_back.__name__
    scene = Scene(tmp_path, cluster, name, f"s3://{server.bucket}/x", server.environment)
    try:
        scene.drop("a.jsonl", range(12))
        driver = scene.start("--follow", "--pause-s=0.1")
        driver.wait_for("committed bank version")
        server.process.kill()
        server.process.wait()
        server = start_s3_server(folder, ports)
        driver.wait_for("12 edits in the bank; lag ")
        server.process.kill()
        server.process.wait()
        driver.wait_for("nothing is lost)")
        server = start_s3_server(folder, ports)
        scene.drop("b.jsonl", range(12, 16))
        driver.wait_for("16 edits in the bank; lag ")
        assert driver.stop() == 0, driver.output
        scene.check(16, fault="kill -9 of the S3 server", num_faults=2, batch_size=1)
    finally:
        scene.end()
        server.process.kill()
        server.process.wait()


@pytest.mark.parametrize("mode", ["follow", "batch"])
def test_a_full_disk(tmp_path: Path, mode: str) -> None:
    """A file system of a few megabytes, in a name space of its own, is filled in mid-run."""
    for options in ([], ["--map-root-user"]):
        command = ["unshare", *options, "--mount", sys.executable, "-m"]
        done = subprocess.run(
            [*command, "tests.integration.faults.full_disk", str(tmp_path), mode],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if "MOUNTED" in done.stdout:
            break
    else:
        pytest.skip(f"NO FULL DISK WAS TESTED: no tmpfs can be mounted here: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["num_full"] > 0
    assert "No space left on device" in seen["said"]
    quiet = rows_of(undisturbed(tmp_path / "undisturbed", seen["num_edits"], 1))
    assert seen["edit_ids"] == quiet.column("edit_id").to_pylist()
    expected = [vector.tolist() for vector in column_vectors(quiet, "expert_up")]
    assert seen["expert_up"] == expected
    LEDGER[f"test_a_full_disk[{mode}]"] = ("full disk", seen["num_full"], seen["num_edits"])
