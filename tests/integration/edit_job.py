"""Starts the editing job as a user does, in its own process, and looks at what it left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from infra.bank.expert_bank import ExpertBank
from infra.storage.object_store import ObjectStore
from liveedit_core.builtin.backbone import JOINT

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "pipelines" / "lifelong_edit.py"

SMALL = (
    "requests.limit=6",
    "generator.batch_size=2",
    "bank.window_edits=2",
    "evaluation.at=[1, 4]",
    "evaluation.max_cases=2",
    "evaluation.free_generation_cases=1",
    "evaluation.max_new_tokens=8",
    "limits.max_target_tokens=8",
    "ray.object_store_memory_bytes=100000000",
)
"""Six built-in edits in the windows 1, 2, 4, 6; two of them are scored, with short answers."""

needs_builtin_models = pytest.mark.skipif(
    not JOINT.exists(), reason="the built-in backbone has not been trained yet"
)


def environment() -> dict[str, str]:
    """Of a job that starts its own Ray."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return {**kept, **loopback, "RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "120"}


@dataclass(frozen=True)
class Run:
    """The folder of runs of one test."""

    root: Path

    def command(self, *arguments: str, job: str = "lifelong_edit") -> list[str]:
        script = SCRIPT.with_name(f"{job}.py")
        return [sys.executable, str(script), f"run_root={self.root}", *arguments]

    def start(self, *arguments: str, job: str = "lifelong_edit") -> subprocess.Popen[str]:
        """Start a job; it leads a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments, job=job),
            env=environment(),
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def do(
        self, *arguments: str, job: str = "lifelong_edit", timeout_s: float = 600.0
    ) -> tuple[int, str]:
        """Run a job to its end; returns exit code and output."""
        process = self.start(*arguments, job=job)
        try:
            output, _ = process.communicate(timeout=timeout_s)
        finally:
            end_group(process)
        return process.returncode, output

    def bank(self, run_name: str = "quickstart", name: str = "quickstart") -> ExpertBank:
        return ExpertBank.open(ObjectStore(self.root / run_name / "store"), name)

    def rows(self) -> pa.Table:
        columns = ["edit_id", "sequence", "visual_feature", "prompt_feature"]
        return self.bank().load_rows([*columns, "expert_down", "expert_up", "clip_embedding"])


def wait_for_line(process: subprocess.Popen[str], text: str) -> str:
    """Read the output up to the line that holds a text; returns what was read."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never came:\n{seen}")


def group_of(process: subprocess.Popen[Any]) -> list[str]:
    """Programs that run in the process group of a job."""
    found: list[str] = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            name, _, rest = file.read_text().rpartition(")")
            state, _, group = rest.split()[:3]
            if int(group) == process.pid and state != "Z":
                found.append(name)
    return found


def end_group(process: subprocess.Popen[Any]) -> None:
    """End whatever is left of a job that leads its own process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        time.sleep(0.2)


def start_module(module: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a module of the tests; it leads a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_at(process: subprocess.Popen[str], text: str) -> None:
    """Kill -9 a job when it says something, then whatever it has started."""
    try:
        wait_for_line(process, text)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        end_group(process)
