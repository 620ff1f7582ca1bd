"""The comparison teaches every edit to every editor and scores them on the same probes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from liveedit_core.errors import ConfigError
from liveedit_core.metrics import FREE_GENERATION, TEACHER_FORCED
from liveedit_core.schema import ProbeKind
from pipelines.compare_editors import parse_arguments, resolve_recipe
from pipelines.editor_comparison import (
    CHUNK_CASES,
    CompareRecipe,
    Comparison,
    choose_cases,
    compare,
    to_json,
    to_tables,
    write_json,
)
from tests.tiny_backbone import OUR_CONFIG, case, tiny_backbone, tiny_generator

RECIPE = CompareRecipe(edits=3, free_cases=1, max_new_tokens=4, batch_size=8)
CASES = [case(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    generator = tiny_generator(replace(OUR_CONFIG, gain=60.0, min_gate=0.0))
    return compare(RECIPE, tiny_backbone(), generator, CASES, lambda text: None)


def test_every_editor_is_scored_on_every_metric(comparison: Comparison) -> None:
    assert [scores.name for scores in comparison.scores] == ["LiveEdit", "FT-L", "unedited"]
    for scores in comparison.scores:
        for kind in ProbeKind:
            assert scores.summary[kind, TEACHER_FORCED].num_samples == 3
            assert scores.summary[kind, FREE_GENERATION].num_samples == 1


def test_the_table_tells_the_editors_apart(comparison: Comparison) -> None:
    live_edit, fine_tuning, unedited = (scores.summary for scores in comparison.scores)
    for kind in ProbeKind:
        if kind.is_locality:
            assert unedited[kind, TEACHER_FORCED].mean == 1.0
    text = ProbeKind.TEXT_LOCALITY, TEACHER_FORCED
    assert live_edit[text].mean == 1.0
    own = ProbeKind.RELIABILITY, TEACHER_FORCED
    assert live_edit[own].own_kept_fraction > 0
    assert unedited[own].own_kept_fraction == fine_tuning[own].own_kept_fraction == 0
    assert any(live_edit[key].mean != unedited[key].mean for key in unedited)


def test_the_same_seed_gives_the_same_table(comparison: Comparison) -> None:
    generator = tiny_generator(replace(OUR_CONFIG, gain=60.0, min_gate=0.0))
    again = compare(RECIPE, tiny_backbone(), generator, CASES, lambda text: None)
    assert json.loads(to_json(again))["rows"] == json.loads(to_json(comparison))["rows"]


def test_json_carries_protocol_samples_and_seed(comparison: Comparison, tmp_path: Path) -> None:
    write_json(comparison, tmp_path / "new" / "table.json")
    tree = json.loads((tmp_path / "new" / "table.json").read_text())
    assert (tree["num_edits"], tree["num_scored_cases"], tree["seed"]) == (3, 3, 0)
    keys = {(row["editor"], row["metric"], row["protocol"]) for row in tree["rows"]}
    assert len(keys) == len(tree["rows"]) == 3 * (8 + 8)
    assert ("FT-L", "reliability", "free_generation") in keys
    assert all(row["num_samples"] >= 1 for row in tree["rows"])
    assert set(tree["paper_average"]) == {"LiveEdit", "FT-L", "unedited"}


def test_protocols_never_share_a_table(comparison: Comparison) -> None:
    console = Console(record=True, width=120)
    tables = to_tables(comparison)
    for table in tables:
        console.print(table)
    text = console.export_text()
    assert [str(table.title).partition(":")[0] for table in tables] == [
        TEACHER_FORCED,
        FREE_GENERATION,
    ]
    assert text.count("text_locality") == 2
    assert "average of the paper's five" in text


def test_cases_are_drawn_by_seed() -> None:
    first = choose_cases(RECIPE, CASES)
    assert choose_cases(RECIPE, CASES) == first
    assert len({item.case_id for item in first}) == 3
    orders = {
        tuple(c.case_id for c in choose_cases(replace(RECIPE, seed=seed), CASES))
        for seed in range(6)
    }
    assert len(orders) > 1
    with pytest.raises(ConfigError, match="at most 5"):
        choose_cases(replace(RECIPE, edits=6), CASES)


def test_scored_cases_are_spread_over_the_sequence() -> None:
    recipe = replace(RECIPE, edits=5, scored_cases=2, free_cases=0, editors=("unedited",))
    generator = tiny_generator(OUR_CONFIG)
    done = compare(recipe, tiny_backbone(), generator, CASES, lambda text: None)
    assert (done.num_edits, done.num_scored_cases) == (5, 2)
    assert CHUNK_CASES >= 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("edits=0", "edits"),
        ("editors=['mend']", "editors"),
        ("fine_tuning.steps=3", "fine_tuning.max_steps"),
        ("batch_size=0", "batch_size"),
    ],
)
def test_wrong_settings_are_refused_by_name(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_recipe(parse_arguments([argument]))


def test_options_are_settings() -> None:
    options = parse_arguments(["--edits", "7", "--output", "a.json", "fine_tuning.max_steps=3"])
    recipe = resolve_recipe(options)
    assert (recipe.edits, recipe.output, recipe.fine_tuning.max_steps) == (7, "a.json", 3)
