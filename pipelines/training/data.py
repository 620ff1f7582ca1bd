"""Data of a training run: drawn inputs are kept in its store, states in the state cache."""

import hashlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from infra.cache.state_cache import StateCache
from infra.cache.stored_inputs import StoredInputs
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.builtin.image_changes import CHANGES, changed, has_plain_ground
from liveedit_core.errors import ConfigError
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS
from liveedit_core.schema import Case
from liveedit_core.state_source import BackboneStates, StateSource
from liveedit_core.training.data import (
    IMAGE_LOCALITY,
    TrainingData,
    draw_training_data,
)
from liveedit_core.training.random_targets import MOST_WORDS, TargetWriter
from liveedit_core.whole_files import state_of, whole_file, write_whole
from pipelines.job.cases import cases_digest
from pipelines.job.state_cache import (
    Encoder,
    fill_cache,
    open_cache,
    state_encoder,
    training_source,
)
from pipelines.training.cases import (
    images_by_entity,
    sentinel_images,
    training_cases,
    training_models,
)
from pipelines.training.recipe import TrainRecipe

UPRIGHT_CHANGES = sorted(CHANGES.keys() - {"mirrored", "turned 90", "screenshot"})
IMAGE_CHUNK = 64
PYRAMIDS_FILE = "drawings.safetensors"
PROGRESS_INTERVAL_S = 20
_WORD_BEGINNINGS = "\u0120\u2581"
"""How tokenizers write the space before a word: byte-level ones, and SentencePiece."""


@dataclass(frozen=True, kw_only=True)
class Pyramids:
    """Image pyramids that the visual key is fitted on; empty without a visual key."""

    rows: Tensor
    """float16 [images, E]; those of no entity are further sentinels."""
    by_entity: tuple[tuple[int, ...], ...]
    """Rows of each entity; every entity has at least two."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that training reads."""

    data: TrainingData
    pyramids: Pyramids


def prepare_material(
    recipe: TrainRecipe,
    backbone: VisionLanguageBackbone,
    folder: Path,
    held_out_entities: frozenset[str] = frozenset(),
    cases: Sequence[Case] | None = None,
) -> Material:
    """Draw cases, pairs and images, unless folder and store hold those of an earlier call; fill the
    state cache. `cases` are by default those that the recipe names."""
    models = training_models(recipe)
    cases = training_cases(recipe, backbone) if cases is None else cases
    stamp = folder / "drawn.json"
    identity = {
        "backbone": backbone.digest,
        "encoding": backbone.encoding,
        "edit_layer": backbone.edit_layer,
        "seed": recipe.seed,
        "data": vars(recipe.data),
        "has_image_locality": recipe.joint.steps > 0,
        "held_out_entities": sorted(held_out_entities),
        "cases": cases_digest(cases),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    inputs = StoredInputs(ObjectStore(recipe.store_root), f"training-inputs/{digest[:32]}")
    if state_of(stamp) != identity or not inputs.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draw_material(recipe, backbone, folder, inputs, cases, held_out_entities)
        write_whole(stamp, json.dumps(identity))
    cache = open_cache(recipe.states, recipe.run_root, backbone)
    if cache is not None and cache.missing(inputs):  # else no worker need start
        with state_encoder(recipe.encoding, backbone, models) as encoder:
            fill_cache(cache, encoder, inputs, Progress("encoding edits and probes"))
    if recipe.model.visual_source == "tower_pyramid" and not (folder / PYRAMIDS_FILE).exists():
        copies = recipe.data.changed_copies
        images = [
            [copy for image in group for copy in (image, *changed_copies(image, copies))]
            for group in images_by_entity(recipe, cases, held_out_entities)
        ]
        size = pyramid_size(backbone, images)
        with state_encoder(recipe.encoding, backbone, models) as encoder:
            encode_pyramids(encoder, size, folder, cache, images, sentinel_images(recipe))
    return load_material(folder, inputs, training_source(cache, backbone, models))


def draw_material(
    recipe: TrainRecipe,
    backbone: VisionLanguageBackbone,
    folder: Path,
    stored: StoredInputs,
    cases: Sequence[Case],
    held_out_entities: frozenset[str] = frozenset(),
) -> None:
    """Draw the inputs of training from the seed, and write them to the store."""
    (folder / PYRAMIDS_FILE).unlink(missing_ok=True)
    rng = random.Random(recipe.seed)
    # An expert has a slot for each token and the end, or as many slots whatever its target.
    longest = min(recipe.model.rank - 1, MAX_TARGET_TOKENS) or 1
    words = vocabulary_words(backbone.tokenizer)
    data = draw_training_data(
        choose_cases(cases, recipe.data.cases_per_entity, rng, held_out_entities),
        BackboneStates(backbone),
        num_pairs=recipe.data.num_pairs,
        localities=IMAGE_LOCALITY if recipe.joint.steps else (),
        random_target=TargetWriter(backbone.count_target_tokens, words, longest),
        rng=rng,
    )
    stored.write(data.inputs)
    data.save(folder / "cases.json")


def load_material(folder: Path, inputs: StoredInputs, source: StateSource) -> Material:
    """What `prepare_material` has drawn; states come from `source`."""
    pyramids = Pyramids(rows=torch.zeros(0), by_entity=())
    if (folder / PYRAMIDS_FILE).exists():
        entities = json.loads((folder / "entities.json").read_text())
        rows = load_file(folder / PYRAMIDS_FILE)["rows"]
        pyramids = Pyramids(rows=rows, by_entity=tuple(tuple(index) for index in entities))
    return Material(
        data=TrainingData.load(folder / "cases.json", inputs, source), pyramids=pyramids
    )


class Progress:
    """Prints done, total and the time left, at most every 20 seconds."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.start = self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last > PROGRESS_INTERVAL_S or done == total:
            self.last = now
            left = (now - self.start) / max(done, 1) * (total - done)
            print(f"{self.title}: {done}/{total}, {left:.0f} s left", flush=True)


def choose_cases(
    cases: Sequence[Case],
    per_entity: int,
    rng: random.Random,
    held_out_entities: frozenset[str] = frozenset(),
) -> list[Case]:
    """Some cases of each training entity that is not held out."""
    by_entity: dict[str, list[Case]] = {}
    for case in cases:
        if case.entity not in held_out_entities:
            by_entity.setdefault(case.entity, []).append(case)
    chosen = []
    for group in by_entity.values():
        chosen += rng.sample(group, min(per_entity, len(group)))
    return chosen


def vocabulary_words(tokenizer: Any) -> list[str]:
    """Words of plain letters and digits that are one token."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    words = [
        token[1:]
        for token in map(str, tokens)
        if token[:1] in _WORD_BEGINNINGS and token[1:].isalnum() and token[1:].isascii()
    ]
    if len(words) < MOST_WORDS:
        raise ConfigError(
            f"{len(words)} tokens of the backbone's vocabulary begin a word of plain letters, too "
            "few to draw targets from; expected a byte-level or SentencePiece tokenizer"
        )
    return words


def changed_copies(image: bytes, count: int) -> list[bytes]:
    """Some copies of an image that still show it upright, each with another change."""
    first = int.from_bytes(hashlib.sha256(image).digest()[:4])
    copies: list[bytes] = []
    for number in range(len(UPRIGHT_CHANGES)):
        change = UPRIGHT_CHANGES[(first + 7 * number) % len(UPRIGHT_CHANGES)]
        if len(copies) < count and (change != "other background" or has_plain_ground(image)):
            copies.append(changed(image, change))
    return copies


def pyramid_size(
    backbone: VisionLanguageBackbone, images_of_entities: Sequence[Sequence[bytes]]
) -> int:
    """E; ConfigError where a visual key cannot be fitted to pyramids."""
    tower = backbone.image_tower
    if tower is None or not backbone.visual_size or not images_of_entities:
        raise ConfigError(
            "model.visual_source: a tower_pyramid needs the built-in backbone, and cases that show "
            "entities in more than one image; use model.visual_source=edit_layer"
        )
    return tower.pyramid_size


def encode_pyramids(
    encoder: Encoder,
    size: int,
    folder: Path,
    cache: StateCache | None,
    images_of_entities: Sequence[Sequence[bytes]],
    other_images: Sequence[bytes] = (),
) -> None:
    """Write the pyramids of the images of every training entity, at least two of each, and of
    other images."""
    rows_of_image = count()
    entities = [[next(rows_of_image) for _ in group] for group in images_of_entities]
    images = [image for group in images_of_entities for image in group] + list(other_images)
    report = Progress("encoding images")
    row_of: dict[bytes, Tensor] = {}
    distinct = list(dict.fromkeys(images))
    if cache is not None:
        for chunk in _chunks(distinct):
            row_of |= {image: row_E.half() for image, row_E in cache.pyramids(chunk).items()}
    missing = [image for image in distinct if image not in row_of]
    for chunk, rows_BE in zip(
        _chunks(missing), encoder.each_pyramids(_chunks(missing)), strict=True
    ):
        row_of |= dict(zip(chunk, rows_BE, strict=True))
        report(len(row_of), len(distinct))
    rows = torch.stack([row_of[image][:size] for image in images])
    write_whole(folder / "entities.json", json.dumps(entities))
    with whole_file(folder / PYRAMIDS_FILE) as partial:
        save_file({"rows": rows}, partial)


def _chunks(images: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(images), IMAGE_CHUNK):
        yield images[start : start + IMAGE_CHUNK]
