#!/usr/bin/env python
"""Large banks searched by the index, against the full scan in int8 of the same process.

    python -m tests.benchmarks.key_index [--sizes N ...] [--at-least RATIO] [--output FILE.json]

Banks of keys of real images (those of the built-in benchmarks, and copies of them with
noise, at cosines of 0.89 to 0.45) and of sparse keys (random unit vectors, the worst case: nothing
is near anything). Questions: other images of the benchmarks, with their figures, and vectors at
cosines of 0.45 to 0.95 of an edit; sparse banks get the latter alone. The offset is that of
the calibration, for real keys also 0.4, that of the built-in generator.

Search and comparison of images (all of routing that grows with a bank) are timed for some
questions, each by both in turn: medians of the wall clock, and of the CPU of all threads, which
other processes disturb less. The sets of experts that pass the visual filter, at most `max_kept`
best, are compared for all questions. `--at-least` is the least ratio of wall clocks, over all
rows. `--keys FILE` keeps the keys of images, which take minutes to encode. A million edits need
6 GB.
"""

import argparse
import gc
import random
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import faiss
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.vision_language import as_vision_language
from liveedit_core.builtin.backbone import builtin_generator_folder, load_named_backbone
from liveedit_core.builtin.benchmark import BUILTIN_BENCHMARKS, load_builtin_cases
from liveedit_core.method.calibration import calibrate
from liveedit_core.method.config import NUM_VIEWS, GeneratorConfig
from liveedit_core.method.features import Features
from liveedit_core.method.generator import LiveEditGenerator, load_generator
from liveedit_core.method.growing import SegmentedRows
from liveedit_core.method.key_index import KeyIndex
from liveedit_core.method.quantized import QuantizedSegment, quantized
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.routing import compare_images, hard_filter, unit_of
from liveedit_core.method.shortlist import scan, search_of
from tests.benchmarks.frame import machine, parser_of, publish

AT_ONCE = 20_000
"""Experts whose keys are made together."""
TOGETHER = 50
"""Questions that are scanned in one product where nothing is timed."""


class ImageKeys(NamedTuple):
    """Unit vectors of images; asked ones in all views, then those of figures, or zeros."""

    edits_NR: Tensor
    asked_BVR: Tensor


def image_keys(generator: LiveEditGenerator, file: Path | None, limit: int) -> ImageKeys:
    """Of edits and of other images in the built-in benchmarks."""
    if file is not None and file.exists():
        return ImageKeys(**load_file(file))
    loaded = load_named_backbone("builtin", generator.config.load_options(LoadOptions()))
    backbone, key = as_vision_language(loaded), generator.visual_key
    assert backbone.image_tower is not None
    cases = [
        case for name in BUILTIN_BENCHMARKS for case in load_builtin_cases("development", name)
    ]
    edited = dict.fromkeys(c.edit.image_bytes for c in cases if c.edit.image_bytes)
    probed = dict.fromkeys(p.image_bytes for c in cases for p in c.probes if p.image_bytes)
    draw = random.Random(0)
    edits = draw.sample(list(edited), min(limit, len(edited)))
    others = draw.sample([image for image in probed if image not in edited], min(limit, 400))

    tower = backbone.image_tower

    def pyramids_of(image: bytes) -> Tensor:
        pyramid_X = tower.features([image], 1)[image].pyramid_E
        return pyramid_X.view(-1, generator.config.visual_size)

    stored = torch.cat([key.unit(pyramids_of(image)[:1]) for image in edits])
    asked = torch.zeros(len(others), 2 * NUM_VIEWS, stored.shape[1])
    for row, image in enumerate(others):
        seen_XE = pyramids_of(image)
        seen_VXE = torch.cat([seen_XE[None], key.turned(seen_XE)])
        units_VR = key.unit(seen_VXE).transpose(0, 1).flatten(0, 1)
        asked[row, : len(units_VR)] = units_VR
    if file is not None:
        save_file({"edits_NR": stored, "asked_BVR": asked}, file)
    return ImageKeys(stored, asked)


def beside(unit_XR: Tensor, share_X1: Tensor, draw: torch.Generator) -> Tensor:
    """Unit vectors plus random ones of some length."""
    noise = functional.normalize(torch.randn(unit_XR.shape, generator=draw), dim=-1)
    return functional.normalize(unit_XR + share_X1 * noise, dim=-1)


def bank_of(config: GeneratorConfig, size: int, first_NR: Tensor | None) -> ExpertRepository:
    """Keys of images and noisy copies of them, or random ones; prompts are all the same."""
    draw = torch.Generator().manual_seed(size)
    visual = torch.zeros(size, config.visual_width)
    for start in range(0, size, AT_ONCE):
        rows = min(AT_ONCE, size - start)
        if first_NR is None:
            drawn = torch.randn(rows, config.visual_width, generator=draw)
            units = functional.normalize(drawn, dim=-1)
        else:
            chosen = torch.randint(len(first_NR), (rows,), generator=draw)
            units = beside(first_NR[chosen], 0.5 + 1.5 * torch.rand(rows, 1, generator=draw), draw)
        visual[start : start + rows] = units
    if first_NR is not None:
        visual[: len(first_NR)] = first_NR
    visual *= unit_of(config) ** 0.5
    return ExpertRepository(
        edit_ids=tuple(f"edit {n}" for n in range(size)),
        visual=visual,
        prompt=SegmentedRows([torch.zeros(size, 1)], size, width=config.feature_size),
        ranks_N=torch.zeros(size, dtype=torch.int64),
        down=torch.zeros(0, config.hidden_size),
        up=torch.zeros(0, config.hidden_size),
    )


def copies(bank: ExpertRepository, config: GeneratorConfig, count: int) -> Tensor:
    """Views of which one, three of four times the first, has a cosine of 0.45 to 0.95 with an edit;
    the others are of any direction."""
    draw = torch.Generator().manual_seed(count)
    places = torch.randint(len(bank), (count,), generator=draw)
    view = torch.randint(NUM_VIEWS, (count,), generator=draw) * (torch.arange(count) % 4 == 0)
    unit_BR = functional.normalize(bank.visual[places], dim=-1)
    cosine_B1 = 0.45 + 0.5 * torch.rand(count, 1, generator=draw)
    asked_BVR = torch.zeros(count, 2 * NUM_VIEWS, config.visual_width)
    drawn = torch.randn(count, NUM_VIEWS, config.visual_width, generator=draw)
    asked_BVR[:, :NUM_VIEWS] = functional.normalize(drawn, dim=-1)
    near_BR = beside(unit_BR, (1 / cosine_B1.square() - 1).sqrt(), draw)
    asked_BVR[torch.arange(count), view] = near_BR
    return asked_BVR


class Compared(NamedTuple):
    """Some questions by one of the two."""

    search_s: float
    """Without the comparison."""
    wall_s: float
    cpu_s: float
    kept: list[frozenset[int]]


class Banked(NamedTuple):
    """One bank, searched by both."""

    generator: LiveEditGenerator
    bank: ExpertRepository
    coded: KeyIndex
    scanned: tuple[QuantizedSegment, ...]

    def compared(self, asked_BVR: Tensor, offset: float, *, is_indexed: bool) -> Compared:
        config, visual = self.generator.config, self.bank.visual
        key, counts = self.generator.visual_key, [2] * len(asked_BVR)
        units_XVR = asked_BVR.unflatten(1, (2, NUM_VIEWS)).flatten(0, 1)
        visual_BVR, nearest, same = key.features_of(units_XVR, counts, is_edit=False)
        features = Features(visual_BVR, torch.zeros_like(visual_BVR), nearest, same)
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        search = search_of(features, config, offset)
        found_U = self.coded.find(search, self.bank, config) if is_indexed else None
        if found_U is None:
            found_U = scan(search, self.scanned).position_U
        search_s = time.perf_counter() - wall_s
        images = compare_images(features, visual[found_U], config, offset)
        kept_BU = hard_filter(images, images.margin_BN, config.with_changes(min_gate=0.0))
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        kept = [frozenset(found_U[kept_U].tolist()) for kept_U in kept_BU]
        return Compared(search_s, wall_s, cpu_s, kept)

    def measured(self, asked_BVR: Tensor, offset: float, num_timed: int) -> dict[str, Any]:
        """Medians of some questions, and of how many both keep the same."""
        alone = asked_BVR.split(1)
        timed: dict[str, list[Compared]] = {"index": [], "scan": []}
        draw = random.Random(0)
        for asked in draw.sample(alone, min(num_timed, len(alone))):
            for name, side in timed.items():
                side.append(self.compared(asked, offset, is_indexed=name == "index"))
        result: dict[str, Any] = {
            name: {
                "wall_ms": _milliseconds([one.wall_s for one in side]),
                "search_ms": _milliseconds([one.search_s for one in side]),
                "cpu_ms": _milliseconds([one.cpu_s for one in side]),
            }
            for name, side in timed.items()
        }
        found, whole = (
            [
                kept
                for asked in asked_BVR.split(count)
                for kept in self.compared(asked, offset, is_indexed=count == 1).kept
            ]
            for count in (1, TOGETHER)
        )
        pairs = list(zip(found, whole, strict=True))
        return result | {
            "offset": round(offset, 3),
            "ratio": round(result["scan"]["wall_ms"] / result["index"]["wall_ms"], 1),
            "questions": len(pairs),
            "kept_sets_equal": round(sum(a == b for a, b in pairs) / len(pairs), 5),
            "questions_that_keep": sum(map(bool, whole)),
            "kept": sum(map(len, whole)),
            "missed": sum(len(b - a) for a, b in pairs),
            "added": sum(len(a - b) for a, b in pairs),
        }


def _milliseconds(seconds: list[float]) -> float:
    return round(1000 * median(seconds[1:]), 2)


def measured_bank(
    generator: LiveEditGenerator, keys: ImageKeys | None, size: int, count: int, num_timed: int
) -> list[dict[str, Any]]:
    """One bank of keys of images, or of sparse ones."""
    config = generator.config
    bank = bank_of(config, size, None if keys is None else keys.edits_NR)
    asked_BVR = copies(bank, config, count)
    strict = calibrate(generator, bank).offset
    offsets = [strict]
    if keys is not None:
        asked_BVR = torch.cat([keys.asked_BVR[:count], asked_BVR[len(keys.asked_BVR) :]])
        offsets.append(generator.filter_offset)
    start_s = time.process_time()
    index = KeyIndex.of(bank, config)
    built_s = time.process_time() - start_s
    assert index is not None
    banked = Banked(generator, bank, index, quantized(bank.visual))
    code_bytes = sum(2 * block.codes.nbytes + 8 * len(block.codes) for block in index.blocks)
    return [
        {
            "keys": "sparse" if keys is None else "images",
            "size": size,
            "built_cpu_s": round(built_s, 1),
            "bytes_an_edit": code_bytes // size,
            **banked.measured(asked_BVR, offset, num_timed),
        }
        for offset in offsets
    ]


def arguments_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000])
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--images", type=int, default=600, help="that are encoded")
    parser.add_argument("--keys", type=Path, metavar="FILE.safetensors")
    parser.add_argument("--timed", type=int, default=400, help="of the questions")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--at-least", type=float, default=0.0)
    return parser.parse_args(arguments)


@torch.no_grad()
def main(arguments: list[str] | None = None) -> int:
    """Print a row for each bank and offset."""
    options = arguments_of(arguments)
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(1)
    generator = load_generator(builtin_generator_folder())
    keys = image_keys(generator, options.keys, options.images)
    rows: list[dict[str, Any]] = []
    for size in options.sizes:
        for some in (keys, None):
            rows += measured_bank(generator, some, size, options.questions, options.timed)
            gc.collect()
    ratio = min(row["ratio"] for row in rows)
    result = {"machine": machine(), "rows": rows, "ratio": ratio}
    publish(result, options.output)
    return int(ratio < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
