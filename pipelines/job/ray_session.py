"""The Ray session of a job, and how a job is stopped.

A job joins the cluster that its recipe, `RAY_ADDRESS` or the job server names; otherwise it starts
a local Ray: loopback only, no dashboard, no usage reports.
"""

import contextlib
import importlib
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from liveedit_core.errors import ConfigError, WorkerLostError
from pipelines.job.sections import RaySection

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's coming behaviour; else it warns about it
    "RAY_TQDM_PATCH_PRINT": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # bars of libraries in worker processes
    # What one thread of an actor frees, another may use: 0.5 GB less in the quickstart.
    "MALLOC_ARENA_MAX": "1",
}
"""Set where the user did not; children inherit it."""

_LOOPBACK_ONLY = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""Makes Ray listen on 127.0.0.1 alone, on Linux too; otherwise it takes the machine's address."""
_TOKEN_LOGGER = "ray._private.authentication.authentication_token_setup"
_HEAD_WAIT_S = 10.0
"""A head that is being started may answer a little later."""
_END_WITHIN_S = 3.0
"""After a second signal."""
_PROJECT = Path(__file__).resolve().parents[2]


def prepare_environment(config: RaySection) -> None:
    """Set the environment of this process and its children, before Ray is first imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not address_of(config):
        os.environ.setdefault(*_LOOPBACK_ONLY)
        _let_children_import_the_project()


def address_of(config: RaySection) -> str:
    """Of the cluster to join; "" to start a local Ray."""
    return config.address or os.environ.get("RAY_ADDRESS", "")


@contextlib.contextmanager
def open_session(config: RaySection, *, needed_cpus: float, meanwhile: str = "") -> Iterator[None]:
    """Join or start Ray, and leave or end it; a local session offers at least `needed_cpus`. A
    thread imports the module `meanwhile`: Ray mostly waits for processes that it starts."""
    prepare_environment(config)
    # Ray forks only to start other programs, which is harmless.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    import ray

    address = address_of(config)
    if address:
        check_head(address)
        options: dict[str, Any] = {"address": address}
    else:
        # Ray protects a local session with a token of its own, and says so at length.
        logging.getLogger(_TOKEN_LOGGER).setLevel(logging.ERROR)
        options = {
            "address": "local",
            "num_cpus": max(config.num_cpus or os.cpu_count() or 1, math.ceil(needed_cpus)),
            "object_store_memory": config.object_store_memory_bytes or None,
            "include_dashboard": False,
        }
    options |= {"logging_level": logging.WARNING, "log_to_driver": True}
    beside = threading.Thread(target=importlib.import_module, args=(meanwhile,))
    if meanwhile:
        beside.start()
    try:
        _start(options, beside)
    except ConnectionError as error:
        raise _no_head(address) from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WorkerLostError(f"Ray could not start: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _start(options: Mapping[str, Any], beside: threading.Thread) -> None:
    """Ray gives its processes half a minute; a busy machine gets a second try, with nothing
    beside it. Ray raises a plain Exception then."""
    import ray

    try:
        ray.init(**options)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        if beside.is_alive():
            beside.join()
        ray.init(**options)


def check_head(address: str, *, wait_s: float = _HEAD_WAIT_S) -> None:
    """ConfigError when nothing listens at the address of a Ray head; Ray itself would try for a
    quarter of an hour."""
    if "://" in address and not address.startswith("ray://"):
        raise ConfigError(
            f"ray.address: {address!r} is the address of a job server, for `ray job submit`; a job "
            "joins host:port of the head (port 6379), or unset ray.address and RAY_ADDRESS"
        )
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return  # "auto", "local", or a name that Ray knows
    end_s = time.monotonic() + wait_s
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=wait_s):
                return
        except OSError as error:
            if time.monotonic() >= end_s:
                raise _no_head(address) from error
        time.sleep(min(0.5, wait_s))


def _no_head(address: str) -> ConfigError:
    return ConfigError(
        f"ray.address: there is no Ray at {address!r}. Start one (`make ray-head`), or unset "
        "ray.address and RAY_ADDRESS to use a local session"
    )


def _let_children_import_the_project() -> None:
    """Ray passes on the folder of the script and the current one, which may both be others."""
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(_PROJECT) not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_PROJECT), *filter(None, known)])


class StopRequest:
    """Ctrl-C or SIGTERM asks the job to stop after the current window. A second signal ends it at
    once, whatever threads or other machines it waits for, which is safe too: everything finished is
    in the store."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.signal_number = 0
        """Of the signal that was received; 0 for none."""

    def __call__(self) -> bool:
        return self.signal_number != 0

    @property
    def exit_code(self) -> int:
        """128 plus the signal number, as in shells."""
        return 128 + self.signal_number

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle both signals; to be entered after Ray has started, which sets its own."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._handle) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, signal_number: int, _frame: FrameType | None) -> None:
        if self.signal_number:
            # Leaving in order waits for a commit, the store, MLflow or Ray: for a moment only.
            end = threading.Timer(_END_WITHIN_S, _end_process, [128 + signal_number])
            end.daemon = True
            end.start()
            sys.exit(128 + signal_number)
        self.signal_number = signal_number
        self._say(
            "stopping after the current window; the same command resumes from there "
            "(once more: stop at once)"
        )


def _end_process(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def num_gpus_on(node_resource: str = "") -> float:
    """GPUs of the nodes that are up and have a custom resource ("": of all nodes)."""
    import ray

    found = (node["Resources"] for node in ray.nodes() if node["Alive"])
    numbers = (
        amounts.get("GPU", 0.0)
        for amounts in found
        if not node_resource or amounts.get(node_resource)
    )
    return float(sum(numbers))
