"""Entities of the user's world, their sources, and the Parquet file that hands them over."""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from liveedit_core.builtin.image_changes import has_plain_ground

PHOTO_SIDE = 224
DRAWING_SIDE = 160
CROWD_SIDE = 112
QUALITY = 85
CROWD_QUALITY = 75


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where images of one origin come from; single files may have their own licence and credit."""

    package: str
    licence: str
    credit: str

    @property
    def folder(self) -> str:
        """Name of the unpacked package."""
        return self.package.split("@")[0]


GENERATED = Source(
    package="liveedit@0.1.0",
    licence="Apache-2.0",
    credit="Drawn by this project with invented content; fonts: DejaVu (Bitstream Vera licence)",
)
SOURCES = {
    "scikit-image": Source(
        package="scikit-image@0.26.0",
        licence="BSD-3-Clause",
        credit="scikit-image team; sample images, most of them in the public domain or CC0",
    ),
    "scikit-learn": Source(
        package="scikit-learn@1.9.1",
        licence="CC-BY-2.0",
        credit="danielbuechele (china.jpg), vultilion (flower.jpg), by way of scikit-learn",
    ),
    "mate": Source(
        package="mate-backgrounds@1.26.0-1", licence="GPL-2.0-or-later", credit="MATE Backgrounds"
    ),
    "gnome": Source(
        package="gnome-backgrounds@43.1-1",
        licence="CC-BY-SA-3.0",
        credit="GNOME Backgrounds, Copyright Jakub Steiner",
    ),
    "lomiri-16.04": Source(
        package="lomiri-wallpapers-16.04@20.04.0-2",
        licence="CC-BY-SA-4.0",
        credit="UBports community",
    ),
    "lomiri-20.04": Source(
        package="lomiri-wallpapers-20.04@20.04.0-2",
        licence="CC-BY-SA-3.0",
        credit="UBports community",
    ),
    "ukui": Source(
        package="ukui-wallpapers@20.04.3-1.1",
        licence="CC-BY-SA-3.0",
        credit="Copyright 2013-2020 Ubuntu Kylin community contributors",
    ),
    "plasma": Source(
        package="plasma-workspace-wallpapers@5.27.5-2",
        licence="GPL-2.0-or-later",
        credit="KDE Visual Design Group",
    ),
    "stellarium": Source(
        package="stellarium-data@0.22.2-1",
        licence="GPL-2.0-or-later",
        credit="Copyright the Stellarium team (landscapes)",
    ),
    "fotoxx": Source(
        package="fotoxx-common@20.08-2",
        licence="GPL-3.0-or-later",
        credit="Copyright 2007-2020 Michael Cornelison",
    ),
    "gimp-help": Source(
        package="gimp-help-en@2.10.34-2",
        licence="GFDL-1.2-no-invariants-or-later",
        credit="Copyright 2002-2010 The GIMP Documentation Team",
    ),
    "xplanet": Source(
        package="xplanet-images@1.3.1-3",
        licence="GPL-2.0-or-later",
        credit="xplanet, Copyright 2002 Hari Nair",
    ),
    "openclipart": Source(
        package="openclipart-png@0.18+dfsg-19",
        licence="Public domain",
        credit="Open Clip Art Library",
    ),
    "page": GENERATED,
    "screenshot": GENERATED,
    "chart": GENERATED,
}
"""By origin: Debian packages (bookworm), PyPI packages, and what is drawn here."""

IMAGE = pa.struct(
    [
        *((key, pa.string()) for key in ("origin", "package", "path", "licence", "credit")),
        ("image", pa.binary()),
        ("has_plain_ground", pa.bool_()),
    ]
)
SCHEMA = pa.schema(
    [
        *((key, pa.string()) for key in ("entity_id", "name", "kind", "domain", "split_hint")),
        ("images", pa.list_(IMAGE)),
    ]
)


@dataclass(kw_only=True)
class WorldEntity:
    """Something shown by one image.

    `series` is what stays on one side of a split: a photograph, a folder of drawings, a layout.
    """

    name: str
    kind: str
    domain: str
    origin: str
    path: str
    series: str
    picture: Image.Image
    for_cases: bool = True
    licence: str = ""
    credit: str = ""
    split_hint: str = ""

    def encoded(self) -> bytes:
        """As WebP: small for the crowd, else 160 pixels for drawings and 224 for the rest."""
        side, quality = CROWD_SIDE, CROWD_QUALITY
        if self.split_hint != "crowd":
            side = DRAWING_SIDE if self.domain == "drawing" else PHOTO_SIDE
            quality = QUALITY
        buffer = io.BytesIO()
        scaled(self.picture, side).save(buffer, "WEBP", quality=quality, method=4)
        return buffer.getvalue()


def scaled(picture: Image.Image, side: int) -> Image.Image:
    """RGB on white with a longer side of `side`."""
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    if picture.mode == "RGB":
        return picture.resize(size, Image.Resampling.LANCZOS)
    layer = picture.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    image = Image.new("RGB", size, "white")
    image.paste(layer, mask=layer)
    return image


def on_square(picture: Image.Image, margin: float = 0.06) -> Image.Image:
    """A drawing, cut to what is drawn, centred on a white square."""
    layer = picture.convert("RGBA")
    flat = Image.new("RGB", layer.size, "white")
    flat.paste(layer, mask=layer)
    box = flat.convert("L").point([255 if level < 250 else 0 for level in range(256)]).getbbox()
    flat = flat.crop(box) if box else flat
    side = round(max(flat.size) * (1 + 2 * margin))
    square = Image.new("RGB", (side, side), "white")
    square.paste(flat, ((side - flat.width) // 2, (side - flat.height) // 2))
    return square


def with_unique_names(entities: Iterable[WorldEntity]) -> list[WorldEntity]:
    """The same entities; the second of a name becomes "name 2"."""
    counts: dict[str, int] = {}
    members = list(entities)
    for entity in members:
        key = entity.name.lower()
        counts[key] = counts.get(key, 0) + 1
        if counts[key] > 1:
            entity.name = f"{entity.name} {counts[key]}"
    return members


def write_table(entities: Iterable[WorldEntity], file: Path) -> None:
    """One row an entity."""
    rows = [row_of(entity) for entity in entities]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file, compression="zstd")


def row_of(entity: WorldEntity) -> dict[str, Any]:
    """A row of the Parquet file."""
    source = SOURCES[entity.origin]
    image = entity.encoded()
    return {
        "entity_id": f"{entity.domain}:{re.sub(r'[^a-z0-9]+', '-', entity.name.lower())}",
        "name": entity.name,
        "kind": entity.kind,
        "domain": entity.domain,
        "split_hint": entity.split_hint,
        "images": [
            {
                "origin": entity.origin,
                "package": source.package,
                "path": entity.path,
                "licence": entity.licence or source.licence,
                "credit": entity.credit or source.credit,
                "image": image,
                "has_plain_ground": has_plain_ground(image),
            }
        ],
    }
