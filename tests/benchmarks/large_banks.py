#!/usr/bin/env python
"""What a large bank costs the library and routing, in one run.

    python -m tests.benchmarks.large_banks [--at-least RATIO] [--output FILE.json]

- `edit()` and `remove()` in a bank of --large edits against one of --small, alternating, and by how
  much an edit grows the memory of the process, as a share of the bank.
- One question routed over the shortlist against all experts (in float64, which no user asks for),
  in a bank of --scan edits, alternating. `--at-least` is the least ratio of the two. The scan that
  finds the shortlist is timed in int8 and in float32 as well.

Experts are random, with the generator's shapes; edits are written without refining.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.nn import functional

from liveedit_core.backbones.image_tower import ImageFeatureCache
from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.prompt_encoder import load_prompt_encoder
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import as_vision_language
from liveedit_core.builtin.backbone import builtin_generator_folder, load_named_backbone
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.edited_model import EditedModel
from liveedit_core.method.config import RefineSection
from liveedit_core.method.editor import Editor
from liveedit_core.method.generator import LiveEditGenerator, load_generator
from liveedit_core.method.quantized import QuantizedSegment, quantized
from liveedit_core.method.repository import ExpertRepository, segments_of
from liveedit_core.method.routing import unit_of
from liveedit_core.method.shortlist import Search, scan
from liveedit_core.schema import Case
from tests.benchmarks.frame import machine, parser_of, publish

RANK = 4


def random_bank(generator: LiveEditGenerator, size: int) -> ExpertRepository:
    """Unit vectors, and matrices of one rank."""
    config, draw = generator.config, torch.Generator().manual_seed(size)
    units = functional.normalize(torch.randn(size, config.visual_rank, generator=draw), dim=-1)
    return ExpertRepository(
        edit_ids=tuple(f"random {n}" for n in range(size)),
        visual=units * unit_of(config) ** 0.5,
        prompt=torch.randn(size, config.feature_size, generator=draw),
        ranks_N=torch.full((size,), RANK),
        down=torch.randn(size * RANK, config.hidden_size, generator=draw),
        up=torch.zeros(size * RANK, config.hidden_size),
    )


def timed(action: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    """Seconds, and what it returned."""
    start_s = time.perf_counter()
    returned = action(*arguments, **options)
    return time.perf_counter() - start_s, returned


def library(
    models: dict[int, EditedModel], cases: list[Case], rounds: int
) -> dict[str, dict[int, float]]:
    """Median milliseconds of an edit and its removal, by size of the bank."""
    backbone = as_vision_language(next(iter(models.values())).editor.backbone)
    assert backbone.image_tower is not None
    taken: dict[str, dict[int, list[float]]] = {
        name: {size: [] for size in models} for name in ("edit", "remove")
    }
    for case in cases[:rounds]:
        edit = case.edit
        for size, model in models.items():
            # Each bank encodes the image and the prompt.
            backbone.image_tower.cache = ImageFeatureCache(0)
            load_prompt_encoder().rows.cache_clear()
            edit_s, edit_id = timed(model.edit, edit.image_bytes, edit.prompt, edit.target)
            taken["edit"][size].append(edit_s)
            taken["remove"][size].append(timed(model.remove, edit_id)[0])
    return {
        name: {size: round(1000 * median(values[1:]), 2) for size, values in by_size.items()}
        for name, by_size in taken.items()
    }


def routing(editor: Editor, cases: list[Case], rounds: int) -> dict[str, float]:
    """Median milliseconds of routing one question, over the shortlist and over all experts."""
    everything = editor.repository.held_positions
    taken: dict[bool, list[float]] = {False: [], True: []}
    for case in cases[:rounds]:
        edit = case.edit
        states = editor.backbone.encode(
            [BackboneInput(prompt=edit.prompt, image_bytes=edit.image_bytes)]
        )
        for is_complete, values in taken.items():
            compared = everything if is_complete else None
            values.append(timed(editor.route, states, compared_U=compared)[0])
    shortlist, complete = (1000 * median(values[1:]) for values in taken.values())
    return {
        "shortlist_ms": round(shortlist, 2),
        "all_ms": round(complete, 2),
        "ratio": round(complete / shortlist, 1),
    }


def scanning(editor: Editor, rounds: int) -> dict[str, float]:
    """Median milliseconds of finding the experts that matter to a question, in int8 and as
    features are."""
    bank = editor.repository
    rows_KR = bank.visual[torch.arange(rounds)]
    plain = [QuantizedSegment(part, ()) for part in segments_of(bank.visual)]
    scanned = {"int8": quantized(bank.visual), "float32": plain}
    taken: dict[str, list[float]] = {name: [] for name in scanned}
    for row_R in rows_KR:
        least_Q = 0.5 * row_R.square().sum()[None]
        search = Search(row_R[None], least_Q, least_Q, least_Q, least_Q, torch.zeros(1))
        for name, segments in scanned.items():
            taken[name].append(timed(scan, search, segments)[0])
    int8, float32 = (1000 * median(values[1:]) for values in taken.values())
    return {
        "int8_ms": round(int8, 2),
        "float32_ms": round(float32, 2),
        "ratio": round(float32 / int8, 1),
    }


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def arguments_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--large", type=int, default=50_000)
    parser.add_argument("--scan", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--at-least", type=float, default=0.0)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print the medians and their ratios."""
    options = arguments_of(arguments)
    generator = load_generator(builtin_generator_folder())
    backbone = load_named_backbone("builtin", generator.config.load_options(LoadOptions()))
    cases = load_builtin_cases("validation", "user_world")
    off = RefineSection(mode="off")
    banks = {size: random_bank(generator, size) for size in (options.small, options.large)}
    models = {
        size: EditedModel(backbone, generator, bank, refine=off) for size, bank in banks.items()
    }
    library(models, cases[-2:], 2)  # warm
    before = peak_bytes()
    times = library(models, cases, options.rounds)
    grown = peak_bytes() - before
    columns = ("visual_features_NK", "prompt_features_NK", "down_LD", "up_LD")
    bank_bytes = sum(getattr(banks[options.large], name).nbytes for name in columns)
    editor = Editor(backbone, generator, random_bank(generator, options.scan))
    routed = routing(editor, cases, options.rounds)
    result = {
        "machine": machine(),
        "sizes": [options.small, options.large, options.scan],
        "milliseconds": times,
        "large_over_small": {
            name: round(by_size[options.large] / by_size[options.small], 2)
            for name, by_size in times.items()
        },
        "peak_growth_over_bank": round(grown / bank_bytes, 3),
        "routing": routed,
        "scan": scanning(editor, options.rounds),
    }
    publish(result, options.output)
    return int(routed["ratio"] < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
