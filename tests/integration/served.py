"""A server process over the built-in model, as a user starts it."""

import contextlib
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image, ImageDraw

from tests.architecture.project import ROOT
from tests.running_server import data_uri

START_S = 240.0


@dataclass
class ServedProcess:
    """A running `serve_editor.py`."""

    process: subprocess.Popen[str]
    log: Path
    address: str = ""

    def wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            found = re.search(r"^serving (http://\S+)$", self.log.read_text(), re.MULTILINE)
            if found:
                self.address = found[1]
                return
            time.sleep(0.1)
        raise RuntimeError(f"the server did not start: {self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=300)


def start_process(root: Path, *options: str) -> ServedProcess:
    """Start a server with a run root of its own."""
    root.mkdir(parents=True, exist_ok=True)
    log = root / f"serve-{time.monotonic_ns()}.log"
    command = [sys.executable, ROOT / "pipelines" / "serve_editor.py", f"run_root={root}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [*map(str, command), "bank.name=main", *options],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=ROOT,
        )
    return ServedProcess(process, log)


@contextlib.contextmanager
def served(root: Path, *options: str) -> Iterator[ServedProcess]:
    """A server that is ready, ended afterwards."""
    started = start_process(root, *options)
    code = 0
    try:
        started.wait_until_ready()
        yield started
    finally:
        if started.process.poll() is None:
            code = started.end()
    assert code == 0, "SIGTERM ends a server in order"


def drawing(name: str) -> bytes:
    """A PNG of a few shapes, others for each name."""
    drawer = random.Random(name)

    def colour() -> tuple[int, int, int]:
        return drawer.randrange(256), drawer.randrange(256), drawer.randrange(256)

    shown = Image.new("RGB", (160, 160), colour())
    pen = ImageDraw.Draw(shown)
    for _ in range(7):
        corners = [(drawer.randrange(160), drawer.randrange(160)) for _ in range(3)]
        pen.polygon(corners, fill=colour())
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return buffer.getvalue()


def fact(name: str, target: str, prompt: str = "What is shown here?") -> dict[str, Any]:
    return {"image": data_uri(drawing(name)), "prompt": prompt, "target": target}


def wait_until_answering(client: httpx2.Client, wait_s: float = 60.0) -> None:
    """Until `liveedit` is the newest version."""
    deadline_s = time.monotonic() + wait_s
    newest = client.get("/v1/versions").json()["data"][0]["version"]
    while client.get("/v1/status").json()["liveedit"]["bank_version"] < newest:
        assert time.monotonic() < deadline_s, f"v{newest} is not answering yet"
        time.sleep(0.1)


def wait_until_held(client: httpx2.Client, edit_id: str, wait_s: float = 60.0) -> dict[str, Any]:
    """The edit once the loop is done with it."""
    deadline_s = time.monotonic() + wait_s
    while True:
        shown: dict[str, Any] = client.get(f"/v1/edits/{edit_id}").json()
        if shown["state"] != "pending" or time.monotonic() > deadline_s:
            return shown
        time.sleep(0.1)
