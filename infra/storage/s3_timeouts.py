"""How long a request to S3 may take, and how the client of Lance spends its tries on it.

A server that takes a request and never answers is worse than one that refuses: without a limit the
job would stand still and say nothing. So every request ends after `request_timeout_s`, is repeated
by the client that made it, and then becomes an error that the caller may retry or wait out.
"""

import os

from liveedit_core.errors import ConfigError

TIMEOUT_VARIABLE = "LIVEEDIT_S3_TIMEOUT_S"
"""Seconds that one request may take; for links so slow that 30 are not enough for one file."""

_DEFAULT_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 5.0
_MAX_RETRY_S = 20.0


def request_timeout_s() -> float:
    """What the environment says, or 30 s.

    Raises:
        ConfigError: That is no time.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        timeout_s = float(text) if text else _DEFAULT_TIMEOUT_S
    except ValueError:
        timeout_s = 0.0
    if not 0.0 < timeout_s < float("inf"):
        raise ConfigError(f"{TIMEOUT_VARIABLE} must be a number of seconds above 0, got {text!r}")
    return timeout_s


def connect_timeout_s(timeout_s: float) -> float:
    """For reaching the server alone.

    Args:
        timeout_s: Of the whole request.
    """
    return min(timeout_s, _CONNECT_TIMEOUT_S)


def table_timeouts(timeout_s: float) -> dict[str, str]:
    """Options of Lance's client.

    Refused requests are repeated five times within 20 s. A stalled one has used up that time when
    it ends (`client_retry_timeout` is shorter than `timeout`), and Lance repeats it five times
    itself: otherwise both would multiply.

    Args:
        timeout_s: Of one request, its body included.
    """
    return {
        "timeout": f"{round(1000 * timeout_s)}ms",
        "connect_timeout": f"{round(1000 * connect_timeout_s(timeout_s))}ms",
        "client_max_retries": "5",
        "client_retry_timeout": str(int(min(_MAX_RETRY_S, timeout_s / 1.5))),
    }
