"""What people see of a promotion, and who they are."""

import getpass
import os
import socket
import sys

from pipelines.operations.promoter import Decision


def say_decision(decision: Decision) -> int:
    """Print what was decided; returns the exit code."""
    for gate in decision.gates:
        print(f"{'passed' if gate.passed else 'FAILED'}  {gate.name}: {gate.reason}")
    if decision.refusals:
        what = "was not promoted" if decision.gates else "stays the champion"
        print(f"refused: version {decision.version} {what}", file=sys.stderr)
        for refusal in decision.refusals:
            print(f"refused: {refusal}", file=sys.stderr)
        return 2
    if decision.record is None:
        print(f"version {decision.version} is the champion already, nothing to do")
        return 0
    before = f"version {decision.champion_before}" if decision.champion_before else "none"
    print(
        f"{decision.record.action}: version {decision.version} is the champion now, before: "
        f"{before}; audit record {decision.record.sequence}"
    )
    return 0


def default_who() -> str:
    """User and host, as far as they are known."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
