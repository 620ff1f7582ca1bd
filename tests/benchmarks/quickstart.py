#!/usr/bin/env python
"""The quickstart as users start it: time, CPU seconds and memory of all its processes.

    python -m tests.benchmarks.quickstart [--before DIR --at-least 2.0] [--at-most-pss-gb 2.2]

With `--before` another checkout runs in turn with this one, and the ratios are compared.
The built-in backbone must be assembled already. Memory is the sum of the proportional set sizes
(PSS) of the job and all its descendants: a page that processes share counts once. CPU seconds do
not depend on what else runs on the machine; seconds do.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.frame import commit_of, machine, parser_of, publish

ROOT = Path(__file__).parents[2]
EVERY_S = 1.0
COMPARED = ("first_edit_s", "whole_s", "first_edit_cpu_s", "whole_cpu_s")
FIRST_COMMIT = "committed bank version"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Samples:
    """What was seen of a job and its descendants."""

    cpu_s: dict[tuple[int, int], float] = field(default_factory=dict)
    """By process, named by its number and start."""
    names: dict[tuple[int, int], str] = field(default_factory=dict)
    pss_mb: dict[str, float] = field(default_factory=dict)
    """By name, when all of them together were largest."""
    peak_pss_mb: float = 0.0

    @property
    def total_cpu_s(self) -> float:
        return sum(self.cpu_s.values())

    def cpu_by_name(self) -> dict[str, float]:
        """Seconds, largest first."""
        totals: dict[str, float] = {}
        for key, seconds in self.cpu_s.items():
            totals[self.names[key]] = totals.get(self.names[key], 0.0) + seconds
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def take(self, root: int) -> None:
        """Add one look at a process and its descendants."""
        pss_mb: dict[str, float] = {}
        for pid in family_of(root):
            try:
                name = name_of(pid)
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                pss_kb = pss_of(pid)
            except (OSError, IndexError):
                continue  # it has ended
            key = pid, int(fields[19])
            self.cpu_s[key] = (int(fields[11]) + int(fields[12])) / _TICKS
            if not self.names.get(key, "").startswith("ray::") or name != "ray::IDLE":
                self.names[key] = name
            pss_mb[name] = pss_mb.get(name, 0.0) + pss_kb / 1000
        if sum(pss_mb.values()) > self.peak_pss_mb:
            self.peak_pss_mb = sum(pss_mb.values())
            self.pss_mb = dict(sorted(pss_mb.items(), key=lambda item: -item[1]))


def family_of(root: int) -> Iterator[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(
                int(folder.name)
            )
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, [])


def name_of(pid: int) -> str:
    """The class of an actor, or the program."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    if words[0].startswith("ray::"):
        return words[0].split(".")[0].split("(")[0].strip()
    names = [Path(word).name for word in words if word and not word.startswith("-")]
    return names[1] if names and names[0].startswith("python") and len(names) > 1 else names[0]


def pss_of(pid: int) -> int:
    """Proportional set size in kB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def measure(checkout: Path, arguments: list[str], run_root: Path) -> dict[str, Any]:
    """Run the quickstart of a checkout once."""
    command = [sys.executable, "pipelines/lifelong_edit.py", f"run_root={run_root}", *arguments]
    samples, start_s = Samples(), time.monotonic()
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(checkout)}
    job = subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    is_over = threading.Event()

    def sample() -> None:
        while not is_over.wait(EVERY_S):
            samples.take(job.pid)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    events: list[tuple[float, float, str]] = []
    assert job.stdout is not None
    for line in job.stdout:
        events.append((time.monotonic() - start_s, samples.total_cpu_s, line.rstrip()))
        print(f"{events[-1][0]:7.1f} s {events[-1][1]:7.1f} CPU s  {line}", end="", file=sys.stderr)
    code = job.wait()
    is_over.set()
    sampler.join()
    if code:
        raise SystemExit(code)
    first = next(event for event in events if FIRST_COMMIT in event[2])
    return {
        "first_edit_s": round(first[0], 1),
        "first_edit_cpu_s": round(first[1], 1),
        "whole_s": round(time.monotonic() - start_s, 1),
        "whole_cpu_s": round(samples.total_cpu_s, 1),
        "peak_pss_gb": round(samples.peak_pss_mb / 1000, 2),
        "cpu_s": {name: round(value, 1) for name, value in samples.cpu_by_name().items()},
        "pss_mb_at_peak": {name: round(value) for name, value in samples.pss_mb.items()},
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and compare with the bounds."""
    parser = parser_of(__doc__)
    parser.add_argument("--before", type=Path, metavar="DIR", help="checkout to compare with")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each (1)")
    parser.add_argument("--at-least", type=float, default=0.0, help="fail below this ratio")
    parser.add_argument("--at-most-pss-gb", type=float, default=0.0, help="fail above this")
    parser.add_argument("settings", nargs="*", help="of the recipe, such as refine.mode=off")
    options = parser.parse_args(arguments)
    checkouts = [ROOT] if options.before is None else [options.before.absolute(), ROOT]
    runs: dict[Path, list[dict[str, Any]]] = {checkout: [] for checkout in checkouts}
    for _ in range(options.rounds):
        for checkout in checkouts:
            with tempfile.TemporaryDirectory() as folder:
                runs[checkout].append(measure(checkout, options.settings, Path(folder)))
    figures = min(runs[ROOT], key=lambda run: run["whole_s"])
    result = {**machine(), **figures}
    if options.before is not None:
        before = min(runs[checkouts[0]], key=lambda run: run["whole_s"])
        result["before"] = {"commit": commit_of(options.before), **before}
        result["times_faster"] = {n: round(before[n] / figures[n], 2) for n in COMPARED}
    publish(result, options.output)
    ratios = result.get("times_faster", {}).values()
    is_large = bool(options.at_most_pss_gb) and figures["peak_pss_gb"] > options.at_most_pss_gb
    return int(is_large or min(ratios, default=options.at_least) < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
