"""Writes the tables of the data card (`../README.md`) from the Parquet files.

Usage:
    python -m liveedit_core.builtin.build.data_card

A table stands between `<!-- table FILE NAME -->` and `<!-- end -->`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from liveedit_core.builtin.benchmark import ASSETS, is_validation_entity, read_rows

CARD = Path(__file__).parents[1] / "README.md"
PLACE = re.compile(r"(<!-- table (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

Row = Mapping[str, Any]
CELL_SPLITS = ("development", "validation", "test", "crowd")


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table; counts are grouped by thousands, zeros left empty."""

    def cell(value: object) -> str:
        if isinstance(value, int):
            return f"{value:,}".replace(",", " ") if value else ""
        return str(value).replace("|", "/")

    rows = [head, ["---"] * len(head), *([cell(value) for value in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def images_table(rows: Sequence[Row]) -> str:
    """Sources of the images."""
    counts: Counter[tuple[str, str, str]] = Counter()
    credits: dict[tuple[str, str, str], set[str]] = {}
    for image in (image for row in rows for image in row["images"]):
        key = (image["origin"], image["package"], image["licence"])
        counts[key] += 1
        credits.setdefault(key, set()).add(image["credit"])
    lines = []
    for key in sorted(counts):
        named = credits[key]
        credit = next(iter(named)) if len(named) == 1 else f"{len(named)} authors, by image"
        lines.append((key[0], key[1], counts[key], key[2], credit))
    total = sum(counts.values())
    return table(
        ("origin", "package", "images", "licence", "credit"),
        [*lines, ("all", "", total, "", "")],
    )


def splits_table(rows: Sequence[Row]) -> str:
    """Entities by split and domain, and cases by split."""
    domains = sorted({row["domain"] for row in rows})
    lines = []
    for split in dict.fromkeys(row["split"] for row in rows):
        members = [row for row in rows if row["split"] == split]
        by_domain = Counter(row["domain"] for row in members)
        lines.append(
            (
                f"`{split}`",
                *(by_domain[domain] for domain in domains),
                len(members),
                sum(bool(row["cases"]) for row in members),
                sum(len(row["cases"]) for row in members),
            )
        )
    return table(("split", *domains, "entities", "edited", "cases"), sorted(lines))


def cases_by_split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Cases by the splits that `load_builtin_cases` knows; validation is a part of development."""
    cases: dict[str, list[Row]] = {split: [] for split in CELL_SPLITS}
    for row in rows:
        split = {"evaluation": "development"}.get(row["split"], row["split"])
        if split in cases:
            cases[split] += row["cases"]
        if split == "development" and is_validation_entity(row["entity_id"]):
            cases["validation"] += row["cases"]
    return {split: members for split, members in cases.items() if members}


def counts_table(
    title: str, rows: Sequence[Row], keys_of: Callable[[Row], Iterable[tuple[str, ...]]]
) -> str:
    """How often each key occurs in the cases of each split."""
    cases = cases_by_split(rows)
    counts = {
        split: Counter(key for case in members for key in keys_of(case))
        for split, members in cases.items()
    }
    keys = sorted({key for counter in counts.values() for key in counter}, key=_in_order)
    heads = title.split(" / ")
    lines = [(*key, *(counts[split][key] for split in cases)) for key in keys]
    return table((*heads, *cases), lines)


def _in_order(key: tuple[str, ...]) -> tuple[object, ...]:
    """Lengths by number, the rest by name."""
    first = key[0].split("-")[0]
    return (int(first) if first.isdigit() else 0, key)


def tag_table(tag: str, rows: Sequence[Row]) -> str:
    """Cases by one of their tags."""
    return counts_table(tag, rows, lambda case: [(dict(case["tags"])[tag],)])


def probes_table(rows: Sequence[Row]) -> str:
    """Probes by kind and variant."""
    return counts_table(
        "kind of probe / variant",
        rows,
        lambda case: [
            ("reliability", ""),
            *((probe["kind"], probe["variant"]) for probe in case["probes"]),
        ],
    )


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "images": images_table,
    "splits": splits_table,
    "family": lambda rows: tag_table("family", rows),
    "truth": lambda rows: counts_table(
        "family / target", rows, lambda case: [(dict(case["tags"])["family"], case["truth"])]
    ),
    "length": lambda rows: tag_table("length", rows),
    "content": lambda rows: tag_table("content", rows),
    "probes": probes_table,
}


def with_tables(card: str) -> str:
    """The card's text with its tables as the files have them."""

    def written(match: re.Match[str]) -> str:
        rows = read_rows(ASSETS / f"{match[2]}.parquet")
        return f"{match[1]}{TABLES[match[3]](rows)}\n{match[4]}"

    return PLACE.sub(written, card)


def main() -> None:
    """Entry point."""
    CARD.write_text(with_tables(CARD.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
