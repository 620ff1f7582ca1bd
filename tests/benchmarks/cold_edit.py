#!/usr/bin/env python
"""One edit of an image that was never seen: written alone, and with verifying and refining.

    python -m tests.benchmarks.cold_edit --before DIR [--edits 20] [--at-least 1.35]

`DIR` is another checkout. One process for each checkout teaches the same facts of EmblemEdit's
`validation` through the library, in turn, one thread each, in float32 and, where the processor has
it, in bfloat16. Seconds of CPU, medians of the ratios edit by edit.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.frame import machine, parser_of, publish

ROOT = Path(__file__).parents[2]
DTYPES = ("float32", "bfloat16")
CHILD = """
import json, sys, time, torch
torch.set_num_threads(1)
from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.edited_model import open_model
from liveedit_core.method.config import RefineSection

options = LoadOptions(compute_dtype=sys.argv[1])
models = {
    mode: open_model(options=options, weak="commit", refine=RefineSection(mode=mode))
    for mode in ("off", "on")
}
facts = [case.edit for case in load_builtin_cases("validation")]
for line in sys.stdin:
    fact, seconds = facts[int(line)], {}
    for mode, model in models.items():
        start = time.process_time()
        model.edit(fact.image_bytes, fact.prompt, fact.target)
        seconds[mode] = time.process_time() - start
    print(json.dumps(seconds), flush=True)
"""


class Checkout:
    """A process that teaches with the code of a checkout."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, dtype],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def teach(self, number: int) -> dict[str, float]:
        """CPU seconds of an edit, without refining ("off") and with it ("on")."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        seconds: dict[str, float] = json.loads(self._process.stdout.readline())
        return seconds

    def close(self) -> None:
        self._process.communicate()


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def measure(before: Path, num_edits: int) -> dict[str, Any]:
    """CPU seconds of an edit by dtype of this checkout, and how many times the other takes (in
    float32)."""
    dtypes = DTYPES if has_bfloat16() else DTYPES[:1]
    checkouts = {dtype: Checkout(ROOT, dtype) for dtype in dtypes}
    checkouts["before"] = Checkout(before, "float32")
    rounds = []
    for number in range(num_edits + 1):
        order = list(checkouts) if number % 2 else list(checkouts)[::-1]
        rounds.append({name: checkouts[name].teach(number) for name in order})
    for checkout in checkouts.values():
        checkout.close()
    taught = rounds[1:]  # the first warms up
    result: dict[str, Any] = {}
    for dtype in dtypes:
        for mode, name in (("off", "writing"), ("on", "with refining")):
            ratios = [one["before"][mode] / one[dtype][mode] for one in taught]
            result.setdefault(dtype, {})[name] = {
                "cpu_s": round(statistics.median(one[dtype][mode] for one in taught), 3),
                "times_faster": round(statistics.median(ratios), 2),
            }
    return result


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and compare with `--at-least`."""
    parser = parser_of(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--edits", type=int, default=20, help="facts that are taught (20)")
    parser.add_argument("--at-least", type=float, default=0.0, help="fail below, writing, float32")
    options = parser.parse_args(arguments)
    commit = ["git", "-C", str(options.before), "rev-parse", "--short", "HEAD"]
    before = subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()
    result: dict[str, Any] = {**machine(), "before": before, "edits": options.edits}
    result |= measure(options.before.resolve(), options.edits)
    publish(result, options.output)
    return int(result["float32"]["writing"]["times_faster"] < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
