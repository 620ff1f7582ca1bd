"""Step 1 of building EmblemEdit's test split: entities that no other split has seen.

`new_emblems.tsv` lists the entities and which icon of which collection draws them. An entity is
taken when neither its id nor its name is in `emblem_edit.parquet`, and an image when it is not
blank and no image there or before it is practically equal. The sources are npm packages, unpacked
side by side in one folder (`npm pack NAME@VERSION`, names in `SOURCES`).

Usage:
    python -m liveedit_core.builtin.build.new_emblems --sources DIR --output FILE
"""

import argparse
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from liveedit_core.builtin.build.duplicates import SeenPictures
from liveedit_core.builtin.build.things import Picture, Source, Thing, render_svg

CATALOGUE = Path(__file__).with_suffix(".tsv")
EARLIER = Path(__file__).parents[1] / "assets" / "emblem_edit.parquet"
SPLIT = "test"

ICONIFY = "@iconify-json/"
SOURCES = {
    package.removeprefix(ICONIFY).rpartition("@")[0]: Source(
        package=package, licence=licence, credit=credit
    )
    for package, licence, credit in (
        ("@iconify-json/arcticons@1.2.58", "CC-BY-SA-4.0", "Arcticons, Donnnno"),
        ("@iconify-json/catppuccin@1.2.17", "MIT", "Catppuccin Icons, Copyright Catppuccin"),
        ("@iconify-json/cib@1.2.3", "CC0-1.0", "CoreUI Brands, creativeLabs Lukasz Holeczek"),
        ("@iconify-json/circle-flags@1.2.11", "MIT", "Circle Flags, Copyright HatScripts"),
        ("country-flag-icons@1.6.20", "MIT", "country-flag-icons, Copyright catamphetamine"),
        (
            "@iconify-json/cryptocurrency-color@1.2.4",
            "CC0-1.0",
            "Cryptocurrency Icons, Christopher Downer",
        ),
        ("@iconify-json/emojione@1.2.3", "CC-BY-4.0", "EmojiOne 2, Copyright EmojiOne"),
        ("@iconify-json/fa6-brands@1.2.6", "CC-BY-4.0", "Font Awesome 6 Brands, Fonticons, Inc."),
        ("flag-icon@2.5.0", "MIT", "flag-icon, Copyright Steven Skelton"),
        ("@iconify-json/flagpack@1.2.8", "MIT", "Flagpack, Copyright Yummygum"),
        ("@iconify-json/flat-color-icons@1.2.3", "MIT", "Flat Color Icons, Copyright Icons8"),
        ("@iconify-json/fluent-color@1.2.21", "MIT", "Fluent UI System Color Icons, Microsoft"),
        ("@iconify-json/fluent-emoji-flat@1.2.6", "MIT", "Fluent Emoji Flat, Microsoft"),
        ("@iconify-json/fxemoji@1.2.2", "Apache-2.0", "Firefox OS Emoji, Copyright Mozilla"),
        (
            "@iconify-json/material-icon-theme@1.2.70",
            "MIT",
            "Material Icon Theme, Copyright Material Extensions",
        ),
        ("@iconify-json/skill-icons@1.2.4", "MIT", "Skill Icons, Copyright tandpfun"),
        ("@iconify-json/streamline-emojis@1.2.4", "CC-BY-4.0", "Streamline Emojis, Streamline"),
        (
            "@iconify-json/streamline-kameleon-color@1.2.2",
            "CC-BY-4.0",
            "Kameleon color icons, Streamline",
        ),
        (
            "@iconify-json/streamline-plump-color@1.2.2",
            "CC-BY-4.0",
            "Plump color icons, Streamline",
        ),
        (
            "@iconify-json/streamline-stickies-color@1.2.2",
            "CC-BY-4.0",
            "Stickies color icons, Streamline",
        ),
        (
            "@iconify-json/streamline-ultimate-color@1.2.2",
            "CC-BY-4.0",
            "Ultimate color icons, Streamline",
        ),
        ("@iconify-json/token-branded@1.2.45", "MIT", "Web3 Icons Branded, Copyright 0xa3k5"),
        ("@iconify-json/vscode-icons@1.2.97", "MIT", "VSCode Icons, Copyright Roberto Huertas"),
    )
}
"""By origin of the images."""

SVG_FOLDERS = {"country-flag-icons": "3x2", "flag-icon": "svg"}
"""Folder of the SVG files, of packages that are not Iconify collections."""

IMAGE = pa.struct(
    [
        *((n, pa.string()) for n in ("origin", "package", "path", "licence", "credit")),
        ("image", pa.binary()),
        ("has_plain_ground", pa.bool_()),
    ]
)
SCHEMA = pa.schema(
    [
        *((n, pa.string()) for n in ("entity_id", "name", "kind", "domain", "split_hint")),
        ("images", pa.list_(IMAGE)),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the catalogue; `drawings` are pairs of origin and icon name."""

    entity_id: str
    name: str
    kind: str
    drawings: tuple[tuple[str, str], ...]


def read_catalogue(text: str) -> Iterator[Entry]:
    """Entries of the tab-separated catalogue: id, name, kind, and drawings as `origin:icon`."""
    for line in text.splitlines():
        entity_id, name, kind, *drawings = line.split("\t")
        parts = (drawing.partition(":") for drawing in drawings)
        pairs = tuple((origin, icon) for origin, _, icon in parts)
        yield Entry(entity_id=entity_id, name=name, kind=kind, drawings=pairs)


def plain_name(name: str) -> str:
    """A name without case and punctuation: "Node.js" and "NodeJS" are one."""
    spelled = name.lower().replace("+", "plus").replace("#", "sharp")
    return re.sub(r"[\W_]+", "", spelled)


def plain_id(entity_id: str) -> str:
    """An entity id without the emoji variation selector, which vendors set or omit."""
    return entity_id.lower().replace("-fe0f", "")


def new_entries(entries: Iterable[Entry], ids: set[str], names: set[str]) -> list[Entry]:
    """The entries of which neither the plain id nor the plain name occurred before."""
    ids, names, kept = set(ids), set(names), []
    for entry in entries:
        entity_id, name = plain_id(entry.entity_id), plain_name(entry.name)
        if entity_id not in ids and name not in names:
            kept.append(entry)
        ids.add(entity_id)
        names.add(name)
    return kept


@cache
def collection(folder: Path) -> dict[str, Any]:
    """An unpacked Iconify collection."""
    content: dict[str, Any] = json.loads((folder / "icons.json").read_text())
    return content


def iconify_svg(icons: dict[str, Any], name: str) -> str:
    """An icon of a collection as a whole SVG."""
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'{head} viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'


def draw(root: Path, origin: str, icon: str) -> Picture:
    """One drawing of the catalogue.

    Raises:
        ValueError: the SVG does not parse.
    """
    folder = root / SOURCES[origin].folder
    if origin in SVG_FOLDERS:
        path = f"{SVG_FOLDERS[origin]}/{icon}.svg"
        svg = (folder / path).read_text()
    else:
        path = f"icons.json#{icon}"
        svg = iconify_svg(collection(folder), icon)
    image = render_svg(svg)
    if image is None:
        raise ValueError(f"{folder / path}: no SVG that can be drawn; take it off {CATALOGUE.name}")
    return Picture(origin=origin, path=path, image=image)


def has_plain_ground(image: bytes) -> bool:
    """Whether most of the outermost pixels are white, so that another ground can be put behind."""
    with Image.open(io.BytesIO(image)) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    return bool((border.min(1) > 250).mean() > 0.5)


def collect(root: Path, catalogue: str, earlier: pa.Table) -> list[Thing]:
    """The new entities of the catalogue with their new images, in its order."""
    rows = earlier.select(["thing_id", "name", "pictures"]).to_pylist()
    images = [picture["image"] for row in rows for picture in row["pictures"]]
    entries = new_entries(
        read_catalogue(catalogue),
        {plain_id(row["thing_id"]) for row in rows},
        {plain_name(row["name"]) for row in rows},
    )
    seen = SeenPictures(len(images) + sum(len(entry.drawings) for entry in entries))
    for image in images:
        seen.add(Picture(origin="", path="", image=image))
    things = []
    for entry in entries:
        drawn = [draw(root, origin, icon) for origin, icon in entry.drawings]
        thing = Thing(
            thing_id=entry.entity_id,
            name=entry.name,
            kind=entry.kind,
            domain=entry.entity_id.partition(":")[0],
            pictures=[picture for picture in drawn if seen.add(picture)],
        )
        if thing.pictures:
            things.append(thing)
    return things


def row_of(thing: Thing) -> dict[str, Any]:
    """One Parquet row."""
    images = []
    for picture in thing.pictures:
        source = SOURCES[picture.origin]
        images.append(
            {
                "origin": picture.origin,
                "package": source.package,
                "path": picture.path,
                "licence": source.licence,
                "credit": source.credit,
                "image": picture.image,
                "has_plain_ground": has_plain_ground(picture.image),
            }
        )
    return {
        "entity_id": thing.thing_id,
        "name": thing.name,
        "kind": thing.kind,
        "domain": thing.domain,
        "split_hint": SPLIT,
        "images": images,
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Collect the entities of EmblemEdit's test split.")
    parser.add_argument("--sources", type=Path, required=True, help="folder of unpacked packages")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE)
    options = parser.parse_args()
    catalogue = options.catalogue.read_text()
    things = collect(options.sources, catalogue, pq.read_table(EARLIER))
    table = pa.Table.from_pylist([row_of(thing) for thing in things], schema=SCHEMA)
    pq.write_table(table, options.output, compression="zstd")
    count = sum(len(thing.pictures) for thing in things)
    print(f"{options.output}: {len(things)} entities, {count} images")


if __name__ == "__main__":
    main()
