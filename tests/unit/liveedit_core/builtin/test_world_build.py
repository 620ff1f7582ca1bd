"""The pure parts of the user's world: names, windows, splits and the drawn layouts."""

import io
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from liveedit_core.builtin.build.world import pages, screens
from liveedit_core.builtin.build.world.collect import for_cases, placed, split_by_series
from liveedit_core.builtin.build.world.drawings import plain_name, shown_folder
from liveedit_core.builtin.build.world.photo_table import AUTHORS, FOLDERS, PHOTOS, PLAIN_WINDOWS
from liveedit_core.builtin.build.world.photos import cut, overlap, plain_stem
from liveedit_core.builtin.build.world.table import (
    SOURCES,
    WorldEntity,
    on_square,
    row_of,
    scaled,
    with_unique_names,
)


def entity(name: str, series: str = "a", *, for_cases: bool = True) -> WorldEntity:
    return WorldEntity(
        name=name,
        kind="animal",
        domain="drawing",
        origin="openclipart",
        path=f"{series}/{name}",
        series=series,
        picture=Image.new("RGB", (40, 20), "red"),
        for_cases=for_cases,
    )


@pytest.mark.parametrize(
    ("title", "stem", "author", "expected"),
    [
        ("Lemon (Half)", "lemon_half_ganson", "Gerald G.", "lemon half"),
        ("sibmission", "grapes_simple_bw", "", "grapes simple outline"),
        ("contour chipmunk", "contour_camel", "", "contour camel"),
        ("soft blue couch by jonadab the unsightly one", "x", "", ""),
        ("Horse", "horse_1_konstantin_r._01", "Konstantin R.", "horse"),
        ("A&#39;s &amp; dog", "dog", "", "dog"),
    ],
)
def test_names_come_from_titles_or_file_names(
    title: str, stem: str, author: str, expected: str
) -> None:
    assert plain_name(title, stem, author) == expected


def test_a_folder_takes_the_kind_of_its_longest_prefix() -> None:
    assert shown_folder("animals/birds/penguin") == "animals/birds"
    assert shown_folder("recreation/games/cards/white") == "recreation/games/cards"
    assert shown_folder("computer/icons/lemon-theme/apps") == ""
    assert shown_folder("logos") == ""


def test_windows_of_one_photograph_barely_overlap() -> None:
    for windows in PHOTOS.values():
        boxes = [box for _, _, box in windows]
        assert all(
            overlap(one, other) < 0.2 for index, one in enumerate(boxes) for other in boxes[:index]
        )
        assert all(
            0 <= left < right <= 1 and 0 <= top < bottom <= 1 for left, top, right, bottom in boxes
        )


def test_photo_names_are_unique_and_sources_known() -> None:
    names = [name for windows in PHOTOS.values() for name, _, _ in windows]
    assert len(set(names)) == len(names) >= 120
    assert {origin for origin, _ in (*PHOTOS, *PLAIN_WINDOWS)} <= SOURCES.keys() & FOLDERS.keys()
    collections = ("lomiri-16.04", "lomiri-20.04", "mate", "plasma")
    paths = {path for origin, path in (*PHOTOS, *PLAIN_WINDOWS) if origin in collections}
    assert paths == AUTHORS.keys(), "each of these files has an author and a licence of its own"


def test_overlap_is_a_share_of_the_smaller_window() -> None:
    assert overlap((0, 0, 1, 1), (0.25, 0.25, 0.5, 0.5)) == pytest.approx(1)
    assert overlap((0, 0, 0.5, 1), (0.4, 0, 0.9, 1)) == pytest.approx(0.2)
    assert overlap((0, 0, 0.5, 1), (0.5, 0, 1, 1)) == 0


def test_a_window_is_cut_by_shares() -> None:
    image = Image.new("RGB", (100, 50))
    image.paste((255, 0, 0), (50, 0, 100, 25))
    assert cut(image, (0.5, 0, 1, 0.5)).getcolors() == [(1250, (255, 0, 0))]


def test_file_names_become_words() -> None:
    assert plain_stem("Infinite-Sea_by_Aury88.jpg") == "infinite sea"
    assert plain_stem("FallenLeaf/contents/images/2560x1600.jpg") == "fallenleaf"


def test_whole_series_go_to_one_side_at_about_the_share() -> None:
    entities = [entity(f"{s}{n}", f"series {s}") for s in range(30) for n in range(1 + s % 7)]
    split_by_series(entities)
    sides: dict[str, set[str]] = {}
    for member in entities:
        sides.setdefault(member.series, set()).add(member.split_hint)
    assert all(len(side) == 1 for side in sides.values())
    share = sum(member.split_hint == "development" for member in entities) / len(entities)
    assert share == pytest.approx(0.4, abs=0.05)


def test_cases_take_few_of_one_name_and_only_what_is_fit() -> None:
    entities = [entity("dog"), entity("dog"), entity("dog"), entity("cat", for_cases=False)]
    assert [member.name for member in for_cases(entities, 10)] == ["dog", "dog"]


def test_placing_gives_every_kept_entity_one_hint() -> None:
    entities = [entity(f"animal {n}", f"series {n % 40}") for n in range(800)]
    kept = placed(entities, "drawing")
    hints = [member.split_hint for member in kept]
    assert hints.count("development") + hints.count("test") == 450
    assert hints.count("bystander") == 48
    assert hints.count("crowd") == 800 - 450 - 48


def test_repeated_names_are_numbered() -> None:
    named = with_unique_names([entity("Dog"), entity("dog"), entity("cat")])
    assert [member.name for member in named] == ["Dog", "dog 2", "cat"]


def test_a_drawing_is_centred_on_a_white_square() -> None:
    drawing = Image.new("RGBA", (200, 100), (0, 0, 0, 0))
    ImageDraw.Draw(drawing).rectangle((150, 10, 189, 89), fill=(200, 0, 0, 255))
    square = np.asarray(on_square(drawing, margin=0.1))
    assert square.shape == (96, 96, 3)
    assert (square[:, :20] == 255).all()
    assert (square[48, 48] == (200, 0, 0)).all()


def test_rows_hold_small_images_with_source_and_ground() -> None:
    member = entity("red fox")
    member.picture = on_square(Image.new("RGB", (300, 200), "red"))
    member.split_hint = "crowd"
    row = row_of(member)
    assert row["entity_id"] == "drawing:red-fox"
    image = row["images"][0]
    assert image["has_plain_ground"]
    assert image["licence"] == "Public domain"
    with Image.open(io.BytesIO(image["image"])) as stored:
        assert stored.size == (112, 112)


def test_scaling_keeps_proportions_and_fills_transparency_with_white() -> None:
    assert scaled(Image.new("RGBA", (400, 100)), 224).size == (224, 56)
    assert scaled(Image.new("RGBA", (40, 10)), 20).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("kind", "layout"),
    [*pages.LAYOUTS.items(), *screens.LAYOUTS.items()],
    ids=[*pages.LAYOUTS, *screens.LAYOUTS],
)
def test_a_layout_is_repeatable_and_varies_with_its_seed(kind: str, layout: pages.Layout) -> None:
    name, image = layout(Random(f"{kind} 1"))
    again, same = layout(Random(f"{kind} 1"))
    assert (name, image) == (again, same)
    assert layout(Random(f"{kind} 2"))[1] != image
    assert np.asarray(image).std() > 10
