"""Builds `assets/emblem_edit.parquet`, the built-in benchmark.

Usage:
    mkdir sources && cd sources            # npm pack each package of things.SOURCES and
    npm pack emoji-datasource-twitter@16.0.0 ...   # countries-list@3.4.1, unpack to NAME-VERSION/
    python -m liveedit_core.builtin.build.benchmark --sources sources --tokenizer CHECKPOINT_DIR

The file has one row a thing, with nested lists of pictures and cases. Same sources, same seed, same
file.
"""

import argparse
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from liveedit_core.builtin.build.cases import (
    CaseRow,
    CaseWriter,
    evaluation_plan,
    split_things,
    training_plan,
    write_cases,
)
from liveedit_core.builtin.build.duplicates import drop_duplicates
from liveedit_core.builtin.build.things import SOURCES, Thing, collect_things

SEED = 20260

PROBE = pa.struct(
    [(name, pa.string()) for name in ("kind", "thing_id", "origin", "prompt", "target")]
)
CASE = pa.struct(
    [
        *((name, pa.string()) for name in ("family", "truth", "origin", "prompt", "target")),
        ("probes", pa.list_(PROBE)),
    ]
)
PICTURE = pa.struct(
    [
        ("origin", pa.string()),
        ("package", pa.string()),
        ("path", pa.string()),
        ("licence", pa.string()),
        ("credit", pa.string()),
        ("image", pa.binary()),
    ]
)
SCHEMA = pa.schema(
    [
        ("thing_id", pa.string()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("domain", pa.string()),
        ("split", pa.string()),
        ("facts", pa.map_(pa.string(), pa.string())),
        ("pictures", pa.list_(PICTURE)),
        ("cases", pa.list_(CASE)),
    ]
)


def build(sources: Path, tokenizer_folder: Path) -> pa.Table:
    """The whole benchmark as an Arrow table."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)

    def count_tokens(text: str) -> int:
        return len(tokenizer.encode(f" {text}", add_special_tokens=False))

    rng = random.Random(SEED)
    splits = split_things(collect_things(sources), rng)
    cases: dict[str, list[CaseRow]] = {}
    sides = (
        ("known_train", ("train", "known_train"), "known_train", False, training_plan),
        ("known_evaluation", ("evaluation",), "bystander", True, evaluation_plan),
    )
    for known, edited, bystanders, is_evaluation, plan in sides:
        writer = CaseWriter(
            known=splits[known],
            bystanders=splits[bystanders] if is_evaluation else splits["train"],
            is_evaluation=is_evaluation,
            count_tokens=count_tokens,
            rng=rng,
        )
        for name in edited:
            cases |= write_cases(splits[name], writer, plan)
    splits = drop_duplicates(splits)
    cases = with_pictures(cases, splits)
    rows = [row_of(thing, name, cases) for name, things in splits.items() for thing in things]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def with_pictures(
    cases: dict[str, list[CaseRow]], splits: dict[str, list[Thing]]
) -> dict[str, list[CaseRow]]:
    """The cases all of whose pictures are still there."""
    pictures = {
        (thing.thing_id, picture.origin)
        for things in splits.values()
        for thing in things
        for picture in thing.pictures
    }

    def is_whole(thing_id: str, case: CaseRow) -> bool:
        asked = {(probe.thing_id, probe.origin) for probe in case.probes if probe.thing_id}
        return {(thing_id, case.origin), *asked} <= pictures

    return {
        thing_id: [row for row in rows if is_whole(thing_id, row)]
        for thing_id, rows in cases.items()
    }


def row_of(thing: Thing, split: str, cases: dict[str, list[CaseRow]]) -> dict[str, Any]:
    """One Parquet row."""
    pictures = []
    for picture in thing.pictures:
        source = SOURCES[picture.origin]
        pictures.append(
            {
                "origin": picture.origin,
                "package": source.package,
                "path": picture.path,
                "licence": source.licence,
                "credit": source.credit,
                "image": picture.image,
            }
        )
    return {
        "thing_id": thing.thing_id,
        "name": thing.name,
        "kind": thing.kind,
        "domain": thing.domain,
        "split": split,
        "facts": list(thing.facts.items()),
        "pictures": pictures,
        "cases": [asdict(case) for case in cases.get(thing.thing_id, [])],
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Build the EmblemEdit Parquet file.")
    parser.add_argument("--sources", type=Path, required=True, help="folder of unpacked packages")
    parser.add_argument("--tokenizer", type=Path, required=True, help="backbone checkpoint folder")
    default = Path(__file__).parents[1] / "assets" / "emblem_edit.parquet"
    parser.add_argument("--output", type=Path, default=default)
    options = parser.parse_args()
    table = build(options.sources, options.tokenizer)
    pq.write_table(table, options.output, compression="zstd", row_group_size=256)
    counts: dict[str, list[int]] = {}
    for row in table.select(["split", "cases"]).to_pylist():
        count = counts.setdefault(row["split"], [0, 0])
        count[0] += 1
        count[1] += len(row["cases"])
    for split, (things, num_cases) in counts.items():
        print(f"{split}: {things} things, {num_cases} cases")
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
