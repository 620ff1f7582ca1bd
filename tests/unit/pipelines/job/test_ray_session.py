"""A signal is a wish to stop, the second one an order."""

import os
import signal
import socket
import time

import pytest

from liveedit_core.errors import ConfigError
from pipelines.job.ray_session import StopRequest, check_head


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_to_stop(number: signal.Signals) -> None:
    said: list[str] = []
    stop = StopRequest(said.append)
    before = signal.getsignal(number)
    with stop.installed():
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), number)
    assert caught.value.code == stop.exit_code == 128 + number
    assert len(said) == 1
    assert signal.getsignal(number) is before


def test_a_dead_head_is_named_soon() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        start_s = time.monotonic()
        with pytest.raises(ConfigError, match=rf"no Ray at '{address}'.*unset ray.address"):
            check_head(address, wait_s=0.2)
        assert time.monotonic() - start_s < 20
    with socket.create_server(("127.0.0.1", port)):
        check_head(f"127.0.0.1:{port}")
    check_head("auto")
    with pytest.raises(ConfigError, match="is the address of a job server"):
        check_head("http://127.0.0.1:8265")
