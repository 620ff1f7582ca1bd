"""What the training job draws before its first step, kept in the run folder; its states are in the
state cache."""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from infra.state_cache import StateCache
from liveedit_core.backbones.huggingface import HuggingFaceBackbone
from liveedit_core.builtin.benchmark import load_builtin_cases, load_things
from liveedit_core.schema import Case
from liveedit_core.state_source import BackboneStates, StateSource
from liveedit_core.training_data import TrainingData, draw_training_data
from liveedit_core.training_inputs import TrainingInputs
from pipelines.state_filling import fill_cache, open_cache, state_encoder, training_source
from pipelines.train_config import TrainRecipe
from workers.models import ModelNames, ModelSource

PICTURE_CHUNK = 64
DRAWINGS = "drawings.safetensors"
BUILTIN_MODELS = ModelNames()


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
    models: ModelSource = BUILTIN_MODELS,
) -> Material:
    """Draw cases, pairs and pictures, or read what an earlier call has drawn; fill the state cache.

    Args:
        recipe: What to draw, and how states are remembered.
        backbone: Encodes pictures, and all states that are not in the cache.
        folder: Keeps what was drawn.
        held_out_things: Names of things to leave out, in every drawing.
        models: The same backbone by name, for workers; the built-in one by default.
    """
    stamp = folder / "drawn.json"
    identity = {
        "backbone": backbone.digest,
        "encoding": backbone.encoding,
        "edit_layer": backbone.edit_layer,
        "seed": recipe.seed,
        "data": vars(recipe.data),
        "has_image_locality": recipe.joint.steps > 0,
        "held_out_things": sorted(held_out_things),
    }
    if not stamp.exists() or json.loads(stamp.read_text()) != identity:
        folder.mkdir(parents=True, exist_ok=True)
        draw_material(recipe, backbone, folder, held_out_things)
        stamp.write_text(json.dumps(identity))
    cache = open_cache(recipe.states, recipe.run_root, backbone)
    if cache is not None:
        inputs = TrainingInputs(folder / "inputs.safetensors")
        if cache.missing(inputs):  # else no worker need start
            with state_encoder(recipe.states, backbone, models) as encoder:
                fill_cache(cache, encoder, inputs, Progress("encoding edits and probes"))
    if not (folder / DRAWINGS).exists():
        encode_drawings(backbone, folder, cache, held_out_things)
    return load_material(folder, training_source(cache, backbone, models))


def draw_material(
    recipe: TrainRecipe,
    backbone: HuggingFaceBackbone,
    folder: Path,
    held_out_things: frozenset[str] = frozenset(),
) -> None:
    """Draw all that training will ask, from the seed, and write it to the folder."""
    (folder / DRAWINGS).unlink(missing_ok=True)
    rng = random.Random(recipe.seed)
    words = vocabulary_words(backbone)
    draw_training_data(
        choose_cases(recipe.data.cases_per_thing, rng, held_out_things),
        BackboneStates(backbone),
        num_pairs=recipe.data.num_pairs,
        has_image_locality=recipe.joint.steps > 0,
        random_target=lambda source: random_target(words, source),
        rng=rng,
    ).save(folder)


def load_material(folder: Path, source: StateSource) -> Material:
    """What `prepare_material` has drawn, in any process; states come from `source`."""
    things = json.loads((folder / "things.json").read_text())
    rows = load_file(folder / DRAWINGS)["rows"]
    drawings = Drawings(rows=rows, by_thing=tuple(tuple(index) for index in things))
    return Material(data=TrainingData.load(folder, source), drawings=drawings)


class Progress:
    """Prints done, total and the time left, at most every 20 seconds."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.start = self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last > 20 or done == total:
            self.last = now
            left = (now - self.start) / max(done, 1) * (total - done)
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
    backbone: HuggingFaceBackbone,
    folder: Path,
    cache: StateCache | None,
    held_out_things: frozenset[str] = frozenset(),
) -> None:
    """Pyramids of every drawing of every training thing that is not held out.

    Args:
        backbone: Encodes those that the cache does not hold.
        folder: Gets `drawings.safetensors` and `things.json`.
        cache: Holds those of all pictures that an edit or probe asks about.
        held_out_things: Names.
    """
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
        chunk = pictures[start : start + PICTURE_CHUNK]
        known = cache.pyramids(chunk) if cache is not None else {}
        new = [picture for picture in chunk if picture not in known]
        if new:
            known |= dict(zip(new, backbone.encode_pictures(new), strict=True))
        rows.append(torch.stack([known[picture] for picture in chunk]).half())
        report(start + len(chunk), len(pictures))
    (folder / "things.json").write_text(json.dumps(things))
    partial = folder / f".{DRAWINGS}.partial"
    save_file({"rows": torch.cat(rows)}, partial)
    partial.replace(folder / DRAWINGS)
