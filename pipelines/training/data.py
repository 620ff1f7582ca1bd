"""What the training job draws before its first step, kept in the run folder; its states are in the
state cache."""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from infra.cache.state_cache import StateCache
from liveedit_core.backbones.protocol import TrainableBackbone
from liveedit_core.errors import ConfigError
from liveedit_core.schema import Case
from liveedit_core.state_source import BackboneStates, StateSource
from liveedit_core.training.data import TrainingData, draw_training_data
from liveedit_core.training.training_inputs import TrainingInputs
from pipelines.job.state_cache import fill_cache, open_cache, state_encoder, training_source
from pipelines.training.cases import cases_digest, pictures_by_thing, training_cases
from pipelines.training.recipe import TrainRecipe
from pipelines.training.training_backbone import training_models
from workers.models import ModelSource

PICTURE_CHUNK = 64
DRAWINGS = "drawings.safetensors"
_WORD_BEGINNINGS = "\u0120\u2581"
"""How tokenizers write the space before a word: byte-level ones, and SentencePiece."""
_MOST_WORDS = 4
"""Of a random target."""


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Pyramids of all training pictures; none for a generator without a visual key."""

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
    backbone: TrainableBackbone,
    folder: Path,
    held_out_things: frozenset[str] = frozenset(),
    models: ModelSource | None = None,
    cases: Sequence[Case] | None = None,
) -> Material:
    """Draw cases, pairs and pictures, or read what an earlier call has drawn; fill the state cache.

    Args:
        recipe: What to draw, and how states are remembered.
        backbone: Encodes pictures, and all states that are not in the cache.
        folder: Keeps what was drawn.
        held_out_things: Names of things to leave out, in every drawing.
        models: The same backbone by name, for workers; by default as the recipe names it.
        cases: All training cases; by default those that the recipe names.
    """
    models = models or training_models(recipe)
    cases = training_cases(recipe) if cases is None else cases
    stamp = folder / "drawn.json"
    identity = {
        "backbone": backbone.digest,
        "encoding": backbone.encoding,
        "edit_layer": backbone.edit_layer,
        "seed": recipe.seed,
        "data": vars(recipe.data),
        "has_image_locality": recipe.joint.steps > 0,
        "held_out_things": sorted(held_out_things),
        "cases": cases_digest(cases),
    }
    if not stamp.exists() or json.loads(stamp.read_text()) != identity:
        folder.mkdir(parents=True, exist_ok=True)
        draw_material(recipe, backbone, folder, cases, held_out_things)
        stamp.write_text(json.dumps(identity))
    cache = open_cache(recipe.states, recipe.run_root, backbone)
    if cache is not None:
        inputs = TrainingInputs(folder / "inputs.safetensors")
        if cache.missing(inputs):  # else no worker need start
            with state_encoder(recipe.states, backbone, models) as encoder:
                fill_cache(cache, encoder, inputs, Progress("encoding edits and probes"))
    if recipe.model.visual_source == "tower_pyramid" and not (folder / DRAWINGS).exists():
        pictures = pictures_by_thing(recipe, cases, held_out_things)
        encode_drawings(backbone, folder, cache, pictures)
    return load_material(folder, training_source(cache, backbone, models))


def draw_material(
    recipe: TrainRecipe,
    backbone: TrainableBackbone,
    folder: Path,
    cases: Sequence[Case],
    held_out_things: frozenset[str] = frozenset(),
) -> None:
    """Draw all that training will ask, from the seed, and write it to the folder."""
    (folder / DRAWINGS).unlink(missing_ok=True)
    rng = random.Random(recipe.seed)
    words = vocabulary_words(backbone.tokenizer)
    draw_training_data(
        choose_cases(cases, recipe.data.cases_per_thing, rng, held_out_things),
        BackboneStates(backbone),
        num_pairs=recipe.data.num_pairs,
        has_image_locality=recipe.joint.steps > 0,
        random_target=lambda source: random_target(words, source),
        rng=rng,
    ).save(folder)


def load_material(folder: Path, source: StateSource) -> Material:
    """What `prepare_material` has drawn, in any process; states come from `source`."""
    drawings = Drawings(rows=torch.zeros(0), by_thing=())
    if (folder / DRAWINGS).exists():
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
    cases: Sequence[Case],
    per_thing: int,
    rng: random.Random,
    held_out_things: frozenset[str] = frozenset(),
) -> list[Case]:
    """Some cases of each training thing that is not held out."""
    by_thing: dict[str, list[Case]] = {}
    for case in cases:
        if case.thing in held_out_things:
            continue
        by_thing.setdefault(case.thing, []).append(case)
    chosen = []
    for group in by_thing.values():
        chosen += rng.sample(group, min(per_thing, len(group)))
    return chosen


def vocabulary_words(tokenizer: Any) -> list[str]:
    """Tokens that begin a word and are plain letters or digits.

    Raises:
        ConfigError: the tokenizer marks no beginnings of words.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    pieces = [str(token) for token in tokens if token is not None]
    words = [
        piece[1:]
        for piece in pieces
        if piece[:1] in _WORD_BEGINNINGS and piece[1:].isalnum() and piece[1:].isascii()
    ]
    if len(words) < _MOST_WORDS:
        raise ConfigError(
            f"{len(words)} tokens of the backbone's vocabulary begin a word of plain letters, too "
            "few to draw targets from; expected a byte-level or SentencePiece tokenizer"
        )
    return words


def random_target(words: list[str], rng: random.Random) -> str:
    """1 to 4 random words, short answers being more common."""
    return " ".join(rng.sample(words, rng.choice((1, 1, 2, 2, 2, 3, _MOST_WORDS))))


@torch.no_grad()
def encode_drawings(
    backbone: TrainableBackbone,
    folder: Path,
    cache: StateCache | None,
    pictures_of_things: Sequence[Sequence[bytes]],
) -> None:
    """Pyramids of the pictures of every training thing.

    Args:
        backbone: Encodes those that the cache does not hold.
        folder: Gets `drawings.safetensors` and `things.json`.
        cache: Holds those of all pictures that an edit or probe asks about.
        pictures_of_things: At least two of each thing.

    Raises:
        ConfigError: No thing has two pictures, or the backbone has no pyramid.
    """
    encode_pictures = getattr(backbone, "encode_pictures", None)
    if encode_pictures is None or not pictures_of_things:
        raise ConfigError(
            "model.visual_source: a tower_pyramid needs the built-in backbone, and cases that show "
            "things in more than one picture; use model.visual_source=edit_layer"
        )
    pictures: list[bytes] = []
    things = []
    for group in pictures_of_things:
        things.append(list(range(len(pictures), len(pictures) + len(group))))
        pictures += group
    report = Progress("encoding pictures")
    rows = []
    for start in range(0, len(pictures), PICTURE_CHUNK):
        chunk = pictures[start : start + PICTURE_CHUNK]
        known = cache.pyramids(chunk) if cache is not None else {}
        new = [picture for picture in chunk if picture not in known]
        if new:
            known |= dict(zip(new, encode_pictures(new), strict=True))
        rows.append(torch.stack([known[picture] for picture in chunk]).half())
        report(start + len(chunk), len(pictures))
    (folder / "things.json").write_text(json.dumps(things))
    partial = folder / f".{DRAWINGS}.partial"
    save_file({"rows": torch.cat(rows)}, partial)
    partial.replace(folder / DRAWINGS)
