"""The hand-written question families: fields, styles, no wording in two families."""

import csv
from collections import defaultdict
from importlib.resources import files

FIELDS = ["family", "style", "wording"]


def _rows() -> list[list[str]]:
    text = (files("liveedit_core.builtin.build") / "question_corpus.tsv").read_text("utf-8")
    return list(csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_every_line_has_three_filled_fields() -> None:
    header, *rows = _rows()
    assert header == FIELDS
    assert rows
    bad = [
        row for row in rows if len(row) != len(FIELDS) or any(f != f.strip() or not f for f in row)
    ]
    assert not bad


def test_no_wording_twice() -> None:
    places = defaultdict(list)
    for family, _, wording in _rows()[1:]:
        places[wording.casefold().rstrip("?!. ")].append(family)
    assert not {wording: found for wording, found in places.items() if len(found) > 1}


def test_every_family_has_eight_wordings_and_four_styles() -> None:
    styles = defaultdict(list)
    for family, style, _ in _rows()[1:]:
        styles[family].append(style)
    assert not {f: s for f, s in styles.items() if len(s) < 8 or len(set(s)) < 4}


def test_the_lines_of_a_family_are_together() -> None:
    families = [family for family, _, _ in _rows()[1:]]
    starts = [f for before, f in zip(["", *families[:-1]], families, strict=True) if f != before]
    assert len(starts) == len(set(starts))
