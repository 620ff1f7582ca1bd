"""Pages of text of the user's world: letters, invoices, tickets, posters with invented content."""

from collections.abc import Callable, Iterator
from random import Random

from PIL import Image

from liveedit_core.builtin.build.world.lettering import (
    BRIGHT,
    DARK,
    DISHES,
    GOODS,
    MONTHS,
    PAPER,
    PLACES,
    TITLES,
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
"""Draws one page; returns its name too."""

STEPS = (
    "Chop everything finely.",
    "Heat the oven to 200 degrees.",
    "Stir until smooth.",
    "Bake until golden.",
    "Serve with bread.",
    "Let it rest overnight.",
)
TALL = (448, 600)
WIDE = (600, 340)
SQUARE = (520, 520)


def invoice(rng: Random) -> tuple[str, Image.Image]:
    """Sender, number, a table of goods and a total."""
    sender, ink = firm(rng), rng.choice(DARK)
    sheet = Sheet(TALL, rng.choice(PAPER))
    sheet.line(sender, 28, style="Sans-Bold", ink=ink)
    sheet.line(f"{rng.randint(2, 98)} Mill Lane, {rng.choice(PLACES)}", 14)
    sheet.top += 16
    sheet.pair("INVOICE", f"No. {rng.randint(1000, 9999)}", 22, style="Sans-Bold")
    sheet.line(f"To: {person(rng)}", 16)
    sheet.line(date(rng), 16)
    sheet.rule(ink)
    for article in rng.sample(GOODS, rng.randint(3, 8)):
        sheet.pair(f"{rng.randint(1, 9)} x {article}", price(rng), 17)
    sheet.rule(ink)
    sheet.pair("Total", price(rng, 900), 22, style="Sans-Bold", ink=ink)
    return f"invoice of {sender}", sheet.image


def receipt(rng: Random) -> tuple[str, Image.Image]:
    """A till receipt on narrow paper."""
    sender = firm(rng)
    sheet = Sheet((300, 600), "#fbfbf8", 18)
    sheet.line(sender, 24, style="SansMono-Bold", align="centre")
    sheet.line(date(rng), 15, style="SansMono", align="centre")
    sheet.rule("#555555", 1)
    for article in rng.sample(GOODS, rng.randint(5, 11)):
        sheet.pair(article[:14], price(rng), 16, style="SansMono")
    sheet.rule("#555555", 1)
    sheet.pair("TOTAL", price(rng, 300), 22, style="SansMono-Bold")
    sheet.line(f"Till {rng.randint(1, 9)}  {rng.randint(100000, 999999)}", 15, style="SansMono")
    for _ in range(40):
        width = rng.randint(1, 4)
        left = rng.randint(18, 270)
        sheet.draw.rectangle((left, sheet.top + 8, left + width, sheet.top + 58), fill="black")
    return f"receipt of {sender}", sheet.image


def letter(rng: Random) -> tuple[str, Image.Image]:
    """A letter with address, salutation and signature."""
    writer, reader = person(rng), person(rng)
    style = rng.choice(("Serif", "Sans", "Serif-Italic"))
    sheet = Sheet(TALL, rng.choice(PAPER), 40)
    sheet.line(writer, 18, style="Serif-Bold", align="right")
    sheet.line(f"{rng.choice(PLACES)}, {date(rng)}", 15, style=style, align="right")
    sheet.top += 30
    sheet.line(f"Dear {reader},", 20, style=style)
    sheet.top += 8
    sheet.paragraph(prose(rng, rng.randint(4, 9)), 17, style=style)
    sheet.top += 12
    sheet.line("Yours sincerely", 17, style=style)
    sheet.line(writer, 24, style="Serif-Italic", ink=rng.choice(DARK))
    return f"letter from {writer}", sheet.image


def menu(rng: Random) -> tuple[str, Image.Image]:
    """Dishes and prices of a restaurant."""
    colour = rng.choice(("Old", "Blue", "Golden", "Little", "Green"))
    house = f"{colour} {rng.choice(('Mill', 'Heron', 'Anchor', 'Lantern', 'Oak', 'Fox'))}"
    dark = rng.random() < 0.4
    ground, ink = (rng.choice(DARK), "#f6e7c8") if dark else (rng.choice(PAPER), rng.choice(DARK))
    sheet = Sheet(TALL, ground, 36)
    sheet.line(house, 38, style="Serif-Bold", ink=ink, align="centre")
    sheet.line("MENU", 20, style="Serif", ink=ink, align="centre")
    sheet.rule(ink)
    for dish in rng.sample(DISHES, rng.randint(6, 11)):
        sheet.pair(dish, price(rng, 30), 19, style="Serif", ink=ink)
        sheet.top += 8
    return f"menu of the {house}", sheet.image


def poster(rng: Random) -> tuple[str, Image.Image]:
    """An event in large letters with a simple drawing."""
    title, place = rng.choice(TITLES), rng.choice(PLACES)
    ground, accent = rng.sample(BRIGHT, 2)
    sheet = Sheet(TALL, ground, 24)
    for _ in range(rng.randint(3, 9)):
        x, y, radius = rng.randint(0, 448), rng.randint(250, 460), rng.randint(15, 90)
        box = (x - radius, y - radius, x + radius, y + radius)
        draw = sheet.draw.ellipse if rng.random() < 0.6 else sheet.draw.rectangle
        draw(box, fill=rng.choice((accent, "#ffffff", "#222222", rng.choice(BRIGHT))))
    for word in title.split():
        sheet.line(word.upper(), 62, style="Sans-Bold", ink="#ffffff", align="centre")
    sheet.top = 480
    sheet.band(110, "#222222")
    sheet.top += 12
    sheet.line(f"{place} Town Hall", 30, style="Sans-Bold", ink="#ffffff", align="centre")
    sheet.line(f"{date(rng)}, {rng.randint(9, 20)}:00", 22, ink="#ffffff", align="centre")
    return f"{title} in {place} poster", sheet.image


def ticket(rng: Random) -> tuple[str, Image.Image]:
    """A ticket with a stub and a code of squares."""
    title, colour = rng.choice(TITLES), rng.choice(BRIGHT)
    sheet = Sheet(WIDE, "#fffdf8", 24)
    sheet.band(70, colour)
    sheet.line(title, 34, style="Sans-Bold", ink="#ffffff")
    sheet.top = 120
    sheet.line(date(rng), 24)
    seat = f"Row {rng.randint(1, 30)}  Seat {rng.randint(1, 40)}"
    sheet.line(seat, 30, style="Sans-Bold")
    sheet.line(person(rng), 22)
    sheet.line(f"{price(rng)}   No. {rng.randint(10000, 99999)}", 20)
    for column in range(12):
        for row in range(12):
            if rng.random() < 0.5:
                x, y = 430 + column * 11, 120 + row * 11
                sheet.draw.rectangle((x, y, x + 10, y + 10), fill="black")
    for y in range(0, 340, 14):
        sheet.draw.line((405, y, 405, y + 7), fill="#888888", width=2)
    return f"{title} ticket", sheet.image


def recipe(rng: Random) -> tuple[str, Image.Image]:
    """A recipe card: ingredients and steps."""
    dish = rng.choice(DISHES)
    sheet = Sheet(SQUARE, rng.choice(PAPER), 30)
    sheet.band(52, rng.choice(("#f6d6c8", "#d9ead3", "#fff2cc", "#d0e3f0")))
    sheet.line(dish.capitalize(), 34, style="Serif-Bold", ink="#7a2e1d")
    sheet.line(
        f"for {rng.randint(2, 8)} people, {rng.randint(15, 120)} minutes", 18, style="Serif-Italic"
    )
    sheet.rule("#b08968")
    foods = (
        "flour,butter,eggs,salt,onions,cream,parsley,olive oil,sugar,milk,rice,pepper,thyme".split(
            ","
        )
    )
    for food in rng.sample(foods, rng.randint(4, 7)):
        sheet.line(f"• {rng.choice((50, 100, 150, 200, 250, 500))} g {food}", 19, style="Serif")
    sheet.rule("#b08968")
    for number, step in enumerate(rng.sample(STEPS, 4), 1):
        sheet.line(f"{number}. {step}", 18, style="Serif")
    return f"recipe for {dish}", sheet.image


def timetable(rng: Random) -> tuple[str, Image.Image]:
    """Departures of a bus line."""
    number, ink = rng.randint(2, 320), rng.choice(DARK)
    sheet = Sheet((480, 600), "#ffffff", 24)
    sheet.band(58, ink)
    sheet.line(f"Line {number}", 36, style="Sans-Bold", ink="#ffffff")
    sheet.top += 14
    sheet.line(f"{rng.choice(PLACES)} - {rng.choice(PLACES)}", 22, style="Sans-Bold")
    minutes = sorted(rng.sample(range(60), rng.randint(2, 5)))
    for index, hour in enumerate(range(5, 21)):
        if index % 2:
            sheet.draw.rectangle((24, sheet.top - 2, 456, sheet.top + 24), fill="#e8edf3")
        row = "   ".join(f"{minute:02d}" for minute in minutes if rng.random() < 0.85)
        sheet.draw.text((110, sheet.top), row, "#222222", font(18, "SansMono"))
        sheet.line(f"{hour:02d}", 19, style="Sans-Bold", ink=ink)
    return f"bus timetable line {number}", sheet.image


def certificate(rng: Random) -> tuple[str, Image.Image]:
    """A certificate with a frame and a seal."""
    holder, ink = person(rng), rng.choice(DARK)
    sheet = Sheet((620, 440), rng.choice(PAPER), 40)
    for inset, width in ((10, 4), (20, 1)):
        box = (inset, inset, 620 - inset, 440 - inset)
        sheet.draw.rectangle(box, outline=ink, width=width)
    sheet.line("CERTIFICATE", 44, style="Serif-Bold", ink=ink, align="centre")
    sheet.line("This is to certify that", 20, style="Serif-Italic", align="centre")
    sheet.line(holder, 40, style="Serif-BoldItalic", align="centre")
    course = rng.choice(
        ("first aid", "welding", "lifesaving", "bee-keeping", "piano", "sailing", "typing")
    )
    sheet.line(f"has passed the course in {course}", 22, style="Serif", align="centre")
    sheet.line(f"{rng.choice(PLACES)}, {date(rng)}", 18, style="Serif", align="centre")
    x, y = rng.choice((110, 310, 510)), 365
    sheet.draw.ellipse(
        (x - 42, y - 42, x + 42, y + 42), fill=rng.choice(BRIGHT), outline=ink, width=5
    )
    return f"{course} certificate of {holder}", sheet.image


def newspaper(rng: Random) -> tuple[str, Image.Image]:
    """A front page in columns."""
    place = rng.choice(PLACES)
    sheet = Sheet(TALL, "#f3efe4", 20)
    sheet.line(
        f"{place} {rng.choice(('Herald', 'Post', 'Courier', 'Echo'))}",
        40,
        style="Serif-Bold",
        align="centre",
    )
    sheet.rule("#222222", 3)
    headline = rng.choice(
        (
            "Bridge Reopens",
            "Storm Warning",
            "Record Harvest",
            "New Mayor Elected",
            "Library Saved",
            "Ferry Delayed",
        )
    )
    sheet.line(headline, 44, style="Serif-Bold")
    start, columns = sheet.top + 6, rng.choice((2, 3))
    width = 408 // columns
    shade = rng.randint(90, 170)
    for column in range(columns):
        part = Sheet((width, 600 - start - 14), "#f3efe4", 6)
        if column == columns - 1:
            part.draw.rectangle((6, 6, width - 6, 130), fill=(shade, shade, shade))
            part.draw.ellipse((20, 40, 70, 110), fill=(shade - 50,) * 3)
            part.top = 140
        part.paragraph(prose(rng, 18), 12, style="Serif")
        sheet.image.paste(part.image, (20 + column * width, start))
    return f"{place} newspaper about {headline.lower()}", sheet.image


def form(rng: Random) -> tuple[str, Image.Image]:
    """A form with boxes and ticks."""
    purpose = rng.choice(
        (
            "Library Card",
            "Parking Permit",
            "Club Membership",
            "Lost Property",
            "Swimming Course",
            "Repair Order",
            "Visitor Pass",
        )
    )
    sheet = Sheet(TALL, "#ffffff", 30)
    sheet.line(purpose, 34, style="Sans-Bold", ink=rng.choice(DARK))
    sheet.line(f"Form {rng.choice('ABCDEFG')}-{rng.randint(10, 99)}", 16)
    sheet.rule()
    fields = ("Name", "Street", "Town", "Telephone", "Date of birth", "Number")
    values = (
        person(rng),
        f"{rng.randint(1, 99)} Hill Road",
        rng.choice(PLACES),
        f"0{rng.randint(100, 999)} {rng.randint(10000, 99999)}",
        date(rng),
        str(rng.randint(1000, 9999)),
    )
    for label, value in list(zip(fields, values, strict=True))[: rng.randint(4, 6)]:
        sheet.line(label, 14, ink="#666666")
        box = (30, sheet.top, 418, sheet.top + 32)
        sheet.draw.rectangle(box, outline="#666666", width=2)
        sheet.draw.text((38, sheet.top + 5), value, "#1a3e8c", font(18, "Serif-Italic"))
        sheet.top += 40
    for label in ("new", "renewal", "urgent"):
        sheet.draw.rectangle((30, sheet.top, 48, sheet.top + 18), outline="#222222", width=2)
        if rng.random() < 0.5:
            sheet.draw.line(
                (32, sheet.top + 9, 39, sheet.top + 16, 56, sheet.top - 4), fill="#1a3e8c", width=4
            )
        sheet.draw.text((60, sheet.top - 2), label, "#222222", font(18))
        sheet.top += 28
    return f"{purpose.lower()} form", sheet.image


def notice(rng: Random) -> tuple[str, Image.Image]:
    """A notice: a headline in a frame, one sentence, tear-off numbers."""
    subject = rng.choice(
        (
            "LOST CAT",
            "FLAT TO LET",
            "PIANO LESSONS",
            "FOUND: KEYS",
            "BIKE FOR SALE",
            "DOG WALKER",
            "NO PARKING",
            "WET PAINT",
            "CLOSED TODAY",
            "BABYSITTER",
        )
    )
    colour = rng.choice(BRIGHT)
    sheet = Sheet(SQUARE, rng.choice(("#ffffff", "#fff7c2", "#e6f2ff", "#ffe6e6")), 30)
    sheet.draw.rectangle((8, 8, 512, 512), outline=colour, width=rng.choice((4, 10, 18)))
    sheet.top = 60
    for word in subject.split():
        sheet.line(word, 74, style="Sans-Bold", ink=rng.choice((colour, "#222222")), align="centre")
    sheet.paragraph(prose(rng, 1), 24)
    sheet.top = 430
    telephone = f"0{rng.randint(100, 999)} {rng.randint(100000, 999999)}"
    sheet.line(telephone, 36, style="Sans-Bold", align="centre")
    return f"{subject.lower().replace(':', '')} notice", sheet.image


def calendar_page(rng: Random) -> tuple[str, Image.Image]:
    """A month of a wall calendar."""
    month, year, ink = rng.choice(MONTHS), rng.randint(2018, 2028), rng.choice(BRIGHT)
    sheet = Sheet((520, 440), "#ffffff", 20)
    sheet.band(64, ink)
    sheet.line(f"{month} {year}", 40, style="Sans-Bold", ink="#ffffff", align="centre")
    start, marked = rng.randint(0, 6), rng.sample(range(1, 29), rng.randint(1, 5))
    for day in range(1, rng.choice((28, 30, 31)) + 1):
        row, column = divmod(day + start - 1, 7)
        x, y = 24 + column * 68, 100 + row * 54
        fill = "#ffe08a" if day in marked else "#f2f2f2"
        sheet.draw.rectangle((x, y, x + 62, y + 48), fill=fill)
        sheet.draw.text((x + 6, y + 4), str(day), "#222222", font(22, "Sans-Bold"))
    return f"calendar page {month} {year}", sheet.image


LAYOUTS: dict[str, Layout] = {
    "invoice": invoice,
    "letter": letter,
    "menu": menu,
    "poster": poster,
    "recipe": recipe,
    "ticket": ticket,
    "receipt": receipt,
    "timetable": timetable,
    "certificate": certificate,
    "newspaper": newspaper,
    "form": form,
    "notice": notice,
    "calendar page": calendar_page,
}
"""By kind; the kind is the series."""


def pages(per_layout: int) -> Iterator[WorldEntity]:
    """That many pages of each layout."""
    for kind, layout in LAYOUTS.items():
        for index in range(per_layout):
            name, picture = layout(Random(f"page {kind} {index}"))
            yield WorldEntity(
                name=name,
                kind=kind,
                domain="page",
                origin="page",
                path=f"{kind} {index}",
                series=f"page/{kind}",
                picture=picture,
            )
