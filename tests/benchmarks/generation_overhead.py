#!/usr/bin/env python
"""What routing and experts add to the time of an answer: 20 tokens, batch 1, a bank of 1 000.

    python -m tests.benchmarks.generation_overhead [--edits 1000] [--rounds 8] [--at-most 0.10]

The built-in model answers questions about taught images, in turn as transformers generates them
and through the edited model, each round with another image; the medians are compared. The decoder's
pass of the image tower is in both, those of the pyramids and of the bare prompt in the second only.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from liveedit_core.backbones.image_tower import ImageTower
from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.builtin.backbone import (
    BUILTIN,
    builtin_generator_folder,
    load_builtin_backbone,
    load_named_backbone,
)
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.edited_model import EditedModel
from liveedit_core.method.generator import load_generator
from liveedit_core.method.repository import ExpertRepository
from tests.benchmarks.frame import parser_of, publish
from tests.random_states import random_expert

RESULTS = Path(__file__).with_suffix(".json")
OPTIONS: dict[str, Any] = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False}


def measure(num_edits: int, rounds: int) -> dict[str, float]:
    """Median seconds of both, and how many questions kept an edit."""
    generator = load_generator(builtin_generator_folder())
    backbone = load_named_backbone(BUILTIN, generator.config.load_options(LoadOptions()))
    unedited = load_builtin_backbone()
    unedited.image_tower = ImageTower(unedited.model, unedited.processor, cache_bytes=0)
    edits = [case.edit for case in load_builtin_cases()[: rounds + 1]]
    # Experts that nobody keeps, but everybody is compared with.
    nothing = torch.zeros(generator.config.num_queries, generator.config.module_dim)
    experts = [
        replace(random_expert(number, generator.config), visual_feature_QM=nothing)
        for number in range(num_edits - len(edits))
    ]
    bank = ExpertRepository.empty(generator.config).with_experts(generator.config, experts)
    model = EditedModel(backbone, generator, bank)
    model.edit_many((edit.image_bytes, edit.prompt, edit.target) for edit in edits)
    assert backbone.image_tower is not None
    backbone.image_tower.cache.max_bytes = 0  # each question has a new image
    plain_s, edited_s, num_kept = [], [], 0
    for number, edit in enumerate(edits):
        item = BackboneInput(prompt=edit.prompt, image_bytes=edit.image_bytes)

        def plain(item: BackboneInput = item) -> None:
            (batch,) = unedited.generation_batches([item])
            unedited.model.generate(**batch.arguments, pad_token_id=unedited.pad_id, **OPTIONS)

        def edited(item: BackboneInput = item) -> bool:
            (done,) = model.generate([item.image_bytes], [item.prompt], **OPTIONS)
            return bool(done.routing and done.routing.kept)

        first, second = (plain, edited) if number % 2 else (edited, plain)
        times = {first: _seconds(first), second: _seconds(second)}
        if number:  # the first round warms up
            plain_s.append(times[plain])
            edited_s.append(times[edited])
            num_kept += edited()
    ratios = [one / other for one, other in zip(edited_s, plain_s, strict=True)]
    return {
        "plain_s": statistics.median(plain_s),
        "edited_s": statistics.median(edited_s),
        "overhead": statistics.median(ratios) - 1,
        "questions_that_kept_an_edit": num_kept,
    }


def _seconds(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and compare with `--at-most`."""
    parser = parser_of(__doc__)
    parser.add_argument("--edits", type=int, default=1000, help="experts in the bank (1000)")
    parser.add_argument("--rounds", type=int, default=8, help="questions (8)")
    parser.add_argument("--at-most", type=float, default=0.0, help="fail above this share")
    parser.add_argument("--write", action="store_true", help=f"keep the result in {RESULTS.name}")
    options = parser.parse_args(arguments)
    figures = measure(options.edits, options.rounds)
    result = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}",
        "edits": options.edits,
        "rounds": options.rounds,
        **{name: round(value, 4) for name, value in figures.items()},
    }
    publish(result, RESULTS if options.write else options.output)
    return int(bool(options.at_most) and figures["overhead"] > options.at_most)


if __name__ == "__main__":
    sys.exit(main())
