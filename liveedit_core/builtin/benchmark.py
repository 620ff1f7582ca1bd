"""EmblemEdit, the built-in benchmark: emoji, flags and logos in several drawings (see README)."""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from liveedit_core.errors import ConfigError
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind

BuiltinBenchmark = Literal["emblem_edit", "user_world"]
BUILTIN_BENCHMARKS: tuple[BuiltinBenchmark, ...] = ("emblem_edit", "user_world")
_MEMBERS = {
    "train": ("train", "known_train"),
    "development": ("evaluation",),
    "validation": ("evaluation",),
    "test": (),
}
"""Splits of the Parquet file by split."""
BENCHMARK_FILE = Path(__file__).parent / "assets" / "emblem_edit.parquet"


@dataclass(frozen=True, kw_only=True)
class EntityRow:
    """An entity of the benchmark and its images by origin."""

    entity_id: str
    name: str
    kind: str
    split: str
    images: dict[str, bytes] = field(repr=False)


@lru_cache(maxsize=1)
def _rows() -> tuple[dict[str, Any], ...]:
    """All rows of the Parquet file."""
    import pyarrow.parquet as pq

    return tuple(pq.read_table(BENCHMARK_FILE).to_pylist())


def load_entities(*splits: str) -> list[EntityRow]:
    """Entities of some splits, or of all."""
    return [
        EntityRow(
            entity_id=row["thing_id"],
            name=row["name"],
            kind=row["kind"],
            split=row["split"],
            images={image["origin"]: image["image"] for image in row["pictures"]},
        )
        for row in _rows()
        if not splits or row["split"] in splits
    ]


def load_builtin_cases(
    split: str = "development",
    benchmark: BuiltinBenchmark = "emblem_edit",
    *,
    is_look: bool = False,
) -> list[Case]:
    """Cases of a split ("train" includes known_train), in a fixed, mixed order.

    A third of the entities of `development` are `validation`: every setting is chosen there and
    nowhere else. `test` is sealed: `is_look` says that the caller announces and records the look.
    """
    if split == "test" and not is_look:
        raise ConfigError(
            "split 'test' is sealed: no setting may be chosen on it; use 'validation', or make "
            "final-numbers, which scores it once for each generator"
        )
    members = _MEMBERS.get(split)
    if members is None:
        renamed = "; 'evaluation' is now called 'development'" if split == "evaluation" else ""
        raise ConfigError(f"split: expected one of {', '.join(_MEMBERS)}, got {split!r}{renamed}")
    images = {
        (row["thing_id"], image["origin"]): image["image"]
        for row in _rows()
        for image in row["pictures"]
    }
    cases = [
        _case(row, case, images)
        for row in _rows()
        if row["split"] in members
        and (split != "validation" or is_validation_entity(row["thing_id"]))
        for case in row["cases"]
    ]
    return sorted(cases, key=lambda case: case.case_id)


def is_validation_entity(entity_id: str) -> bool:
    """Whether an entity of `development` is one of the third that settings are chosen on."""
    return int(hashlib.sha256(entity_id.encode()).hexdigest(), 16) % 3 == 0


def _case(row: dict[str, Any], case: dict[str, Any], images: dict[tuple[str, str], bytes]) -> Case:
    edit = EditRequest(
        image_bytes=images[row["thing_id"], case["origin"]],
        prompt=case["prompt"],
        target=case["target"],
        image_uri=f"emblem-edit://{row['thing_id']}/{case['origin']}",
        submitter="emblem-edit",
    )
    probes = tuple(
        Probe(
            kind=ProbeKind(probe["kind"]),
            prompt=probe["prompt"],
            target=probe["target"],
            image_bytes=images.get((probe["thing_id"], probe["origin"])),
        )
        for probe in case["probes"]
    )
    return Case(case_id=edit.edit_id, edit=edit, probes=probes, entity=row["name"])
