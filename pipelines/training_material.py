"""What the training job encodes before its first step, kept in the run folder."""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from liveedit_core.backbones.huggingface import HuggingFaceBackbone
from liveedit_core.builtin.benchmark import load_builtin_cases, load_things
from liveedit_core.schema import Case
from liveedit_core.training_data import TrainingData, encode_training_data
from pipelines.train_config import TrainRecipe

PICTURE_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Pyramids of all training pictures."""

    rows: Tensor
    """float16 [pictures, E]."""
    by_thing: tuple[tuple[int, ...], ...]
    """Picture positions of each thing; every thing has at least two."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """All that training reads."""

    data: TrainingData
    drawings: Drawings


def prepare_material(
    recipe: TrainRecipe,
    backbone: HuggingFaceBackbone,
    folder: Path,
    held_out_things: frozenset[str] = frozenset(),
) -> Material:
    """Encode cases, pairs and pictures, or read what an earlier call has encoded.

    Args:
        recipe: says what and how much.
        backbone: encodes.
        folder: keeps it.
        held_out_things: names of things to leave out, in every drawing.
    """
    stamp = folder / "complete.json"
    identity = {
        "backbone": backbone.digest,
        "edit_layer": backbone.edit_layer,
        "seed": recipe.seed,
        "data": vars(recipe.data),
        "has_image_locality": recipe.joint.steps > 0,
        "held_out_things": sorted(held_out_things),
    }
    if not stamp.exists() or json.loads(stamp.read_text()) != identity:
        folder.mkdir(parents=True, exist_ok=True)
        encode_drawings(backbone, folder, held_out_things)
        rng = random.Random(recipe.seed)
        words = vocabulary_words(backbone)
        encode_training_data(
            backbone,
            choose_cases(recipe.data.cases_per_thing, rng, held_out_things),
            num_pairs=recipe.data.num_pairs,
            has_image_locality=recipe.joint.steps > 0,
            random_target=lambda source: random_target(words, source),
            rng=rng,
            report=Progress("encoding edits and probes"),
        ).save(folder)
        stamp.write_text(json.dumps(identity))
    things = json.loads((folder / "things.json").read_text())
    rows = load_file(folder / "drawings.safetensors")["rows"]
    drawings = Drawings(rows=rows, by_thing=tuple(tuple(index) for index in things))
    return Material(data=TrainingData.load(folder), drawings=drawings)


class Progress:
    """Prints done, total and the time left, at most every 20 seconds."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.start = self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last > 20 or done == total:
            self.last = now
            left = (now - self.start) / done * (total - done)
            print(f"{self.title}: {done}/{total}, {left:.0f} s left", flush=True)


def choose_cases(
    per_thing: int, rng: random.Random, held_out_things: frozenset[str] = frozenset()
) -> list[Case]:
    """Some cases of each training thing that is not held out."""
    by_thing: dict[str, list[Case]] = {}
    for case in load_builtin_cases("train"):
        if case.thing in held_out_things:
            continue
        by_thing.setdefault(case.thing, []).append(case)
    chosen = []
    for cases in by_thing.values():
        chosen += rng.sample(cases, min(per_thing, len(cases)))
    return chosen


def vocabulary_words(backbone: HuggingFaceBackbone) -> list[str]:
    """Tokens that begin a word and are plain letters or digits."""
    size = backbone.embed.weight.shape[0]
    texts = [backbone.tokenizer.decode([token]) for token in range(17, size)]
    return [text[1:] for text in texts if text[0] == " " and text[1:].isalnum() and text.isascii()]


def random_target(words: list[str], rng: random.Random) -> str:
    """1 to 4 random words, short answers being more common."""
    return " ".join(rng.sample(words, rng.choice((1, 1, 2, 2, 2, 3, 4))))


@torch.no_grad()
def encode_drawings(
    backbone: HuggingFaceBackbone, folder: Path, held_out_things: frozenset[str] = frozenset()
) -> None:
    """Run the image tower on every drawing of every training thing that is not held out."""
    pictures: list[bytes] = []
    things = []
    for thing in load_things("train", "known_train"):
        if thing.name in held_out_things:
            continue
        things.append(list(range(len(pictures), len(pictures) + len(thing.pictures))))
        pictures += [image_bytes for _, image_bytes in sorted(thing.pictures.items())]
    report = Progress("encoding pictures")
    rows = []
    for start in range(0, len(pictures), PICTURE_CHUNK):
        rows.append(backbone.encode_pictures(pictures[start : start + PICTURE_CHUNK]).half())
        report(min(start + PICTURE_CHUNK, len(pictures)), len(pictures))
    save_file({"rows": torch.cat(rows)}, folder / "drawings.safetensors")
    (folder / "things.json").write_text(json.dumps(things))
