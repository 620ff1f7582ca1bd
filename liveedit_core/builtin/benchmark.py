"""The built-in benchmarks: EmblemEdit and the user's world (see README).

Images are stored once; the changed copies that probes show are made when cases are loaded.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from liveedit_core.builtin.image_changes import changed
from liveedit_core.errors import ConfigError
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind

BuiltinBenchmark = Literal["emblem_edit", "user_world"]
BUILTIN_BENCHMARKS: tuple[BuiltinBenchmark, ...] = ("emblem_edit", "user_world")
ASSETS = Path(__file__).parent / "assets"
BENCHMARK_FILE = ASSETS / "emblem_edit.parquet"
EMBLEM_TEST_FILE = ASSETS / "emblem_test.parquet"
USER_WORLD_FILE = ASSETS / "user_world.parquet"

_MEMBERS: dict[BuiltinBenchmark, dict[str, tuple[Path, tuple[str, ...]]]] = {
    "emblem_edit": {
        "train": (BENCHMARK_FILE, ("train", "known_train")),
        "development": (BENCHMARK_FILE, ("evaluation",)),
        "validation": (BENCHMARK_FILE, ("evaluation",)),
        "test": (EMBLEM_TEST_FILE, ("test",)),
    },
    "user_world": {
        "development": (USER_WORLD_FILE, ("development",)),
        "validation": (USER_WORLD_FILE, ("development",)),
        "test": (USER_WORLD_FILE, ("test",)),
        "crowd": (USER_WORLD_FILE, ("crowd",)),
    },
}
"""File and splits of it by benchmark and split."""
_FIRST_VARIANTS = {
    "modal_generality": "other drawing",
    "image_swap_locality": "random",
    "prompt_swap_locality": "another question",
}
"""Variants of the probes in EmblemEdit's first file, which does not name them."""


@dataclass(frozen=True, kw_only=True)
class EntityRow:
    """An entity of the benchmark and its images by origin."""

    entity_id: str
    name: str
    kind: str
    split: str
    images: dict[str, bytes] = field(repr=False)


@lru_cache(maxsize=3)
def read_rows(file: Path) -> tuple[dict[str, Any], ...]:
    """All rows of a Parquet file, under the names of `build/user_cases/assets.py`."""
    import pyarrow.parquet as pq

    rows = pq.read_table(file).to_pylist()
    return tuple(map(_renamed, rows) if file == BENCHMARK_FILE else rows)


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of EmblemEdit's first file under the names of the later ones."""
    cases = [
        {
            **case,
            "tags": [("domain", row["domain"]), ("family", case["family"])],
            "earlier": [],
            "probes": [
                {
                    **probe,
                    "entity_id": probe["thing_id"],
                    "change": "",
                    "variant": _FIRST_VARIANTS.get(probe["kind"], ""),
                }
                for probe in case["probes"]
            ],
        }
        for case in row["cases"]
    ]
    return {**row, "entity_id": row["thing_id"], "images": row["pictures"], "cases": cases}


def load_entities(*splits: str) -> list[EntityRow]:
    """Entities of some splits of EmblemEdit's first file, or of all."""
    return [
        EntityRow(
            entity_id=row["entity_id"],
            name=row["name"],
            kind=row["kind"],
            split=row["split"],
            images={image["origin"]: image["image"] for image in row["images"]},
        )
        for row in read_rows(BENCHMARK_FILE)
        if not splits or row["split"] in splits
    ]


def load_builtin_cases(
    split: str = "development",
    benchmark: BuiltinBenchmark = "emblem_edit",
    *,
    limit: int = 0,
    is_look: bool = False,
) -> list[Case]:
    """Cases of a split, in a fixed, mixed order; the first `limit` if that is not 0.

    "train" includes known_train; the "crowd" has edits without probes, to fill large banks. A third
    of the entities of `development` are `validation`: every setting is chosen there and nowhere
    else. `test` is sealed: `is_look` says that the caller announces and records the look.
    """
    if split == "test" and not is_look:
        raise ConfigError(
            "split 'test' is sealed: no setting may be chosen on it; use 'validation', or make "
            "final-numbers, which scores it once for each generator"
        )
    splits = _MEMBERS[benchmark]
    if split not in splits:
        renamed = "; 'evaluation' is now called 'development'" if split == "evaluation" else ""
        raise ConfigError(
            f"split of {benchmark}: expected one of {', '.join(splits)}, got {split!r}{renamed}"
        )
    file, members = splits[split]
    images = {
        (row["entity_id"], image["origin"]): image["image"]
        for row in read_rows(file)
        for image in row["images"]
    }
    written = [
        (_edit(row, case, images, benchmark), row, case)
        for row in read_rows(file)
        if row["split"] in members
        and (split != "validation" or is_validation_entity(row["entity_id"]))
        for case in row["cases"]
    ]
    written.sort(key=lambda each: each[0].edit_id)
    return [_case(edit, row, case, images) for edit, row, case in written[: limit or None]]


def is_validation_entity(entity_id: str) -> bool:
    """Whether an entity of `development` is one of the third that settings are chosen on."""
    return int(hashlib.sha256(entity_id.encode()).hexdigest(), 16) % 3 == 0


_Images = Mapping[tuple[str, str], bytes]
"""By entity_id and origin."""


def _edit(
    row: dict[str, Any], case: dict[str, Any], images: _Images, benchmark: BuiltinBenchmark
) -> EditRequest:
    scheme = benchmark.replace("_", "-")
    return EditRequest(
        image_bytes=images[row["entity_id"], case["origin"]],
        prompt=case["prompt"],
        target=case["target"],
        image_uri=f"{scheme}://{row['entity_id']}/{case['origin']}",
        submitter=scheme,
    )


def _case(edit: EditRequest, row: dict[str, Any], case: dict[str, Any], images: _Images) -> Case:
    probes = tuple(
        Probe(
            kind=ProbeKind(probe["kind"]),
            prompt=probe["prompt"],
            target=probe["target"],
            image_bytes=_shown(probe, images),
            variant=probe["variant"],
        )
        for probe in case["probes"]
    )
    earlier = tuple(replace(edit, **request) for request in case["earlier"])
    return Case(
        case_id=edit.edit_id,
        edit=edit,
        probes=probes,
        entity=row["name"],
        earlier=earlier,
        tags=dict(case["tags"]),
    )


def _shown(probe: dict[str, Any], images: _Images) -> bytes | None:
    """The image of a probe, if it has one."""
    if not probe["entity_id"]:
        return None
    image = images[probe["entity_id"], probe["origin"]]
    return changed(image, probe["change"]) if probe["change"] else image
