"""A signal is a wish to stop, the second one an order."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from liveedit_core.errors import ConfigError, WorkerLostError
from pipelines.job import ray_session
from pipelines.job.ray_session import (
    StopRequest,
    check_head,
    open_session,
    prepare_environment,
)
from pipelines.job.sections import RaySection

WAITING = """
import os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from pipelines.job.ray_session import StopRequest

number = int(sys.argv[1])
stop = StopRequest(print)
with stop.installed(), ThreadPoolExecutor(1) as commits:
    commits.submit(time.sleep, 3600)
    os.kill(os.getpid(), number)
    assert stop()
    os.kill(os.getpid(), number)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_to_stop_and_the_second_waits_for_nothing(
    number: signal.Signals,
) -> None:
    command = [sys.executable, "-c", WAITING, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (128 + number, "")
    assert done.stdout.count("stopping after the current window") == 1


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(print).installed():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


class Clock:
    """Stands still but while somebody sleeps, and nobody may sleep for long."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        assert self.now_s < 20


def test_a_dead_head_is_named_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        clock = Clock()
        monkeypatch.setattr(ray_session, "time", clock)
        with pytest.raises(ConfigError, match=rf"no Ray at '{address}'.*unset ray.address"):
            check_head(address)
        assert clock.now_s >= 5  # a head that is starting is waited for
    with socket.create_server(("127.0.0.1", port)):
        check_head(f"127.0.0.1:{port}")
    check_head("auto")
    with pytest.raises(ConfigError, match="is the address of a job server"):
        check_head("http://127.0.0.1:8265")


@pytest.mark.parametrize(("given", "found"), [("", "1"), ("4", "4")])
def test_the_threads_of_a_worker_share_one_heap_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: str, found: str
) -> None:
    environment = {"MALLOC_ARENA_MAX": given} if given else {}
    monkeypatch.setattr(os, "environ", environment)
    prepare_environment(RaySection(address="elsewhere:6379"))
    assert environment["MALLOC_ARENA_MAX"] == found


def test_a_module_is_imported_while_ray_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "imported_meanwhile.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    def start(**options: object) -> None:
        end_s = time.monotonic() + 120
        while "imported_meanwhile" not in sys.modules:
            assert time.monotonic() < end_s
            time.sleep(0.01)

    monkeypatch.setattr(ray, "init", start)
    with open_session(RaySection(), needed_cpus=1, meanwhile="imported_meanwhile"):
        del sys.modules["imported_meanwhile"]


def test_a_ray_that_does_not_start_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nMore.")  # as Ray raises it

    monkeypatch.setattr(ray, "init", start)
    with (
        pytest.raises(WorkerLostError, match=r"Ray could not start: The current .* startup\.$"),
        open_session(RaySection(), needed_cpus=1),
    ):
        pass


def test_a_ray_that_starts_too_slowly_gets_a_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[object] = []

    def start(**options: object) -> None:
        starts.append(options["num_cpus"])
        if len(starts) == 1:
            raise Exception("The current node timed out during startup.")  # as Ray raises it

    monkeypatch.setattr(ray, "init", start)
    with open_session(RaySection(num_cpus=2), needed_cpus=1, meanwhile="json"):
        assert starts == [2, 2]
