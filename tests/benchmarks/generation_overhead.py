#!/usr/bin/env python
"""What routing and experts add to the time of an answer, with a bank of 1 000.

    python -m tests.benchmarks.generation_overhead [--tokens 20] [--batch 1] [--at-most 0.10]
        [--output tests/benchmarks/generation_overhead.json]

The built-in model answers questions about taught images, in turn as transformers generates them
and through the edited model, each round with other images; the medians are compared. The decoder's
pass of the image tower is in both, those of the pyramids and of the bare prompt in the second only.
An output file keeps the results of other settings.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from liveedit_core.backbones.image_tower import IMAGE_CACHE_BYTES, ImageFeatureCache, ImageTower
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
from tests.benchmarks.frame import machine, parser_of, publish
from tests.random_states import random_expert


def measure(num_edits: int, rounds: int, batch: int, num_tokens: int) -> dict[str, float]:
    """Median seconds of both for a batch, and how many questions kept an edit."""
    arguments: dict[str, Any] = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
    arguments["do_sample"] = False
    generator = load_generator(builtin_generator_folder())
    backbone = load_named_backbone(BUILTIN, generator.config.load_options(LoadOptions()))
    unedited = load_builtin_backbone()
    unedited.image_tower = ImageTower(unedited.model, unedited.processor, cache_bytes=0)
    edits = [case.edit for case in load_builtin_cases()[: batch * (rounds + 1)]]
    # Experts that nobody keeps, but everybody is compared with.
    nothing = torch.zeros(generator.config.num_queries, generator.config.module_dim)
    experts = [
        replace(random_expert(number, generator.config), visual_feature_QM=nothing)
        for number in range(num_edits - len(edits))
    ]
    bank = ExpertRepository.empty(generator.config).with_experts(generator.config, experts)
    model = EditedModel(backbone, generator, bank, weak="commit")
    model.edit_many((edit.image_bytes, edit.prompt, edit.target) for edit in edits)
    tower = backbone.image_tower
    assert tower is not None
    plain_s, edited_s, num_kept = [], [], 0
    for number in range(rounds + 1):
        chosen = edits[batch * number : batch * (number + 1)]
        items = [BackboneInput(prompt=one.prompt, image_bytes=one.image_bytes) for one in chosen]

        def plain(items: list[BackboneInput] = items) -> None:
            for part in unedited.generation_batches(items):
                unedited.model.generate(**part.arguments, pad_token_id=unedited.pad_id, **arguments)

        def edited(items: list[BackboneInput] = items) -> int:
            tower.cache = ImageFeatureCache(IMAGE_CACHE_BYTES)  # each question has a new image
            images, prompts = zip(*((one.image_bytes, one.prompt) for one in items), strict=True)
            done = model.generate(images, prompts, **arguments)
            return sum(bool(one.routing and one.routing.kept) for one in done)

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
    parser.add_argument("--rounds", type=int, default=8, help="batches of questions (8)")
    parser.add_argument("--tokens", type=int, default=20, help="of an answer (20)")
    parser.add_argument("--batch", type=int, default=1, help="questions at a time (1)")
    parser.add_argument("--at-most", type=float, default=0.0, help="fail above this share")
    options = parser.parse_args(arguments)
    figures = measure(options.edits, options.rounds, options.batch, options.tokens)
    settings = f"{options.tokens} tokens, batch {options.batch}"
    kept = options.output if options.output and options.output.exists() else None
    result = machine() | {"claims": json.loads(kept.read_text())["claims"] if kept else {}}
    result["claims"][settings] = {
        "edits": options.edits,
        "rounds": options.rounds,
        **{name: round(value, 4) for name, value in figures.items()},
    }
    publish(result, options.output)
    return int(bool(options.at_most) and figures["overhead"] > options.at_most)


if __name__ == "__main__":
    sys.exit(main())
