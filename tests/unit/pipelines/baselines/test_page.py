"""The page of a comparison comes from its JSON alone, of one run or of several."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.reports.measures import TRANSFER
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import TEACHER_FORCED
from pipelines.baselines.compare import Comparison
from pipelines.baselines.page import page_data, read_tree, write_page_of
from pipelines.baselines.tables import measures_of, to_tree
from pipelines.compare_editors import main
from pipelines.final.tables import NUMBERS
from tests.html_page import words
from tests.unit.pipelines.baselines.tiny_comparison import NAMES, of


@pytest.fixture(scope="module")
def tree(comparison: Comparison) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(json.dumps(to_tree(comparison)))
    return stored


def test_a_page_has_what_the_comparison_measured(
    comparison: Comparison, tree: dict[str, Any]
) -> None:
    data = page_data([tree])
    assert (data.editors, data.sizes, list(data.warnings)) == (NAMES, [1, 3], [])
    found = {
        (m.editor, m.num_edits, m.name): m for m in data.measures if m.protocol == TEACHER_FORCED
    }
    scores = of(comparison, "FT-L", 3)
    kept, other = scores.retention[TEACHER_FORCED], scores.unrelated
    assert other is not None
    assert found["FT-L", 3, "right_after"].value == pytest.approx(kept.right_after, abs=1e-6)
    assert found["FT-L", 3, TRANSFER].value == pytest.approx(kept.difference.mean, abs=1e-6)
    assert ("FT-L", 1, TRANSFER) not in found
    assert found["FT-L", 3, "unrelated.changed"].num_samples == other.num_questions
    assert ("FT-L", 3, "unrelated.kept") not in found  # it has no experts
    assert found["LiveEdit", 3, "unrelated.kept"].interval is not None
    for name in NAMES:
        shares = [m.value for key, m in found.items() if key[:2] == (name, 3) and "scope" in key[2]]
        assert len(shares) == 4
        assert sum(shares) == pytest.approx(1.0, abs=1e-5)
        average, bounds = found[name, 3, "average"], found[name, 3, "average"].interval
        assert bounds is not None
        assert bounds.low <= average.value <= bounds.high


def test_measures_of_an_editor_without_further_questions(comparison: Comparison) -> None:
    alone = replace(of(comparison, "FT-L", 3), unrelated=None, retention={}, scope={})
    assert {row["measure"] for row in measures_of(alone)} == set(alone.averages)


def split(tree: dict[str, Any], first: int) -> list[dict[str, Any]]:
    rows = tree["rows"]
    names = NAMES[:first]
    return [
        {**tree, "rows": [row for row in rows if (row["editor"] in names) == is_first]}
        for is_first in (True, False)
    ]


def test_comparisons_of_other_editors_make_one_page(
    tree: dict[str, Any], tmp_path: Path, run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, part in zip(paths, split(tree, 4), strict=True):
        path.write_text(json.dumps(part))
    arguments = ["--page", *map(str, paths), "--run-name", "both", f"run_root={run_root}"]
    assert main(arguments) == 0
    folder = run_root / "both"
    assert str(folder / "comparison.html") in capsys.readouterr().out
    with (folder / "comparison.csv").open() as file:
        assert {row["editor"] for row in csv.DictReader(file)} == set(NAMES)
    text = words((folder / "comparison.html").read_text())
    assert all(name in text for name in NAMES)


def test_what_cannot_stand_side_by_side_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="LiveEdit at 1 edits is in more than one"):
        page_data([tree, tree])
    first, second = split(tree, 4)
    other = [{**row, "comparable_group": "other cases"} for row in second["rows"]]
    with pytest.raises(ConfigError, match="measured differently"):
        page_data([first, {**second, "rows": other}])


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"editors": 3}', '{"rows": []}'])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"expected a comparison\.json"):
        read_tree(file)
    with pytest.raises(ConfigError, match=r"missing\.json"):
        read_tree(tmp_path / "missing.json")


def test_the_committed_numbers_have_a_page(tmp_path: Path) -> None:
    """Stored before averages had intervals: drawn without, and the page says so."""
    page = write_page_of([NUMBERS], tmp_path)[0]
    text = words(page.read_text())
    data = page_data([read_tree(NUMBERS)])
    stored = json.loads(NUMBERS.read_text())["editors"]["rows"]
    average = [m for m in data.measures if m.name == "average"]
    assert [m.value for m in average] == [row["paper_average"][TEACHER_FORCED] for row in stored]
    if not any(row.get("measures") for row in stored):
        assert "were stored before" in text
        assert not any(m.interval for m in average)
