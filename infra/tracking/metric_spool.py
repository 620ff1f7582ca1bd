"""Which spools of MLflow records nobody looks after: those of drivers that died in an outage.

A job holds its run's name as long as it lives (a shared `flock`, which the system drops when the
process ends, however it ends). Whoever gets the exclusive lock of a name knows that its owner is
gone, and may deliver what it left. Where a file system has no locks, names are never free: a spool
then waits for the next start of its own run.
"""

import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SPOOL_SUFFIX = ".spool.jsonl"
_HOLD_SUFFIX = ".hold"


@dataclass(frozen=True)
class LeftBehind:
    """A run whose driver is gone and whose spool is not empty."""

    run_name: str
    experiment: str
    has_ended: bool
    """Whether the driver had said how the run ended."""


def hold_run(folder: Path, run_name: str, *, experiment: str) -> IO[str]:
    """Hold a run's name until the returned file is closed or the process ends.

    Args:
        folder: Of the spools.
        run_name: Several may hold one name.
        experiment: Under which its records belong; kept for whoever must deliver them.
    """
    file = (folder / f"{run_name}{_HOLD_SUFFIX}").open("a+")
    _lock(file, fcntl.LOCK_SH, may_wait=True)  # for the moment in which another job looks at it
    file.seek(0)
    if file.read() != json.dumps({"experiment": experiment}):
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"experiment": experiment}))
        file.flush()
    return file


def left_behind(folder: Path) -> Iterator[LeftBehind]:
    """Runs that were left with records in their spool; each is held while it is dealt with."""
    for spool in sorted(folder.glob(f"*{SPOOL_SUFFIX}")):
        run_name = spool.name.removesuffix(SPOOL_SUFFIX)
        hold = folder / f"{run_name}{_HOLD_SUFFIX}"
        if spool.stat().st_size == 0 or not hold.exists():
            continue
        with hold.open() as file:
            if not _lock(file, fcntl.LOCK_EX):
                continue
            # Shared again: others see that the name is held, and a new tracker may hold it too.
            if not _lock(file, fcntl.LOCK_SH):
                continue
            try:
                experiment: str = json.loads(file.read())["experiment"]
            except (ValueError, KeyError):
                continue  # the owner died before it had written a record, or nearly so
            yield LeftBehind(run_name, experiment, _has_ended(spool))


def _has_ended(spool: Path) -> bool:
    last = spool.read_text().splitlines()[-1:]
    try:
        return bool(last) and json.loads(last[0])["kind"] == "end"
    except (ValueError, KeyError):
        return False


def _lock(file: IO[str], kind: int, *, may_wait: bool = False) -> bool:
    try:
        fcntl.flock(file, kind if may_wait else kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
