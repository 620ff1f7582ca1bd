"""Drawings of the user's world: named pictures of the Open Clip Art Library.

The PNG files of `openclipart-png` are shown; titles and authors are in the SVG files of
`openclipart-svg`, which has the same folders.
"""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

from PIL import Image

from liveedit_core.builtin.build.world.table import DRAWING_SIDE, WorldEntity, on_square

PNG_FOLDER = "openclipart-png/usr/share/openclipart/png"
SVG_FOLDER = "openclipart-svg/usr/share/openclipart/svg"

KINDS = {
    "animals": "animal",
    "animals/birds": "bird",
    "animals/bugs": "insect",
    "animals/dinosaurs": "dinosaur",
    "animals/fish": "sea animal",
    "animals/mammals": "animal",
    "buildings": "building",
    "buildings/furniture": "furniture",
    "buildings/homes": "house",
    "computer": "computer device",
    "computer/hardware": "computer device",
    "computer/connectors": "connector",
    "containers": "container",
    "education": "school item",
    "education/books": "book",
    "electronics": "device",
    "electronics/battery": "battery",
    "electronics/bulb": "lamp",
    "food": "food",
    "food/beverages": "drink",
    "food/breads_and_carbs": "food",
    "food/dairy": "food",
    "food/desserts": "dessert",
    "food/fruit": "fruit",
    "food/meats_and_eggs": "food",
    "food/vegetables": "vegetable",
    "geography": "geography item",
    "office": "office item",
    "office/telephone": "telephone",
    "people/clothing": "clothing",
    "plants": "plant",
    "plants/flowers": "flower",
    "plants/trees": "tree",
    "recreation": "hobby item",
    "recreation/games": "game",
    "recreation/holiday": "holiday item",
    "recreation/music": "music item",
    "recreation/party": "party item",
    "recreation/sports": "sport item",
    "recreation/toys": "toy",
    "science": "science item",
    "tools": "tool",
    "transportation": "traffic item",
    "transportation/boating": "boat",
    "transportation/vehicles": "vehicle",
    "signs_and_symbols/clocks": "clock",
    "signs_and_symbols/weather": "weather",
    "signs_and_symbols/money": "money",
}
"""By folder (the longest that fits); what lies elsewhere is not shown in cases."""
CROWD_KINDS = {
    "people/bodypart": "body part",
    "signs_and_symbols/map_symbols": "map symbol",
    "signs_and_symbols/hazard": "sign",
    "transportation/aiga-symbols": "sign",
    "transportation/roadsigns": "road sign",
    "shapes/callouts": "shape",
    "shapes/flowchart": "shape",
    "shapes/jigsaw": "jigsaw piece",
    "special/patterns": "pattern",
    "decorations": "ornament",
    "recreation/games/cards": "playing card",
    "unsorted": "drawing",
}
UNSHOWN = frozenset(
    "computer/buttons computer/icons computer/diagrams computer/folders computer/games "
    "computer/network recreation/religion recreation/art tools/weapons animals/fantasy".split()
)
"""Folders of emblems, and folders that could offend, below folders that are shown."""
SKIPPED = re.compile(
    r"logo|flag|tux|duck_yellow_ii|stylized_yoga|human|hacker|xbill|sunwheel|trisk|zazou|iconset|bb_|lemon.theme|ark\.in|atilde|opensource|linux|gnu\b|gnome|kde|bsd|emule|jabber|mozilla|apple_bw|firefox|otto|openclipart"
    r"|swastika|nazi|hitler|celtic_cross|cross_|_cross|bible|church|jesus|angel|religio|menorah|dreidel"
    r"|islam|buddh|hindu|weapon|gun|pistol|rifle|bomb|missile|grenade|kallisti|eris_|tank|knife_blood"
    r"|pimp|sexy|stripper|pantyhose|female|naked|nude|marijuana|cannabis|smok|cigar|beer|wine|alcohol"
    r"|martini|cocktail|skull|dead|blood|capitol|bush|president|king_jr|peace|emoticon|smil|icon_"
    r"|jean-victor_balin_card|wmd|psycho|toilet|bikini|bra_|condom|syringe",
    re.IGNORECASE,
)
ITALIAN = re.compile(r"archit|rollandin", re.IGNORECASE)
"""Author whose titles are Italian: names would need translation, so these fill the crowd."""
BLACK_AND_WHITE = re.compile(r"_bw(?![a-z])|\bb\s*(and|&)\s*w\b")
STOP_WORDS = frozenset(
    "bw md icon clipart svg symbol draft version image picture by a the an de ganson linda kim "
    "mateya nicu buculei jarno vasamaa r".split()
)
MIN_SIDE = 60
MAX_SIDE = 3000
MAX_BYTES = 500_000


def drawings(sources: Path) -> Iterator[WorldEntity]:
    """All drawings that are fit to show, in the order of their paths."""
    root = sources / PNG_FOLDER
    for file in sorted(root.rglob("*.png")):
        path = file.relative_to(root)
        folder = path.parent.as_posix()
        shown = shown_folder(folder)
        if not shown or SKIPPED.search(path.as_posix()) or file.stat().st_size > MAX_BYTES:
            continue
        title, author, keywords = metadata(sources / SVG_FOLDER / path.with_suffix(".svg"))
        if SKIPPED.search(f"{title} {keywords}"):
            continue
        kind = CROWD_KINDS.get(shown) or KINDS[shown]
        name = plain_name(title, path.stem, author)
        with Image.open(file) as picture:
            if min(picture.size) < MIN_SIDE or max(picture.size) > MAX_SIDE:
                continue
            layer = picture.convert("RGBA")
        layer.thumbnail((2 * DRAWING_SIDE, 2 * DRAWING_SIDE))
        yield WorldEntity(
            name=name or f"{kind} drawing",
            kind=kind,
            domain="drawing",
            origin="openclipart",
            path=path.as_posix(),
            series=f"openclipart/{folder}",
            picture=on_square(layer),
            for_cases=bool(name) and shown in KINDS and not ITALIAN.search(f"{path} {author}"),
            credit=f"{author}, Open Clip Art Library" if author else "",
        )


def shown_folder(folder: str) -> str:
    """The longest prefix of a folder that has a kind; empty where none has, or it is unshown."""
    parts = folder.split("/")
    prefixes = ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
    if UNSHOWN.intersection(prefixes):
        return ""
    return next((prefix for prefix in prefixes if prefix in KINDS or prefix in CROWD_KINDS), "")


def metadata(svg: Path) -> tuple[str, str, str]:
    """Title, author and keywords from an SVG file's description; empty where it has none."""
    if not svg.exists():
        return "", "", ""
    text = svg.read_text(encoding="utf-8", errors="replace")
    block = re.search(r"<cc:Work.*?</cc:Work>", text, re.DOTALL)
    work = block[0] if block else ""
    title = re.search(r"<dc:title>([^<]*)</dc:title>", work)
    creator = re.search(r"<dc:creator>.*?<dc:title>([^<]*)</dc:title>.*?</dc:creator>", work, re.S)
    keywords = re.findall(r"<rdf:li>([^<]*)</rdf:li>", work)
    author = creator[1].strip() if creator else ""
    if re.search(r"[<>@{}]|unknown|anonymous|^\W*$", author, re.IGNORECASE):
        author = ""
    return title[1].strip() if title else "", author[:60], " ".join(keywords)


def plain_name(title: str, stem: str, author: str) -> str:
    """One to five plain lower-case words; empty when there are none.

    Many titles are those of a whole series: where title and file name share few words, the
    latter counts.
    """
    own = {word[:5] for word in re.findall(r"[a-z]+", author.lower())}

    def words_of(text: str) -> list[str]:
        text = re.sub(BLACK_AND_WHITE, " outline ", unescape(text).lower())
        return [
            word
            for word in re.findall(r"[a-z]+", text)
            if len(word) > 1 and word[:5] not in own and word not in STOP_WORDS
        ]

    from_title, from_stem = words_of(title), words_of(stem.replace("-", "_"))
    shared = {word[:4] for word in from_title} & {word[:4] for word in from_stem}
    is_own_title = len(shared) > 0.5 * min(len(from_title), len(from_stem))
    kept = from_title if is_own_title else from_stem
    return " ".join(kept) if 1 <= len(kept) <= 5 else ""
