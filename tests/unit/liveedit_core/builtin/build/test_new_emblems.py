"""The sealed test split's entities are new: no id, name, vendor or image of the other splits."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from liveedit_core.builtin.benchmark import BENCHMARK_FILE
from liveedit_core.builtin.build import new_emblems
from liveedit_core.builtin.build.new_emblems import (
    CATALOGUE,
    SOURCES,
    Entry,
    collect,
    has_plain_ground,
    iconify_svg,
    new_entries,
    plain_id,
    plain_name,
    read_catalogue,
)
from liveedit_core.builtin.build.things import SOURCES as EARLIER_SOURCES

CATALOGUE_ENTRIES = list(read_catalogue(CATALOGUE.read_text()))


def entry(entity_id: str, name: str) -> Entry:
    return Entry(entity_id=entity_id, name=name, kind="logo", drawings=(("cib", "any"),))


def webp(seed: int) -> bytes:
    """Blocks of random colours: no two seeds are near-duplicates."""
    blocks = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((96, 96), Image.Resampling.NEAREST).save(buffer, "WEBP")
    return buffer.getvalue()


def framed(ground: str, inner: str) -> bytes:
    image = Image.new("RGB", (96, 96), ground)
    image.paste(inner, (20, 20, 70, 70))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def earlier_table(thing_id: str, name: str, image: bytes) -> pa.Table:
    row = {"thing_id": thing_id, "name": name, "pictures": [{"image": image}]}
    return pa.Table.from_pylist([row])


@pytest.mark.parametrize(
    ("one", "other"), [("Node.js", "NodeJS"), ("Band Protocol", "band-protocol"), ("C#", "C sharp")]
)
def test_spelling_does_not_make_a_new_name(one: str, other: str) -> None:
    assert plain_name(one) == plain_name(other)


def test_languages_that_differ_in_a_sign_keep_apart() -> None:
    assert len({plain_name(name) for name in ("C", "C++", "C#")}) == 3


def test_an_entity_is_new_by_id_and_by_name() -> None:
    entries = [
        entry("logo:known", "Fresh"),
        entry("logo:fresh", "known name"),
        entry("emoji:1f573-FE0F", "hole"),
        entry("logo:kept", "Kept"),
        entry("logo:kept", "Same id"),
        entry("logo:twin", "KEPT."),
    ]
    kept = new_entries(entries, {"logo:known", plain_id("emoji:1f573")}, {"knownname"})
    assert [each.name for each in kept] == ["Kept"]


def test_an_icon_takes_its_own_frame_before_the_collections() -> None:
    icons = {"width": 24, "icons": {"a": {"body": "<g/>", "left": -2, "height": 30}}}
    assert 'viewBox="-2 0 24 30"><g/></svg>' in iconify_svg(icons, "a")


def test_images_that_are_known_or_repeated_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / SOURCES["cib"].folder
    folder.mkdir()
    icons = {str(seed): {"body": str(seed)} for seed in (1, 2, 3)}
    (folder / "icons.json").write_text(json.dumps({"icons": icons}))

    def render(svg: str) -> bytes:
        return webp(int(svg.partition(">")[2].partition("<")[0]))

    monkeypatch.setattr(new_emblems, "render_svg", render)
    catalogue = "logo:a\tA\tlogo\tcib:1\tcib:2\nlogo:b\tB\tlogo\tcib:2\nicon:d\tD\ttool\tcib:3\n"
    things = collect(tmp_path, catalogue, earlier_table("logo:old", "Old", webp(1)))
    found = {thing.thing_id: [picture.path for picture in thing.pictures] for thing in things}
    assert found == {"logo:a": ["icons.json#2"], "icon:d": ["icons.json#3"]}
    assert [thing.domain for thing in things] == ["logo", "icon"]


def test_an_svg_that_cannot_be_drawn_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / SOURCES["flag-icon"].folder / "svg"
    folder.mkdir(parents=True)
    (folder / "bad.svg").write_text("no SVG")
    monkeypatch.setattr(new_emblems, "render_svg", lambda _: None)
    with pytest.raises(ValueError, match=r"bad\.svg"):
        new_emblems.draw(tmp_path, "flag-icon", "bad")


def test_only_white_borders_are_a_plain_ground() -> None:
    assert has_plain_ground(framed("white", "red"))
    assert not has_plain_ground(framed("red", "white"))


def test_the_catalogue_holds_only_new_entities() -> None:
    rows = pq.read_table(BENCHMARK_FILE, columns=["thing_id", "name"]).to_pylist()
    ids = {plain_id(row["thing_id"]) for row in rows}
    names = {plain_name(row["name"]) for row in rows}
    assert new_entries(CATALOGUE_ENTRIES, ids, names) == CATALOGUE_ENTRIES
    assert 330 <= len(CATALOGUE_ENTRIES) <= 420


def test_no_vendor_drew_for_the_other_splits() -> None:
    origins = {origin for each in CATALOGUE_ENTRIES for origin, _ in each.drawings}
    assert origins == set(SOURCES)
    assert not origins & set(EARLIER_SOURCES)
    packages = {source.package for source in SOURCES.values()}
    assert not packages & {source.package for source in EARLIER_SOURCES.values()}


def test_catalogue_lines_are_whole() -> None:
    for each in CATALOGUE_ENTRIES:
        assert each.entity_id.partition(":")[0] in {"emoji", "flag", "logo", "icon"}
        assert each.name.isascii()
        assert 1 <= len(each.name.split()) <= 6
        assert each.kind
        origins = [origin for origin, _ in each.drawings]
        assert 1 <= len(origins) == len(set(origins))
    single = sum(len(each.drawings) == 1 for each in CATALOGUE_ENTRIES)
    assert single < len(CATALOGUE_ENTRIES) / 3
