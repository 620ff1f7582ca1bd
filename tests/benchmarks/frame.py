"""What all benchmarks share: the parser, and how a result is printed and kept."""

import argparse
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = {"transformers": "transformers", "faiss": "faiss-cpu", "lance": "pylance"}
"""Distributions of what results depend on, beside torch."""


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints a docstring as it is written, with `--output`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    return parser


def machine() -> dict[str, Any]:
    """What a result was measured with."""
    return {
        "torch": torch.__version__,
        **{name: version(distribution) for name, distribution in LIBRARIES.items()},
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
    }


def cpu_model() -> str:
    """As Linux names it; "" elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "")


def commit_of(checkout: Path) -> str:
    """The commit that a folder was checked out at."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def publish(result: dict[str, Any], output: Path | None) -> None:
    """Print a result, and write it to a file if one is named."""
    text = json.dumps(result, indent=2)
    print(text)
    if output:
        output.write_text(text + "\n", encoding="utf-8")
