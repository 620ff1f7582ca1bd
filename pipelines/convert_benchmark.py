#!/usr/bin/env python
"""Convert a published benchmark to cases JSONL, which every job reads with --cases.

    convert_benchmark.py evqa vqa_eval.json --images ROOT --output cases.jsonl
    convert_benchmark.py vlkeb eval.json eval_multihop.json --images ROOT --output cases.jsonl
    convert_benchmark.py comprehendedit ComprehendEdit_test.json ComprehendEdit_ori_right.json ...

All records and images are checked first; images stay in place. Further files hold more edits
(mmke), portability questions of the first one's (vlkeb), or samples that it names (comprehendedit).
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

if __name__ == "__main__":  # the packages lie one folder above this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from liveedit_core.backbones.load_options import PromptProtocol
from pipelines.job import entry
from pipelines.job.sections import MissingImages, PublishedName


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = entry.job_parser(__doc__)
    parser.add_argument("benchmark", choices=get_args(PublishedName))
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="as published")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="ROOT", help="where image paths start from"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument(
        "--missing-images",
        choices=get_args(MissingImages),
        default="fatal",
        help="records whose images are missing or unreadable: write nothing, or leave them out",
    )
    parser.add_argument(
        "--protocol",
        choices=get_args(PromptProtocol),
        default="chat",
        help="tag of the cases: how their prompts are to reach the model (benchmark.protocol)",
    )
    parser.add_argument(
        "--derived-localities",
        action="store_true",
        help="add probes on the nearest other image and prompt, and without an image",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return entry.exit_code_of(lambda: convert(options))


def convert(options: argparse.Namespace) -> int:
    from liveedit_core.published.benchmark import open_benchmark
    from liveedit_core.published.conversion import write_cases

    benchmark = open_benchmark(
        options.benchmark,
        options.files,
        options.images,
        missing_images=options.missing_images,
        protocol=options.protocol,
        has_derived=options.derived_localities,
    )
    num_cases = write_cases(benchmark, options.output)
    print(*benchmark.notes(), f"{num_cases:,} cases written to {options.output}", sep="\n")
    images, folder = options.images.resolve(), options.output.resolve().parent
    if not images.is_relative_to(folder):
        print(f"to teach or evaluate them, name their images: limits.image_roots='[\"{images}\"]'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
