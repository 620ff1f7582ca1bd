"""Writes `user_world.parquet` and `emblem_test.parquet` from the collected entities.

Usage:
    python -m liveedit_core.builtin.build.user_cases.assets --world world.parquet \
        --emblems emblems.parquet --backbone CHECKPOINT_DIR

One row an entity, with nested lists of images and cases. Same entities, same seed, same files.
"""

import argparse
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from liveedit_core.builtin.build.user_cases.cases import (
    CaseRow,
    CaseWriter,
    Entity,
    Place,
    with_one_or_two_edits,
)
from liveedit_core.builtin.image_changes import has_plain_ground

SEED = 20261
NUM_CASES = {"development": 400, "test": 600}
NUM_EMBLEM_CASES = {"test": 400}
EDITED_SHARE = 0.9
"""Of the entities of a side and domain; the others are strangers."""
ASSETS = Path(__file__).parents[2] / "assets"


def strings(*names: str) -> list[tuple[str, pa.DataType]]:
    """Text fields."""
    return [(name, pa.string()) for name in names]


PROBE = pa.struct(strings("kind", "variant", "entity_id", "origin", "change", "prompt", "target"))
CASE = pa.struct(
    [
        *strings("origin", "prompt", "target"),
        ("tags", pa.map_(pa.string(), pa.string())),
        ("earlier", pa.list_(pa.struct(strings("prompt", "target")))),
        ("probes", pa.list_(PROBE)),
    ]
)
IMAGE = pa.struct(
    [
        *strings("origin", "package", "path", "licence", "credit"),
        ("image", pa.binary()),
        ("has_plain_ground", pa.bool_()),
    ]
)
SCHEMA = pa.schema(
    [
        *strings("entity_id", "name", "kind", "domain", "split"),
        ("images", pa.list_(IMAGE)),
        ("cases", pa.list_(CASE)),
    ]
)


def read_entities(file: Path) -> list[Entity]:
    """Collected entities by id; `split` is the hint of who collected them."""
    rows = pq.read_table(file).to_pylist()
    entities = [Entity(split=row.pop("split_hint"), **row) for row in rows]
    for entity in entities:
        for image in entity.images:
            image["has_plain_ground"] = has_plain_ground(image["image"])
    return sorted(entities, key=lambda entity: entity.entity_id)


def side_of_bystander(entity_id: str) -> str:
    """The side whose strangers a bystander belongs to."""
    number = int(hashlib.sha256(f"side:{entity_id}".encode()).hexdigest(), 16)
    return "test" if number % 5 < 3 else "development"


def pooled_features(images: Sequence[bytes], backbone_folder: Path) -> np.ndarray:
    """Unit vectors [N, 320] of the built-in image tower, centred on their mean."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from liveedit_core.backbones.image_tower import ImageTower
    from liveedit_core.builtin.backbone import PYRAMID

    model = AutoModelForImageTextToText.from_pretrained(backbone_folder, local_files_only=True)
    processor = AutoProcessor.from_pretrained(backbone_folder, local_files_only=True)
    tower = ImageTower(model, processor, levels=PYRAMID[-1:])
    features = tower.features(images, batch_size=32)
    pooled = np.stack(
        [features[image].pyramid_E.reshape(PYRAMID[-1].width, -1).mean(1) for image in images]
    )
    pooled = pooled - pooled.mean(0)
    unit: np.ndarray = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return unit


class NearestStranger:
    """Finds the stranger's image that looks most like an image."""

    def __init__(self, strangers: Sequence[Entity], feature_of: dict[bytes, np.ndarray]) -> None:
        self.places = [(entity, origin) for entity in strangers for origin in entity.origins]
        self.feature_of = feature_of
        self.features = np.stack([self._feature(place) for place in self.places])

    def _feature(self, place: Place) -> np.ndarray:
        return self.feature_of[place[0].image(place[1])["image"]]

    def __call__(self, entity: Entity, origin: str) -> Place:
        """By the cosine of pooled features."""
        similarity = self.features @ self._feature((entity, origin))
        return self.places[int(similarity.argmax())]


def write_cases(
    entities: Sequence[Entity],
    num_cases: dict[str, int],
    *,
    count_tokens: Callable[[str], int],
    feature_of: dict[bytes, np.ndarray],
) -> dict[str, list[CaseRow]]:
    """Cases by entity_id."""
    cases: dict[str, list[CaseRow]] = {}
    for side, count in num_cases.items():
        rng = random.Random(f"{SEED} {side}")
        members = [entity for entity in entities if entity.split == side]
        plan = with_one_or_two_edits(members, count, EDITED_SHARE, rng)
        edited = {entity.entity_id for entity, _ in plan}
        strangers = [
            entity
            for entity in entities
            if (entity.split == side and entity.entity_id not in edited)
            or (entity.split == "bystander" and side_of_bystander(entity.entity_id) == side)
        ]
        writer = CaseWriter(
            side,
            strangers=strangers,
            nearest=NearestStranger(strangers, feature_of),
            count_tokens=count_tokens,
            rng=rng,
        )
        for entity, num_edits in plan:
            cases[entity.entity_id] = writer.write(entity, num_edits)
        if side == "development":
            for entity in entities:
                if entity.split == "crowd":
                    cases[entity.entity_id] = [writer.crowd_case(entity)]
    return cases


def table_of(entities: Iterable[Entity], cases: dict[str, list[CaseRow]]) -> pa.Table:
    """One row an entity."""
    rows: list[dict[str, Any]] = []
    for entity in entities:
        row = asdict(entity)
        row["cases"] = [asdict(case) for case in cases.get(entity.entity_id, [])]
        for case in row["cases"]:
            case["tags"] = list(case["tags"].items())
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Write the cases about the collected entities.")
    parser.add_argument("--world", type=Path, required=True, help="collected entities (Parquet)")
    parser.add_argument("--emblems", type=Path, required=True, help="collected entities (Parquet)")
    parser.add_argument("--backbone", type=Path, required=True, help="backbone checkpoint folder")
    parser.add_argument("--output", type=Path, default=ASSETS)
    options = parser.parse_args()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.backbone, local_files_only=True)

    def count_tokens(text: str) -> int:
        return len(tokenizer.encode(f" {text}", add_special_tokens=False))

    sources = {
        "user_world.parquet": (options.world, NUM_CASES),
        "emblem_test.parquet": (options.emblems, NUM_EMBLEM_CASES),
    }
    for name, (source, num_cases) in sources.items():
        entities = read_entities(source)
        shown = [
            image["image"]
            for entity in entities
            if entity.split != "crowd"
            for image in entity.images
        ]
        features = pooled_features(shown, options.backbone)
        cases = write_cases(
            entities,
            num_cases,
            count_tokens=count_tokens,
            feature_of=dict(zip(shown, features, strict=True)),
        )
        file = options.output / name
        pq.write_table(table_of(entities, cases), file, compression="zstd", row_group_size=256)
        counts = Counter(dict.fromkeys(sorted({entity.split for entity in entities}), 0))
        for entity in entities:
            counts[entity.split] += len(cases.get(entity.entity_id, []))
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB, cases by split: {dict(counts)}")


if __name__ == "__main__":
    main()
