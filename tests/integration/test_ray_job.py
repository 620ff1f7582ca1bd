"""The two ways to start the job through the job server of a local head."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import free_ports, wait_until_ready
from tests.integration.edit_job import ROOT, Run, end_group, environment, needs_builtin_models

pytestmark = [needs_builtin_models, pytest.mark.slow]

TINY = ("requests.limit=2", "evaluation.at=[1]", 'evaluation.protocols=["teacher_forced"]')
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Head:
    """A Ray head with a job server."""

    address: str
    environment: dict[str, str]

    def submit(self, *arguments: str) -> str:
        """Submit a job, wait for its end and return its output."""
        done = subprocess.run(
            [RAY, "job", "submit", "--address", self.address, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head started in the project's folder, on free loopback ports."""
    names = (
        "port",
        "dashboard-port",
        "ray-client-server-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "runtime-env-agent-port",
        "metrics-export-port",
        "node-manager-port",
        "object-manager-port",
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    temporary = Path(f"/tmp/ray-test-{os.getpid()}")  # short: it holds socket names
    token = secrets.token_hex(32)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {
        **environment(),
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
    }
    log = tmp_path_factory.mktemp("head") / "head.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [
                *(RAY, "start", "--head", "--block", "--num-cpus=2"),
                *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
                *("--include-dashboard=true", "--object-store-memory=100000000"),
                *("--disable-usage-stats", f"--temp-dir={temporary}"),
                *(f"--{name}={port}" for name, port in ports.items()),
            ],
            cwd=ROOT,
            env=variables,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        token_header = {"Authorization": f"Bearer {token}"}
        wait_until_ready(process, f"{address}/api/version", log, token_header)
        yield Head(address, variables)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        end_group(process)
        shutil.rmtree(temporary, ignore_errors=True)


def check(run: Run, output: str) -> None:
    assert "2 edits in the bank, 2 of them new; none refused" in output
    assert run.bank().num_edits() == 2


def test_as_a_job_with_its_working_directory(head: Head, tmp_path: Path) -> None:
    command = ["python", "pipelines/lifelong_edit.py", f"run_root={tmp_path}", *TINY]
    check(Run(tmp_path), head.submit("--working-dir", ".", "--", *command))


def test_as_a_job_that_names_the_script(head: Head, tmp_path: Path) -> None:
    command = ["pipelines/lifelong_edit.py", f"run_root={tmp_path}", *TINY]
    check(Run(tmp_path), head.submit("--", *command))
