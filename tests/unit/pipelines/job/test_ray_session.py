"""A signal is a wish to stop, the second one an order."""

import os
import signal

import pytest

from pipelines.job.ray_session import StopRequest


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
