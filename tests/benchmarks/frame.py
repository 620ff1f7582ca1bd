"""What all benchmarks share: the parser, and how a result is printed and kept."""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch


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
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def publish(result: dict[str, Any], output: Path | None) -> None:
    """Print a result, and write it to a file if one is named."""
    text = json.dumps(result, indent=2)
    print(text)
    if output:
        output.write_text(text + "\n", encoding="utf-8")
