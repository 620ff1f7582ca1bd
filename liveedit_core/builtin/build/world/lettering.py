"""Drawing text and invented words, for pages and screens."""

from functools import lru_cache
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont

Colour = str | tuple[int, int, int]

FIRST = (
    "Ada Bruno Carla Dario Edda Felix Greta Hugo Ines Jonas Karin Leo Mona Nils Olga Paul Rita "
    "Sven Tilda Ugo Vera Wim Yara Zoe Amir Birte Cem Dana Emil Fay"
).split()
LAST = (
    "Albers Brandt Corsi Dorn Eklund Farkas Gruber Hale Ibsen Juric Kerr Lindt Moreau Novak Orsini "
    "Petrov Quist Rowe Sandoval Tanaka Ulrich Vance Weiss Young Zander Achebe Borg Costa"
).split()
PLACES = (
    "Harlow Brixton Fenwick Larkhill Oakmere Stanton Wexford Elmsted Norden Portvale Ravensby "
    "Silverton Thornbury Underwood Westmarch Ashgrove Bellhaven Crowfield Dunmoor Eastcliff"
).split()
TRADES = (
    "Bakery Garage Florist Books Hardware Laundry Optics Printing Carpentry Plumbing Catering "
    "Stationery Cycles Pottery Travel Insurance Dental Music Gardening Electric"
).split()
GOODS = (
    "kettle,desk lamp,garden hose,wool blanket,oak shelf,paint roller,bicycle pump,"
    "door handle,tea set,picture frame,camping stove,wall clock,rubber boots,extension cable,"
    "flower pot,cutting board,steel ruler,travel bag,notebook,table cloth,water filter,"
    "tool box,radio,candle set,umbrella"
).split(",")
DISHES = (
    "tomato soup,grilled trout,mushroom risotto,lentil curry,roast chicken,apple strudel,"
    "bean salad,potato gratin,fish cakes,pumpkin ravioli,beef stew,cheese board,lemon tart,"
    "onion pie,plum crumble,rice pudding,garlic prawns,vegetable lasagne,pea soup,"
    "walnut bread"
).split(",")
PHRASES = (
    "the meeting has been moved to the small hall,please bring the signed form,"
    "we thank you for your order,the road will be closed until noon,all seats are numbered,"
    "the key is kept at the front desk,our team will call you next week,"
    "the old bridge was built by hand,rain is expected in the evening,"
    "the first train leaves before dawn,children pay half the price,"
    "the garden opens in spring,the results were better than last year,"
    "most visitors come by bicycle,the library lends tools as well,"
    "water the plants twice a week,the choir sings on Sunday,a new roof is being planned"
).split(",")
TITLES = (
    "Summer Fair,Night Market,Jazz Evening,Book Swap,City Run,Open Day,Winter Concert,"
    "Flower Show,Film Week,Pottery Class,River Clean-up,Chess Cup,Harvest Supper,"
    "Kite Festival,Bike Auction,Lantern Walk,Science Night,Puppet Theatre,Garden Tour,"
    "Choir Gala"
).split(",")
MONTHS = (
    "January February March April May June July August September October November December".split()
)
DARK: tuple[Colour, ...] = (
    "#1d3557",
    "#5b2333",
    "#264d3b",
    "#3a2e6b",
    "#5a3d1e",
    "#222831",
    "#7a1f3d",
)
BRIGHT: tuple[Colour, ...] = (
    "#e76f51",
    "#2a9d8f",
    "#e9c46a",
    "#457b9d",
    "#b5838d",
    "#6a994e",
    "#9d4edd",
    "#f4a261",
    "#00a6a6",
)
PAPER: tuple[Colour, ...] = ("#ffffff", "#fffdf5", "#f4f7fb", "#fdf3e7", "#f2f5ea", "#f7f0f6")


@lru_cache
def font(size: int, style: str = "Sans") -> ImageFont.FreeTypeFont:
    """DejaVu as it comes with matplotlib; style: Sans, Sans-Bold, Serif, SansMono, ..."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"DejaVu{style}.ttf"), size)


class Sheet:
    """A page or screen on which lines of text are set from top to bottom."""

    def __init__(self, size: tuple[int, int], ground: Colour = "white", margin: int = 28) -> None:
        self.image = Image.new("RGB", size, ground)
        self.draw = ImageDraw.Draw(self.image)
        self.width, self.height = size
        self.margin = margin
        self.top = margin

    def line(
        self,
        text: str,
        size: int,
        *,
        style: str = "Sans",
        ink: Colour = "#222222",
        align: str = "left",
    ) -> None:
        """One line of text below the last; it is set smaller where it does not fit."""
        room = self.width - 2 * self.margin
        while size > 9 and font(size, style).getlength(text) > room:
            size -= 1
        anchor = {"left": "la", "centre": "ma", "right": "ra"}[align]
        left = {"la": self.margin, "ma": self.width // 2, "ra": self.width - self.margin}[anchor]
        self.draw.text((left, self.top), text, ink, font(size, style), anchor=anchor)
        self.top += round(size * 1.45)

    def pair(
        self, left: str, right: str, size: int, *, style: str = "Sans", ink: Colour = "#222222"
    ) -> None:
        """Text at both margins on one line."""
        self.draw.text(
            (self.width - self.margin, self.top), right, ink, font(size, style), anchor="ra"
        )
        self.line(left, size, style=style, ink=ink)

    def paragraph(
        self, text: str, size: int, *, style: str = "Sans", ink: Colour = "#333333"
    ) -> None:
        """Wrapped text, as far as the sheet goes."""
        row = ""
        for word in [*text.split(), ""]:
            longer = f"{row} {word}".strip()
            if not word or font(size, style).getlength(longer) > self.width - 2 * self.margin:
                if self.top > self.height - self.margin - size:
                    return
                self.line(row, size, style=style, ink=ink)
                row = word
            else:
                row = longer

    def rule(self, ink: Colour = "#888888", thickness: int = 2) -> None:
        """A horizontal line."""
        box = (self.margin, self.top, self.width - self.margin, self.top + thickness - 1)
        self.draw.rectangle(box, fill=ink)
        self.top += 10 + thickness

    def band(self, height: int, fill: Colour) -> None:
        """A coloured band over the full width at the current place; text goes on top of it."""
        self.draw.rectangle((0, self.top, self.width, self.top + height), fill=fill)


def person(rng: Random) -> str:
    """A first and a last name."""
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def firm(rng: Random) -> str:
    """A place and a trade."""
    return f"{rng.choice(PLACES)} {rng.choice(TRADES)}"


def date(rng: Random) -> str:
    """Day, month and year."""
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(2016, 2027)}"


def price(rng: Random, high: int = 90) -> str:
    """An amount in euros."""
    return f"€{rng.randint(2, high)}.{rng.choice(('00', '50', '90', '95', '20'))}"


def prose(rng: Random, sentences: int) -> str:
    """Some sentences."""
    chosen = rng.sample(PHRASES, min(sentences, len(PHRASES)))
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in chosen)
