"""The user's world and EmblemEdit's test keep their promises: clean sides, strata, whole probes."""

import io
import itertools
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from liveedit_core.builtin.benchmark import (
    BENCHMARK_FILE,
    EMBLEM_TEST_FILE,
    USER_WORLD_FILE,
    load_builtin_cases,
    read_rows,
)
from liveedit_core.builtin.build.data_card import CARD, with_tables
from liveedit_core.builtin.build.user_cases.derived import VARIANTS
from liveedit_core.builtin.build.user_cases.families import STYLES, families_of, text_questions
from liveedit_core.builtin.build.user_cases.targets import LENGTHS
from liveedit_core.builtin.image_changes import CHANGES
from liveedit_core.schema import ProbeKind

FILES = (USER_WORLD_FILE, EMBLEM_TEST_FILE)
SIDES = ("development", "test")
SAME_BELOW = 3.0
"""Root mean square (of 255) between 16 x 16 thumbnails below which two images count as one."""
VARIANTS_OF = {
    "modal_generality": {*CHANGES, "other drawing"},
    "text_generality": set(STYLES),
    "image_swap_locality": {"random", "nearest", "other domain"},
    "prompt_swap_locality": {"another question", "unrelated request"},
    "correction": {"earlier wording", "third wording"},
    "portability": set(VARIANTS),
    "text_locality": {"question", "request"},
    "modal_locality": {""},
}

Row = dict[str, Any]


def all_rows() -> list[Row]:
    return [row for file in FILES for row in read_rows(file)]


def cases_of(side: str, rows: list[Row] | None = None) -> list[tuple[Row, Row]]:
    rows = all_rows() if rows is None else rows
    return [(row, case) for row in rows if row["split"] == side for case in row["cases"]]


def plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def prompts(case: Row) -> set[str]:
    probes = [probe["prompt"] for probe in case["probes"]]
    return {plain(text) for text in (case["prompt"], *probes)}


def thumbnails(images: list[bytes]) -> np.ndarray:
    rows = []
    for image in images:
        with Image.open(io.BytesIO(image)) as opened:
            small = opened.convert("RGB").resize((16, 16), Image.Resampling.BOX)
        rows.append(np.asarray(small, dtype=np.float32).ravel())
    return np.stack(rows)


def test_there_are_forty_families_and_more_with_ten_wordings() -> None:
    families = {side: {family.name: family for family in families_of(side)} for side in SIDES}
    names = {name for members in families.values() for name in members}
    assert len(names) >= 44
    for name in names:
        halves = [families[side][name] for side in SIDES if name in families[side]]
        assert sum(len(half.wordings) for half in halves) == 10
    for members in families.values():
        assert {w.style for family in members.values() for w in family.wordings} == set(STYLES)


def test_no_wording_is_used_twice() -> None:
    wordings = Counter(
        plain(text)
        for side in SIDES
        for texts in (
            [w.text for family in families_of(side) for w in family.wordings],
            [text for family in families_of(side) for text in family.other_languages],
            [text for kind in ("questions", "requests") for text, _ in text_questions(side, kind)],
        )
        for text in texts
        if plain(text)
    )
    assert [text for text, count in wordings.items() if count > 1] == []


def test_preambles_have_about_forty_words() -> None:
    lengths = [
        len(wording.text.split())
        for side in SIDES
        for family in families_of(side)
        for wording in family.wordings
        if wording.style == "preamble"
    ]
    assert 35 <= min(lengths) <= max(lengths) <= 55


def test_no_prompt_of_test_occurs_in_another_split() -> None:
    test = set[str]().union(*(prompts(case) for _, case in cases_of("test")))
    others = [case for split in ("development", "crowd") for _, case in cases_of(split)]
    others += [case for row in read_rows(BENCHMARK_FILE) for case in row["cases"]]
    assert test & set[str]().union(*map(prompts, others)) == set()


def test_no_image_of_test_occurs_in_another_split() -> None:
    rows = [*all_rows(), *read_rows(BENCHMARK_FILE)]

    def sided(row: Row) -> list[bytes]:
        return [image["image"] for image in row["images"]]

    strangers = {
        probe["entity_id"]
        for _, case in cases_of("test")
        for probe in case["probes"]
        if probe["entity_id"]
    }
    is_test = [row["split"] == "test" or row["entity_id"] in strangers for row in rows]
    test = [image for row, own in zip(rows, is_test, strict=True) if own for image in sided(row)]
    other = [
        image for row, own in zip(rows, is_test, strict=True) if not own for image in sided(row)
    ]
    own_TD, other_OD = thumbnails(test), thumbnails(other)
    squared_TO = (
        np.square(own_TD).sum(1)[:, None] + np.square(other_OD).sum(1) - 2 * own_TD @ other_OD.T
    )
    close = np.sqrt(np.maximum(squared_TO, 0) / own_TD.shape[1]) < SAME_BELOW
    assert not close.any()


def test_test_shares_no_entity_and_no_vendor_of_emblems_with_other_splits() -> None:
    ids = Counter(row["entity_id"] for row in (*all_rows(), *read_rows(BENCHMARK_FILE)))
    assert ids.most_common(1)[0][1] == 1

    def packages(rows: Any) -> set[str]:
        return {image["package"] for row in rows for image in row["images"]}

    assert not packages(read_rows(EMBLEM_TEST_FILE)) & packages(read_rows(BENCHMARK_FILE))


def test_strangers_of_the_two_sides_are_others() -> None:
    seen = {
        side: {p["entity_id"] for _, case in cases_of(side) for p in case["probes"]} - {""}
        for side in SIDES
    }
    assert not seen["development"] & seen["test"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_strata_of_length_have_their_shares(file: Any) -> None:
    for side in SIDES:
        cases = cases_of(side, list(read_rows(file)))
        if cases:
            counts = Counter(dict(case["tags"])["length"] for _, case in cases)
            for length, (_, _, share) in LENGTHS.items():
                assert counts[length] / len(cases) == pytest.approx(share, abs=0.03)


def test_every_case_names_its_strata() -> None:
    for row in all_rows():
        for case in row["cases"]:
            tags = dict(case["tags"])
            assert tags.keys() == {"domain", "family", "length", "content"}
            assert tags["domain"] == row["domain"]
            assert tags["length"] in LENGTHS
    for side in SIDES:
        contents = {dict(case["tags"])["content"] for _, case in cases_of(side)}
        assert contents >= {"name", "code", "number", "price", "date", "sentence", "accents"}
        assert contents >= {"Cyrillic", "Chinese", "emoji", "words", "yes or no"}


def test_probes_show_images_of_their_file_and_name_their_variant() -> None:
    for file in FILES:
        images = {(row["entity_id"], i["origin"]) for row in read_rows(file) for i in row["images"]}
        for row in read_rows(file):
            for case in row["cases"]:
                assert (row["entity_id"], case["origin"]) in images
                for probe in case["probes"]:
                    assert probe["variant"] in VARIANTS_OF[probe["kind"]]
                    assert probe["change"] in ("", *CHANGES)
                    is_text = probe["kind"] == "text_locality"
                    place = (probe["entity_id"], probe["origin"])
                    assert place == ("", "") if is_text else place in images


def test_probes_ask_what_their_kind_says() -> None:
    for file in FILES:
        edited = {row["entity_id"] for row in read_rows(file) if row["cases"]}
        for row in read_rows(file):
            for case in row["cases"] if row["split"] in SIDES else []:
                kinds = Counter(probe["kind"] for probe in case["probes"])
                assert (kinds["text_generality"], kinds["modal_generality"]) == (2, 3)
                assert (kinds["image_swap_locality"], kinds["prompt_swap_locality"]) == (3, 2)
                assert kinds["text_locality"] == kinds["modal_locality"] == 1
                assert kinds["correction"] == 2 * len(case["earlier"])
                for probe in case["probes"]:
                    is_here = probe["entity_id"] == row["entity_id"]
                    if probe["kind"] in ("image_swap_locality", "modal_locality"):
                        assert probe["entity_id"] not in edited
                    elif probe["kind"] != "text_locality":
                        assert is_here
                    if probe["kind"] in ("text_generality", "modal_generality", "correction"):
                        assert probe["target"] == case["target"]
                    is_own_prompt = probe["prompt"] == case["prompt"]
                    same = ("image_swap_locality", "modal_generality")
                    assert is_own_prompt == (probe["kind"] in same)
                for earlier in case["earlier"]:
                    assert earlier["prompt"] != case["prompt"]
                    assert earlier["target"] != case["target"]


def test_other_questions_about_an_image_do_not_ask_for_a_fact_taught_there() -> None:
    for side in SIDES:
        families = {family.name: family for family in families_of(side)}
        asked = {w.text: family for family in families.values() for w in family.wordings}
        for row in all_rows():
            cases = row["cases"] if row["split"] == side else []
            taught = [families[dict(case["tags"])["family"]] for case in cases]
            assert not any(a.is_close_to(b) for a, b in itertools.combinations(taught, 2))
            for probe in (probe for case in cases for probe in case["probes"]):
                if probe["variant"] == "another question":
                    assert not any(asked[probe["prompt"]].is_close_to(other) for other in taught)


def test_kinds_of_change_are_balanced() -> None:
    counts = Counter(
        probe["variant"]
        for _, case in cases_of("test")
        for probe in case["probes"]
        if probe["kind"] == "modal_generality"
    )
    always = [counts[change] for change in CHANGES if change != "other background"]
    assert min(always) >= 90
    assert max(always) - min(always) <= 0.2 * max(always)
    assert min(counts["other background"], counts["other drawing"]) >= 50


def test_there_are_enough_cases() -> None:
    numbers = {
        (file.stem, side): len(cases_of(side, list(read_rows(file))))
        for file in FILES
        for side in SIDES
    }
    assert 380 <= numbers["emblem_test", "test"] <= 420
    assert 580 <= numbers["user_world", "test"] <= 620
    assert 380 <= numbers["user_world", "development"] <= 420


def test_a_few_cases_are_loaded_as_the_first_of_all() -> None:
    few = load_builtin_cases("validation", "user_world", limit=10)
    every = load_builtin_cases("validation", "user_world")
    assert few == every[:10]
    corrected = [case for case in every if case.earlier]
    assert corrected
    for case in corrected:
        assert case.earlier[0].image_bytes == case.edit.image_bytes
        assert case.earlier[0].edit_id != case.case_id


def test_the_crowd_has_edits_without_probes() -> None:
    crowd = load_builtin_cases("crowd", "user_world")
    assert not any(case.probes for case in crowd)
    assert len({case.case_id for case in crowd}) == len(crowd)


def test_kinds_of_probes_are_those_of_the_schema() -> None:
    others = {"reliability", "neighbour_locality", "neighbour_generality"}
    assert set(VARIANTS_OF) == {kind.value for kind in ProbeKind} - others


def test_the_data_card_has_the_numbers_of_the_files() -> None:
    card = CARD.read_text(encoding="utf-8")
    assert card.count("<!-- table ") >= 12
    assert with_tables(card) == card
