"""What fault tests share: drivers as processes, who to kill, and the comparison afterwards."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
from ray.cluster_utils import Cluster

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from tests.integration.conftest import S3_CREDENTIALS
from tests.integration.edit_job import ROOT, end_group
from tests.integration.faults.edit_driver import BANK, BATCH_SIZE, WINDOW_EDITS, WORK
from tests.tiny_bank import bank_with_edits
from tests.unit.tiny_inputs import PROMPT, case, image, request
from tests.unit.tiny_models import TinyModels

COLUMNS = (
    "edit_id",
    "sequence",
    "subject_id",
    "visual_feature",
    "prompt_feature",
    "expert_down",
    "expert_up",
    "clip_embedding",
    "generator_digest",
)
TIMEOUT_S = 500.0
CLUSTER_CONFIG = {
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "worker_niceness": 0,
}
"""A node that is gone is noticed in some seconds; by default it takes Ray half a minute. Ray makes
its workers nicer by 15, so that on a machine with other work an actor needs minutes to start."""

LEDGER: dict[str, tuple[str, int, int]] = {}
"""Of each test: the fault, how often it was injected, how many edits were compared."""


class Driver:
    """A driver's process and what it says; its output is read as it comes."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], log: TextIO) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.faults.edit_driver", *arguments],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._log = log
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self._log.write(line)
            self._log.flush()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str, *, count: int = 1) -> None:
        """Until the driver has said something so often."""

        def is_said() -> bool:
            assert self.output.count(text) >= count or self.process.poll() is None, self.output
            return self.output.count(text) >= count

        wait_until(is_said, lambda: f"{text!r} in\n{self.output}")

    def wait(self) -> int:
        """Until it has ended; returns its exit code."""
        code = self.process.wait(TIMEOUT_S)
        self._reader.join(5)
        return code

    def kill(self) -> None:
        """As the kernel does it when memory is out."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As an operator does it."""
        self.process.terminate()
        return self.wait()


@dataclass
class Scene:
    """One store and the drivers on it."""

    folder: Path
    cluster: Cluster
    name: str
    root: str = ""
    """Of the store; a folder by default."""
    environment: dict[str, str] = field(default_factory=dict)
    """AWS variables of the drivers."""
    drivers: list[Driver] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = self.root or str(self.folder / "store")
        self.marks = self.folder / "marks"
        self.marks.mkdir()
        self._log = (self.folder / "drivers.log").open("w")

    @functools.cached_property
    def store(self) -> ObjectStore:
        return ObjectStore(self.root)

    @property
    def bank(self) -> ExpertBank:
        return ExpertBank.open(self.store, BANK)

    def start(self, *arguments: str) -> Driver:
        """Start a driver beside those that run already."""
        common = ["--store", self.root, "--marks", str(self.marks)]
        driver = Driver(
            [*common, "--address", self.cluster.address, *arguments],
            {**os.environ, **self.environment, "COLUMNS": "500", "PYTHONPATH": str(ROOT)},
            self._log,
        )
        self.drivers.append(driver)
        return driver

    def end(self) -> None:
        """Kill whoever is left."""
        for driver in self.drivers:
            end_group(driver.process)
        self._log.close()

    def living(self, kind: str) -> list[tuple[int, str]]:
        """Actors of a kind that are alive: process id and node."""
        found = []
        for mark in self.marks.glob(f"{kind}-*"):
            process_id = int(mark.name.rpartition("-")[2])
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, 0)
                found.append((process_id, mark.read_text()))
        return found

    def kill_actor(self, kind: str) -> None:
        """Kill -9 an actor, as soon as there is one."""
        wait_until(lambda: bool(self.living(kind)), lambda: f"an actor of kind {kind}")
        process_id, _ = self.living(kind)[-1]
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)

    def drop(self, name: str, numbers: Iterable[int]) -> None:
        """Put a file of facts into the inbox, images first."""
        lines = []
        for number in numbers:
            self.store.put(f"inbox/{number}.png", image(number))
            edit = request(number)
            fact = {"image": f"{number}.png", "prompt": PROMPT, "target": edit.target}
            lines.append(json.dumps(fact))
        self.store.put(f"inbox/{name}", "\n".join(lines).encode())

    def check(self, num_edits: int, *, fault: str, num_faults: int, batch_size: int) -> None:
        """Compare with a run that nobody disturbed: all edits, bit for bit, once.

        Raises:
            AssertionError: Something is lost, doubled, altered, or visible that must not be.
        """
        quiet = undisturbed(self.folder / "undisturbed", num_edits, batch_size)
        bank = self.bank
        assert rows_of(bank) == rows_of(quiet), "same edits, equal tensors"
        logged = [item.request.edit_id for item in RequestLog(self.store).read()]
        assert logged == [request(number).edit_id for number in range(num_edits)]
        counts = [window.num_edits for window in bank.history()]
        assert counts == sorted(set(counts)), "every version holds more than the one before"
        for window in bank.history():
            assert bank.edit_ids(window.version) == logged[: window.num_edits], "and no orphan"
        assert bank.pending_sequences(RequestLog(self.store)) == []
        LEDGER[self.name] = (fault, num_faults, num_edits)


def add_node(cluster: Cluster, *, is_head: bool = False) -> None:
    """Start a node; the head runs no actors.

    The credentials of a node open every S3 server of the tests. The endpoint is none of its own: it
    travels with the handle that actors write with.
    """
    before = {name: os.environ.get(name) for name in S3_CREDENTIALS}
    os.environ.update(S3_CREDENTIALS)
    try:
        options: dict[str, Any] = {"resources": {WORK: 1.0}}
        if is_head:
            options = {"resources": {}, "_system_config": CLUSTER_CONFIG}
        memory_bytes = 80 * 1024 * 1024
        cluster.add_node(
            num_cpus=1, object_store_memory=memory_bytes, include_dashboard=False, **options
        )
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def undisturbed(folder: Path, num_edits: int, batch_size: int = BATCH_SIZE) -> ExpertBank:
    """The bank of plain workers in this process."""
    return bank_with_edits(
        ObjectStore(folder),
        TinyModels(),
        [case(number) for number in range(num_edits)],
        window_edits=WINDOW_EDITS,
        batch_size=batch_size,
    )


def rows_of(bank: ExpertBank) -> pa.Table:
    """All that a version says of its edits."""
    return bank.load_rows(COLUMNS).combine_chunks()


def wait_until(is_so: Callable[[], bool], what: Callable[[], str]) -> None:
    """Look again and again, within a bound that only a broken program reaches."""
    end_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < end_s, f"waited in vain for {what()}"
        time.sleep(0.02)
