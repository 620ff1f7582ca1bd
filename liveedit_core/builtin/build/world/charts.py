"""Charts of the user's world: invented series drawn with matplotlib."""

import io
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from PIL import Image

from liveedit_core.builtin.build.world.lettering import BRIGHT, DARK, FIRST, MONTHS, PLACES
from liveedit_core.builtin.build.world.table import WorldEntity

SUBJECTS = (
    "rainfall,visitors,bread sales,bicycle traffic,water level,library loans,ticket sales,"
    "honey harvest,power use,ferry passengers,apple prices,noise level,repair orders,"
    "tree planting,snow depth,newspaper copies,swimmers,lost umbrellas,letters sent,"
    "tea exports,fish catch,parking fees"
).split(",")
GROUPS = (
    "north,south,east,west",
    "adults,children,seniors",
    "bus,tram,train,bicycle,car",
    "tea,coffee,juice,milk",
)
Chart = Callable[[Any, Random], None]
"""Draws on matplotlib axes."""


def walk(rng: Random, count: int) -> list[float]:
    """A random walk above zero."""
    level, values = rng.uniform(20, 80), []
    for _ in range(count):
        level = max(2.0, level + rng.uniform(-14, 14))
        values.append(level)
    return values


def names(rng: Random) -> list[str]:
    """Three to seven labels."""
    count = rng.randint(3, 7)
    choices: list[list[str]] = [
        PLACES,
        FIRST,
        [month[:3] for month in MONTHS],
        [str(year) for year in range(2014, 2027)],
    ]
    chosen = rng.choice(choices)
    start = rng.randint(0, len(chosen) - count)
    return [label[:8] for label in chosen[start : start + count]]


def bars(axes: Any, rng: Random) -> None:
    """Upright bars, one colour or many."""
    labels = names(rng)
    colours = rng.sample(BRIGHT, len(labels)) if rng.random() < 0.5 else rng.choice(BRIGHT)
    axes.bar(labels, [rng.uniform(10, 90) for _ in labels], color=colours)
    axes.tick_params(axis="x", rotation=rng.choice((0, 30)) if len(labels) < 5 else 40)


def lines(axes: Any, rng: Random) -> None:
    """One to four lines."""
    for colour in rng.sample(BRIGHT, rng.randint(1, 4)):
        style = rng.choice(("-", "--", "-", "-."))
        axes.plot(
            walk(rng, rng.randint(6, 24)),
            style,
            color=colour,
            linewidth=3,
            marker=rng.choice(("", "o", "s")),
        )


def pie(axes: Any, rng: Random) -> None:
    """Slices with labels."""
    labels = names(rng)
    sizes = [rng.uniform(4, 40) for _ in labels]
    hole = {"width": rng.uniform(0.3, 0.5)} if rng.random() < 0.4 else None
    axes.pie(sizes, labels=labels, colors=rng.sample(BRIGHT, len(labels)), wedgeprops=hole)


def scatter(axes: Any, rng: Random) -> None:
    """Clouds of points."""
    for colour in rng.sample(BRIGHT, rng.randint(1, 3)):
        x0, y0, spread = rng.uniform(0, 10), rng.uniform(0, 10), rng.uniform(0.5, 3)
        count = rng.randint(15, 60)
        xs = [rng.gauss(x0, spread) for _ in range(count)]
        axes.scatter(
            xs, [rng.gauss(y0, 1) + 0.4 * x for x in xs], s=rng.randint(20, 120), color=colour
        )


def lying_bars(axes: Any, rng: Random) -> None:
    """Lying bars, sorted or not."""
    labels = names(rng)
    values = [rng.uniform(5, 95) for _ in labels]
    axes.barh(labels, sorted(values) if rng.random() < 0.5 else values, color=rng.choice(BRIGHT))


def areas(axes: Any, rng: Random) -> None:
    """Stacked areas."""
    count = rng.randint(6, 15)
    layers = [walk(rng, count) for _ in range(rng.randint(2, 4))]
    axes.stackplot(range(count), layers, colors=rng.sample(BRIGHT, len(layers)))


def histogram(axes: Any, rng: Random) -> None:
    """Counts of a normal or a skewed sample."""
    sample = [
        rng.gauss(50, 12) if rng.random() < 0.6 else rng.expovariate(0.05) for _ in range(400)
    ]
    axes.hist(sample, bins=rng.randint(8, 30), color=rng.choice(BRIGHT), edgecolor="white")


def boxes(axes: Any, rng: Random) -> None:
    """Boxes and whiskers."""
    groups = [
        [rng.gauss(rng.uniform(20, 80), rng.uniform(5, 15)) for _ in range(40)]
        for _ in range(rng.randint(3, 6))
    ]
    drawn = axes.boxplot(groups, patch_artist=True)
    for patch, colour in zip(drawn["boxes"], rng.sample(BRIGHT, len(groups)), strict=True):
        patch.set_facecolor(colour)


def heat_map(axes: Any, rng: Random) -> None:
    """A grid of shades."""
    rows, columns = rng.randint(4, 9), rng.randint(4, 12)
    grid = [[rng.random() for _ in range(columns)] for _ in range(rows)]
    axes.imshow(
        grid, cmap=rng.choice(("viridis", "Blues", "magma", "YlOrRd", "Greens")), aspect="auto"
    )


def grouped_bars(axes: Any, rng: Random) -> None:
    """Bars in groups, with a legend."""
    groups = rng.choice(GROUPS).split(",")
    labels = names(rng)[:4]
    width = 0.8 / len(groups)
    for index, (group, colour) in enumerate(
        zip(groups, rng.sample(BRIGHT, len(groups)), strict=True)
    ):
        places = [position + index * width for position in range(len(labels))]
        axes.bar(places, [rng.uniform(10, 90) for _ in labels], width, label=group, color=colour)
    axes.legend(fontsize=11)


CHARTS: dict[str, Chart] = {
    "bar chart": bars,
    "line chart": lines,
    "pie chart": pie,
    "histogram": histogram,
    "scatter plot": scatter,
    "horizontal bar chart": lying_bars,
    "area chart": areas,
    "box plot": boxes,
    "heat map": heat_map,
    "grouped bar chart": grouped_bars,
}
"""By kind; the kind is the series."""


def drawn(chart: Chart, title: str, rng: Random) -> Image.Image:
    """One chart with a title, in one of several styles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=rng.choice(((4.5, 3.4), (4.2, 4.2), (4.8, 3.0))), dpi=100)
    dark = rng.random() < 0.2
    ground, ink = (
        (rng.choice(DARK), "#ffffff")
        if dark
        else (rng.choice(("#ffffff", "#ffffff", "#f5f5f0", "#eef3f8")), "#222222")
    )
    figure.set_facecolor(ground)
    axes = figure.add_subplot()
    axes.set_facecolor(ground)
    chart(axes, rng)
    axes.set_title(title, fontsize=17, color=ink)
    axes.tick_params(colors=ink, labelsize=12)
    for text in axes.texts:
        text.set_color(ink)
        text.set_fontsize(13)
    if rng.random() < 0.4:
        axes.grid(alpha=0.4)
    if rng.random() < 0.5:
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def charts(per_kind: int) -> Iterator[WorldEntity]:
    """That many charts of each kind."""
    for kind, chart in CHARTS.items():
        for index in range(per_kind):
            rng = Random(f"chart {kind} {index}")
            place, subject = rng.choice(PLACES), rng.choice(SUBJECTS)
            title = f"{subject.capitalize()} in {place}"
            yield WorldEntity(
                name=f"{kind} of {subject}",
                kind=kind,
                domain="chart",
                origin="chart",
                path=f"{kind} {index}",
                series=f"chart/{kind}",
                picture=drawn(chart, title, rng),
            )
