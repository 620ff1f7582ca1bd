"""Screenshots of the user's world: web pages and applications with invented content."""

from collections.abc import Callable, Iterator
from random import Random

from PIL import Image

from liveedit_core.builtin.build.world.lettering import (
    BRIGHT,
    DARK,
    FIRST,
    GOODS,
    MONTHS,
    PHRASES,
    PLACES,
    TITLES,
    Colour,
    Sheet,
    date,
    firm,
    font,
    person,
    price,
    prose,
)
from liveedit_core.builtin.build.world.table import WorldEntity

Layout = Callable[[Random], tuple[str, Image.Image]]
OPTIONS = (
    "Automatic,Night mode,Vibrate,Share data,Low power,Roaming,Backup,Location,Big text,Mono,"
    "Updates,Sync"
).split(",")
DESKTOP = (640, 440)
PHONE = (300, 600)
GREY = "#8a8f98"


def blob(sheet: Sheet, box: tuple[int, int, int, int], rng: Random) -> None:
    """A stand-in for a photograph: a coloured scene of a few shapes."""
    sky, ground, thing = rng.sample(BRIGHT, 3)
    left, top, right, bottom = box
    middle = rng.randint(top + (bottom - top) // 3, bottom - (bottom - top) // 4)
    sheet.draw.rectangle(box, fill=sky)
    sheet.draw.rectangle((left, middle, right, bottom), fill=ground)
    radius = (bottom - top) // rng.randint(4, 7)
    x = rng.randint(left + radius, max(left + radius, right - radius))
    y = rng.randint(top + radius, max(top + radius, middle))
    draw = rng.choice((sheet.draw.ellipse, sheet.draw.rectangle))
    draw((x - radius, y - radius, min(x + radius, right), min(y + radius, bottom)), fill=thing)


def browser(rng: Random, site: str, ground: Colour = "#ffffff") -> Sheet:
    """A browser window with an address; the page begins at `top`."""
    sheet = Sheet(DESKTOP, ground, 18)
    bar = rng.choice(("#dfe3e8", "#e9e4f0", "#2f3440"))
    sheet.draw.rectangle((0, 0, 640, 38), fill=bar)
    for index, colour in enumerate(("#ed6a5e", "#f5bf4f", "#61c554")):
        sheet.draw.ellipse((10 + 20 * index, 12, 24 + 20 * index, 26), fill=colour)
    sheet.draw.rounded_rectangle((84, 7, 620, 31), 12, fill="#ffffff")
    address = f"www.{site.lower().replace(' ', '-')}.example"
    sheet.draw.text((98, 11), address, "#444444", font(14))
    sheet.top = 50
    return sheet


def shop(rng: Random) -> tuple[str, Image.Image]:
    """A product page."""
    site, article = firm(rng), rng.choice(GOODS)
    sheet, accent = browser(rng, site), rng.choice(BRIGHT)
    sheet.line(site, 26, style="Sans-Bold", ink=accent)
    blob(sheet, (18, 100, 300, 400), rng)
    write = sheet.draw.text
    write((325, 105), article.capitalize(), "#222222", font(28, "Sans-Bold"))
    write((325, 150), price(rng, 300), accent, font(34, "Sans-Bold"))
    write((325, 205), "★" * rng.randint(2, 5), "#e0a100", font(26))
    write((325, 250), f"{rng.randint(2, 60)} in stock", GREY, font(18))
    sheet.draw.rounded_rectangle((325, 300, 560, 350), 10, fill=accent)
    write((372, 311), "Add to cart", "#ffffff", font(22, "Sans-Bold"))
    return f"shop page for a {article}", sheet.image


def chat(rng: Random) -> tuple[str, Image.Image]:
    """A chat on a phone."""
    partner = rng.choice(FIRST)
    dark = rng.random() < 0.4
    sheet = Sheet(PHONE, "#1b2129" if dark else rng.choice(("#efeae2", "#f2f7ff", "#fff4f4")), 14)
    own = rng.choice(BRIGHT)
    sheet.draw.rectangle((0, 0, 300, 58), fill=own)
    sheet.draw.ellipse((12, 10, 50, 48), fill="#ffffff")
    sheet.draw.text((62, 16), partner, "#ffffff", font(22, "Sans-Bold"))
    top = 74
    while top < 510:
        lines = rng.choice(PHRASES).split()
        rows = [" ".join(lines[i : i + 4]) for i in range(0, len(lines), 4)]
        left, fill = (14, "#ffffff") if rng.random() < 0.5 else (56, own)
        height = 14 + 21 * len(rows)
        sheet.draw.rounded_rectangle((left, top, left + 230, top + height), 12, fill=fill)
        for index, row in enumerate(rows):
            sheet.draw.text((left + 10, top + 6 + 21 * index), row, "#222222", font(15))
        top += height + rng.randint(8, 22)
    return f"chat with {partner}", sheet.image


def weather(rng: Random) -> tuple[str, Image.Image]:
    """A weather app."""
    place, degrees = rng.choice(PLACES), rng.randint(-9, 34)
    sky = rng.choice(("#4a90d9", "#6b7a8f", "#f2a65a", "#27374d", "#7fb7be"))
    sheet = Sheet(PHONE, sky, 20)
    sheet.top = 50
    sheet.line(place, 34, ink="#ffffff", align="centre")
    sheet.line(f"{degrees}°", 90, ink="#ffffff", align="centre")
    sheet.line(
        rng.choice(("sunny", "light rain", "cloudy", "snow", "storm", "fog")),
        26,
        ink="#ffffff",
        align="centre",
    )
    sheet.top = 320
    for day in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat"):
        sheet.pair(day, f"{degrees + rng.randint(-4, 4)}°", 22, ink="#ffffff")
        sheet.top += 8
    sheet.draw.ellipse((200, 250, 260, 310), fill=rng.choice(("#ffe066", "#ffffff", "#c9d6df")))
    return f"weather app for {place}", sheet.image


def article(rng: Random) -> tuple[str, Image.Image]:
    """An article of a news site."""
    site = f"{rng.choice(PLACES)} {rng.choice(('Daily', 'Review', 'Online', 'Journal'))}"
    sheet, title = browser(rng, site), rng.choice(PHRASES).capitalize()
    sheet.line(site.upper(), 18, style="Serif-Bold", ink=rng.choice(DARK))
    sheet.line(title, 30, style="Serif-Bold")
    blob(sheet, (18, sheet.top + 4, 622, sheet.top + 160), rng)
    sheet.top += 176
    sheet.paragraph(prose(rng, 8), 17, style="Serif")
    return f"article in the {site}", sheet.image


def gallery(rng: Random) -> tuple[str, Image.Image]:
    """A wall of photographs."""
    owner = person(rng)
    sheet = browser(rng, f"{owner} photos", rng.choice(("#ffffff", "#15181d")))
    sheet.line(f"Photos by {owner}", 24, style="Sans-Bold", ink=rng.choice(BRIGHT))
    columns = rng.choice((3, 4, 5))
    side = 604 // columns
    for row in range(5):
        for column in range(columns):
            x, y = 18 + column * side, 98 + row * side
            if y < 430:
                blob(sheet, (x, y, x + side - 10, y + side - 10), rng)
    return f"photo gallery of {owner}", sheet.image


def inbox(rng: Random) -> tuple[str, Image.Image]:
    """A mail program."""
    owner, accent = person(rng), rng.choice(BRIGHT)
    sheet = Sheet(DESKTOP, "#ffffff", 18)
    sheet.draw.rectangle((0, 0, 150, 440), fill=rng.choice(("#f1f3f6", *DARK)))
    sheet.draw.rounded_rectangle((14, 14, 136, 50), 10, fill=accent)
    sheet.draw.text((40, 21), "Write", "#ffffff", font(20, "Sans-Bold"))
    for index, label in enumerate(("Inbox", "Starred", "Sent", "Drafts", "Spam")):
        sheet.draw.text((20, 72 + 34 * index), label, GREY, font(18))
    for index in range(10):
        y, style = 12 + index * 43, rng.choice(("Sans", "Sans-Bold"))
        sheet.draw.text((165, y), person(rng), "#222222", font(16, style))
        subject = rng.choice(PHRASES)[:36]
        sheet.draw.text((165, y + 19), subject, "#666666", font(14))
        sheet.draw.text(
            (622, y), f"{rng.randint(7, 21)}:{rng.randint(10, 59)}", GREY, font(14), "ra"
        )
        sheet.draw.line((160, y + 39, 640, y + 39), fill="#dddddd")
    return f"inbox of {owner}", sheet.image


def week(rng: Random) -> tuple[str, Image.Image]:
    """A calendar program."""
    month = rng.choice(MONTHS)
    sheet = Sheet(DESKTOP, "#ffffff", 14)
    sheet.line(f"{month} {rng.randint(2020, 2028)}", 26, style="Sans-Bold", ink=rng.choice(DARK))
    for column, day in enumerate(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")):
        x = 14 + column * 88
        sheet.draw.text((x + 6, 56), f"{day}", GREY, font(16))
        sheet.draw.line((x, 52, x, 440), fill="#dddddd")
        for _ in range(rng.randint(0, 3)):
            y = rng.randint(84, 380)
            box = (x + 3, y, x + 84, y + rng.randint(26, 90))
            sheet.draw.rounded_rectangle(box, 6, fill=rng.choice(BRIGHT))
            sheet.draw.text((x + 7, y + 4), rng.choice(TITLES)[:9], "#ffffff", font(13))
    return f"calendar week in {month}", sheet.image


def dashboard(rng: Random) -> tuple[str, Image.Image]:
    """Numbers and small charts of a company."""
    owner, dark = firm(rng), rng.random() < 0.5
    sheet = Sheet(DESKTOP, "#171b24" if dark else "#f3f5f9", 18)
    ink, card = ("#ffffff", "#232a38") if dark else ("#222222", "#ffffff")
    sheet.line(f"{owner} dashboard", 24, style="Sans-Bold", ink=ink)
    labels = rng.sample(("Orders", "Visitors", "Returns", "Revenue", "Tickets", "Members"), 3)
    for index, label in enumerate(labels):
        x = 18 + index * 206
        sheet.draw.rounded_rectangle((x, 62, x + 190, 150), 10, fill=card)
        sheet.draw.text((x + 14, 72), label, GREY, font(17))
        sheet.draw.text(
            (x + 14, 98), f"{rng.randint(20, 9999)}", rng.choice(BRIGHT), font(36, "Sans-Bold")
        )
    sheet.draw.rounded_rectangle((18, 166, 620, 424), 10, fill=card)
    colour, count = rng.choice(BRIGHT), rng.randint(8, 24)
    points = [(36 + 568 * i // (count - 1), rng.randint(190, 405)) for i in range(count)]
    if rng.random() < 0.5:
        sheet.draw.line(points, fill=colour, width=5)
    else:
        for x, y in points:
            sheet.draw.rectangle((x, y, x + 400 // count, 410), fill=colour)
    return f"dashboard of {owner}", sheet.image


def login(rng: Random) -> tuple[str, Image.Image]:
    """A page to sign in."""
    site, accent = firm(rng), rng.choice(BRIGHT)
    sheet = browser(rng, site, rng.choice((*DARK, *BRIGHT, "#eef1f5")))
    left = rng.choice((60, 190, 320))
    sheet.draw.rounded_rectangle((left, 70, left + 260, 420), 14, fill="#ffffff")
    write = sheet.draw.text
    write((left + 130, 96), site, accent, font(18, "Sans-Bold"), "ma")
    for index, (label, value) in enumerate((("User name", person(rng)), ("Password", "••••••••"))):
        y = 140 + index * 90
        write((left + 24, y), label, GREY, font(16))
        sheet.draw.rectangle((left + 24, y + 24, left + 236, y + 60), outline="#bbbbbb", width=2)
        write((left + 32, y + 31), value, "#333333", font(18))
    sheet.draw.rounded_rectangle((left + 24, 340, left + 236, 386), 8, fill=accent)
    write((left + 130, 350), "Sign in", "#ffffff", font(22, "Sans-Bold"), "ma")
    return f"login page of {site}", sheet.image


def street_map(rng: Random) -> tuple[str, Image.Image]:
    """A map with a route."""
    place = rng.choice(PLACES)
    sheet = Sheet(rng.choice((DESKTOP, PHONE)), "#eef0e6", 14)
    width, height = sheet.width, sheet.height
    for _ in range(rng.randint(2, 5)):
        x, y = rng.randint(0, width), rng.randint(0, height)
        box = (x, y, x + rng.randint(60, 220), y + rng.randint(50, 180))
        sheet.draw.rectangle(box, fill=rng.choice(("#c8dfb0", "#a9cfe8", "#d9d2c5")))
    for _ in range(rng.randint(8, 16)):
        ends = [(rng.randint(-50, width + 50), rng.randint(-50, height + 50)) for _ in range(2)]
        sheet.draw.line(ends, fill="#ffffff", width=rng.randint(5, 14))
    route = [(rng.randint(30, width - 30), rng.randint(80, height - 40)) for _ in range(4)]
    sheet.draw.line(route, fill="#3367d6", width=7, joint="curve")
    x, y = route[-1]
    sheet.draw.ellipse((x - 12, y - 12, x + 12, y + 12), fill="#d93025")
    sheet.draw.rounded_rectangle((12, 12, min(width - 12, 380), 62), 12, fill="#ffffff")
    sheet.draw.text(
        (26, 24), f"{place}  {rng.randint(3, 88)} min", "#222222", font(21, "Sans-Bold")
    )
    return f"map of {place}", sheet.image


def editor(rng: Random) -> tuple[str, Image.Image]:
    """A program for source code."""
    subject = rng.choice(GOODS).replace(" ", "_")
    dark = rng.random() < 0.75
    sheet = Sheet(DESKTOP, rng.choice(("#1e1e2e", "#282c34", "#002b36")) if dark else "#fdfdfd", 14)
    sheet.draw.rectangle((0, 0, 640, 30), fill="#3b4252")
    sheet.draw.text((14, 6), f"{subject}.py", "#ffffff", font(15))
    inks = ("#c678dd", "#61afef", "#98c379", "#e5c07b", "#abb2bf") if dark else DARK
    for row in range(18):
        y, x = 40 + row * 22, 60 + 24 * rng.choice((0, 0, 1, 1, 2))
        sheet.draw.text((16, y), f"{row + 1:>2}", "#6b7280", font(15, "SansMono"))
        for _ in range(rng.randint(0, 5)):
            word = rng.choice(
                ("def", "return", "for", "if", "x", "total", subject, "=", "count", "in", "rows")
            )
            sheet.draw.text((x, y), word, rng.choice(inks), font(15, "SansMono"))
            x += round(font(15, "SansMono").getlength(f"{word} "))
    return f"code editor with {subject.replace('_', ' ')}", sheet.image


def settings(rng: Random) -> tuple[str, Image.Image]:
    """Switches of a phone."""
    topic = rng.choice(
        ("Sound", "Display", "Privacy", "Battery", "Network", "Camera", "Language", "Storage")
    )
    dark = rng.random() < 0.4
    ground, ink = ("#101418", "#f0f0f0") if dark else ("#f6f7f9", "#222222")
    sheet, accent = Sheet(PHONE, ground, 18), rng.choice(BRIGHT)
    sheet.line(topic, 36, style="Sans-Bold", ink=ink)
    for option in rng.sample(OPTIONS, rng.randint(6, 9)):
        sheet.top += 16
        is_on, top = rng.random() < 0.5, sheet.top
        sheet.line(option, 21, ink=ink)
        sheet.draw.rounded_rectangle(
            (228, top, 280, top + 28), 14, fill=accent if is_on else "#9aa0a6"
        )
        knob = 254 if is_on else 230
        sheet.draw.ellipse((knob, top + 2, knob + 24, top + 26), fill="#ffffff")
    return f"{topic.lower()} settings", sheet.image


def player(rng: Random) -> tuple[str, Image.Image]:
    """A music player."""
    artist, song = person(rng), rng.choice(TITLES)
    sheet = Sheet(PHONE, rng.choice((*DARK, "#111111", "#ffffff")), 20)
    blob(sheet, (24, 50, 276, 302), rng)
    sheet.top = 326
    sheet.line(song, 28, style="Sans-Bold", ink="#e8e8e8")
    sheet.line(artist, 20, ink=GREY)
    accent, position = rng.choice(BRIGHT), rng.randint(40, 260)
    sheet.draw.rectangle((24, 440, 276, 446), fill="#777777")
    sheet.draw.rectangle((24, 440, position, 446), fill=accent)
    sheet.draw.ellipse((118, 480, 182, 544), fill=accent)
    sheet.draw.polygon(((142, 494), (142, 530), (168, 512)), fill="#ffffff")
    sheet.line(f"date of release: {date(rng)}", 13, ink=GREY)
    return f"music player with {artist}", sheet.image


LAYOUTS: dict[str, Layout] = {
    "shop page": shop,
    "chat": chat,
    "weather app": weather,
    "login page": login,
    "music player": player,
    "article": article,
    "photo gallery": gallery,
    "inbox": inbox,
    "calendar": week,
    "dashboard": dashboard,
    "map": street_map,
    "code editor": editor,
    "settings": settings,
}
"""By kind; the kind is the series."""


def screens(per_layout: int) -> Iterator[WorldEntity]:
    """That many screenshots of each layout."""
    for kind, layout in LAYOUTS.items():
        for index in range(per_layout):
            name, picture = layout(Random(f"screen {kind} {index}"))
            yield WorldEntity(
                name=name,
                kind=kind,
                domain="screenshot",
                origin="screenshot",
                path=f"{kind} {index}",
                series=f"screenshot/{kind}",
                picture=picture,
            )
