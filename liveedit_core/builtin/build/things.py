"""Step 1 of building EmblemEdit: collect things and their pictures from open packages.

A *thing* (an emoji, a flag, a logo) has two or more pictures of different origin. The sources are
npm packages, unpacked side by side in one folder (`npm pack NAME@VERSION`, names in `SOURCES`).
"""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

PICTURE_SIDE = 96
"""Side of the stored square pictures in pixels."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where pictures of one origin come from."""

    package: str
    licence: str
    credit: str

    @property
    def folder(self) -> str:
        """Name of the unpacked package."""
        return self.package.removeprefix("@").replace("/", "-").replace("@", "-")


PACKAGES = {
    "twemoji": "emoji-datasource-twitter@16.0.0",
    "noto": "emoji-datasource-google@16.0.0",
    "openmoji": "openmoji@17.0.0",
    "fluent": "@lobehub/fluent-emoji-3d@1.1.0",
    "flag-icons": "flag-icons@7.5.0",
    "country-flags": "svg-country-flags@1.2.10",
    "logos": "@iconify-json/logos@1.2.19",
    "simple-icons": "simple-icons@16.37.0",
    "devicon": "devicon@2.17.0",
}
"""By origin of the pictures."""
CREDITS = {
    "twemoji": ("CC-BY-4.0", "Twemoji, Copyright Twitter, Inc and other contributors"),
    "noto": ("Apache-2.0", "Noto Emoji, Copyright Google LLC"),
    "openmoji": ("CC-BY-SA-4.0", "OpenMoji, the open-source emoji and icon project"),
    "fluent": ("MIT", "Fluent Emoji, Copyright Microsoft Corporation"),
    "flag-icons": ("MIT", "flag-icons, Copyright Panayiotis Lipiridis"),
    "country-flags": ("Public domain", "svg-country-flags"),
    "logos": ("CC0-1.0", "SVG Logos, Gil Barbara"),
    "simple-icons": ("CC0-1.0", "Simple Icons"),
    "devicon": ("MIT", "devicon, Copyright konpa"),
}
"""Licence and credit by origin."""
SOURCES = {
    origin: Source(package=package, licence=CREDITS[origin][0], credit=CREDITS[origin][1])
    for origin, package in PACKAGES.items()
}

# OpenMoji subgroup prefix -> the word that answers "What kind of thing is this?".
KINDS: tuple[tuple[str, str], ...] = (
    ("animal", "animal"),
    ("monkey-face", "animal"),
    ("cat-face", "face"),
    ("plant", "plant"),
    ("food", "food"),
    ("drink", "drink"),
    ("dishware", "kitchen tool"),
    ("face", "face"),
    ("heart", "symbol"),
    ("emotion", "symbol"),
    ("hand", "hand"),
    ("body", "body part"),
    ("person", "person"),
    ("family", "person"),
    ("place", "place"),
    ("transport-sign", "sign"),
    ("transport", "vehicle"),
    ("sky", "weather"),
    ("time", "clock"),
    ("hotel", "object"),
    ("sport", "sport"),
    ("game", "game"),
    ("event", "celebration"),
    ("award", "medal"),
    ("clothing", "clothing"),
    ("music", "music"),
    ("sound", "music"),
    ("tool", "tool"),
    ("zodiac", "sign"),
    ("religion", "symbol"),
    ("warning", "sign"),
    ("arrow", "sign"),
)
EMOJI_GROUPS = frozenset(
    "smileys-emotion people-body animals-nature food-drink travel-places activities objects "
    "symbols".split()
)
# Near-duplicate drawings (24 clock faces, keycaps, lettered buttons) and gendered twins of a
# neutral person: two of them cannot be told apart at this size, so they examine nothing.
SKIPPED_EMOJI = re.compile(
    r"thirty|o’clock|keycap|button|^(man|woman|men|women|boy|girl|mrs|prince$|princess)\b"
    r"|: |family|[^a-z0-9 \-’']|moon$|hole$"
)
SKIPPED_SUBGROUPS = frozenset(
    {"alphanum", "geometric", "keycap", "math", "punctuation", "av-symbol"}
)


@dataclass(kw_only=True)
class Picture:
    """One drawing of a thing; `image` is an encoded WebP of `PICTURE_SIDE` pixels."""

    origin: str
    path: str
    image: bytes


@dataclass(kw_only=True)
class Thing:
    """Something with a name, a kind, facts and pictures."""

    thing_id: str
    name: str
    kind: str
    domain: str
    facts: dict[str, str] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)


def encode_picture(image: Image.Image) -> bytes:
    """Fit on a white square and encode as WebP; the sides are `PICTURE_SIDE` pixels."""
    rgba = image.convert("RGBA")
    side = max(rgba.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(rgba, ((side - rgba.width) // 2, (side - rgba.height) // 2))
    square = canvas.convert("RGB").resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    square.save(buffer, "WEBP", quality=90, method=6)
    return buffer.getvalue()


def render_svg(svg: str) -> bytes | None:
    """Rasterise an SVG; None when it does not parse."""
    import resvg_py

    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * PICTURE_SIDE)
    except (ValueError, RuntimeError):
        return None
    image = Image.open(io.BytesIO(bytes(png)))
    return None if max(image.size) > 16 * min(image.size) else encode_picture(image)


def kind_of(subgroup: str) -> str:
    """The kind word of an OpenMoji subgroup; "object" where no prefix fits."""
    return next((kind for prefix, kind in KINDS if subgroup.startswith(prefix)), "object")


def emoji_things(root: Path) -> Iterator[Thing]:
    """Emoji with a neutral name that at least two vendors have drawn."""
    records = json.loads((root / "openmoji-17.0.0/data/openmoji.json").read_text())
    for record in records:
        name, code = record["annotation"].lower().strip("“”"), record["hexcode"]
        if record["skintone"] or record["group"] not in EMOJI_GROUPS or SKIPPED_EMOJI.search(name):
            continue
        if record["subgroups"] in SKIPPED_SUBGROUPS:
            continue
        thing = Thing(
            thing_id=f"emoji:{code.lower()}",
            name=name.replace("’", "'"),
            kind=kind_of(record["subgroups"]),
            domain="emoji",
        )
        for origin, sub, suffix in (
            ("twemoji", "img/twitter/64", "png"),
            ("noto", "img/google/64", "png"),
            ("fluent", "assets", "webp"),
        ):
            folder = SOURCES[origin].folder
            for candidate in (code.lower(), f"{code.lower()}-fe0f"):
                path = root / folder / sub / f"{candidate}.{suffix}"
                if path.exists():
                    image = encode_picture(Image.open(path))
                    relative = str(path.relative_to(root / folder))
                    thing.pictures.append(Picture(origin=origin, path=relative, image=image))
                    break
        svg = root / f"openmoji-17.0.0/color/svg/{code}.svg"
        if svg.exists() and (drawn := render_svg(svg.read_text())):
            thing.pictures.append(
                Picture(origin="openmoji", path=f"color/svg/{code}.svg", image=drawn)
            )
        if {"twemoji", "noto"} <= {picture.origin for picture in thing.pictures}:
            yield thing


def flag_things(root: Path) -> Iterator[Thing]:
    """Country flags from three origins, with capital, continent and currency as facts."""
    folder = root / "countries-list-3.4.1"
    countries = json.loads((folder / "countries.min.json").read_text())
    continents = json.loads((folder / "continents.min.json").read_text())
    currencies = json.loads((folder / "currencies.min.json").read_text())
    for code, country in sorted(countries.items()):
        lower = code.lower()
        thing = Thing(thing_id=f"flag:{lower}", name=country["name"], kind="flag", domain="flag")
        thing.facts = {
            "capital": country["capital"],
            "continent": continents[country["continent"]],
            "currency": currency_name(currencies, country.get("currency") or []),
        }
        svg = root / f"flag-icons-7.5.0/flags/4x3/{lower}.svg"
        if svg.exists() and (drawn := render_svg(svg.read_text())):
            path = f"flags/4x3/{lower}.svg"
            thing.pictures.append(Picture(origin="flag-icons", path=path, image=drawn))
        for origin, path in (
            ("country-flags", f"png250px/{lower}.png"),
            ("noto", f"img/google/64/{emoji_flag(code)}.png"),
        ):
            file = root / SOURCES[origin].folder / path
            if file.exists():
                image = encode_picture(Image.open(file))
                thing.pictures.append(Picture(origin=origin, path=path, image=image))
        if len(thing.pictures) >= 2:
            yield thing


def currency_name(currencies: dict[str, dict[str, str]], codes: list[str]) -> str:
    """Name of a country's first currency; empty when there is none."""
    return currencies[codes[0]]["name"] if codes and codes[0] in currencies else ""


def emoji_flag(code: str) -> str:
    """Emoji file stem of a two-letter country code."""
    return "-".join(f"{0x1F1E6 + ord(letter) - ord('A'):x}" for letter in code)


def logo_things(root: Path) -> Iterator[Thing]:
    """Logos drawn in full colour by one collection and in one colour (or anew) by another."""
    collection = json.loads((root / "iconify-json-logos-1.2.19/icons.json").read_text())
    width, height = collection["width"], collection["height"]
    simple = json.loads((root / "simple-icons-16.37.0/data/simple-icons.json").read_text())
    for record in simple:
        slug = record.get("slug") or re.sub(r"[^a-z0-9]", "", record["title"].lower())
        if "license" in record or not re.fullmatch(r"[A-Za-z0-9 .\-]+", record["title"]):
            continue
        dashed = re.sub(r"[ .]+", "-", record["title"].lower())
        names = (f"{dashed}-icon", dashed, f"{slug}-icon", slug)
        icon = next((n for n in names if n in collection["icons"]), None)
        if icon is None:
            continue
        body = collection["icons"][icon]
        view = f"0 0 {body.get('width', width)} {body.get('height', height)}"
        head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        colour = render_svg(f'{head} viewBox="{view}">{body["body"]}</svg>')
        plain_path = f"icons/{slug}.svg"
        plain_svg = (root / "simple-icons-16.37.0" / plain_path).read_text()
        plain = render_svg(plain_svg.replace("<svg ", f'<svg fill="#{record["hex"]}" ', 1))
        if colour is None or plain is None:
            continue
        thing = Thing(thing_id=f"logo:{slug}", name=record["title"], kind="logo", domain="logo")
        thing.pictures = [
            Picture(origin="logos", path=f"icons.json#{icon}", image=colour),
            Picture(origin="simple-icons", path=plain_path, image=plain),
        ]
        for stem in (slug, dashed.replace("-", "")):
            path = f"icons/{stem}/{stem}-original.svg"
            file = root / "devicon-2.17.0" / path
            if file.exists() and (image := render_svg(file.read_text())):
                thing.pictures.append(Picture(origin="devicon", path=path, image=image))
                break
        yield thing


def collect_things(root: Path) -> list[Thing]:
    """All things with distinct names, in a fixed order."""
    seen: set[str] = set()
    things = []
    for thing in (*emoji_things(root), *flag_things(root), *logo_things(root)):
        if thing.name.lower() not in seen:
            seen.add(thing.name.lower())
            things.append(thing)
    return things
