"""Secrets in URIs never reach a message, a log, a report or MLflow."""

import re

_USER = re.compile(r"(?<=://)[^/?#\s'\"]+@")
_PARAMETER = re.compile(
    r"(?i)(?<=[?&])([\w.-]*(?:signature|credential|password|passwd|secret|token|api_?key)[\w.-]*)"
    r"=[^&\s'\"]+"
)


def masked(text: str) -> str:
    """A text with the user and password of each URI, and parameters that are secrets, as ***."""
    return _PARAMETER.sub(r"\1=***", _USER.sub("***@", text))
