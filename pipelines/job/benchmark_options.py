"""The section `[benchmark]` of the recipes, and the options that set it."""

import argparse
from dataclasses import dataclass
from typing import Literal

from liveedit_core.errors import ConfigError

BENCHMARKS = ("evqa", "eic", "vlkeb")
MISSING_IMAGES = ("fatal", "skipped")


@dataclass(frozen=True, kw_only=True)
class BenchmarkSection:
    """A published benchmark as the source of cases; see `liveedit_core/published/README.md`."""

    name: Literal["", "evqa", "eic", "vlkeb"] = ""
    """"evqa" (E-VQA), "eic" (E-IC) or "vlkeb" (VLKEB); empty for the other sources of cases."""
    data: str = ""
    """Folder with its JSON files. Training takes the training file, other jobs the evaluation."""
    images: str = ""
    """Folder that image paths start from; empty: the one that lies in `data` under its published
    name, otherwise `data` itself."""
    missing_images: Literal["fatal", "skipped"] = "fatal"
    """What an image that is missing or unreadable does: nothing begins ("fatal"), or the records
    that need it are left out, on record ("skipped")."""

    def __post_init__(self) -> None:
        """Refuse a benchmark without its folder, and a folder of no benchmark."""
        if self.name and not self.data:
            raise ConfigError(f"data must name the folder with the files of {self.name!r} (--data)")
        for field in ("data", "images"):
            if getattr(self, field) and not self.name:
                raise ConfigError(f"{field} is set, but no benchmark is named (--benchmark)")

    @property
    def is_on(self) -> bool:
        """Whether cases come from a published benchmark."""
        return self.name != ""


def add_benchmark_options(
    parser: argparse.ArgumentParser, sources: "argparse._MutuallyExclusiveGroup | None" = None
) -> None:
    """Add `--benchmark`, `--data`, `--images` and `--missing-images`.

    Args:
        parser: Gets the options.
        sources: Of its options one may be given; `--benchmark` becomes one of them.
    """
    (sources or parser).add_argument(
        "--benchmark", choices=BENCHMARKS, help="cases of a published benchmark"
    )
    parser.add_argument("--data", metavar="DIR", help="folder with the files of the benchmark")
    parser.add_argument(
        "--images", metavar="ROOT", help="where its image paths start from (found in --data)"
    )
    parser.add_argument(
        "--missing-images",
        choices=MISSING_IMAGES,
        help="begin nothing when images are missing or unreadable, or leave their records out",
    )


def benchmark_settings(options: argparse.Namespace) -> list[tuple[str, object]]:
    """The settings that the options name, as `entry.resolve` takes them."""
    return [
        ("benchmark.name", options.benchmark),
        ("benchmark.data", options.data),
        ("benchmark.images", options.images),
        ("benchmark.missing_images", options.missing_images),
    ]
