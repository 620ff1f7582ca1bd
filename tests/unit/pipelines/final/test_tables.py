"""The tables of README and data card come from the stored numbers."""

import json
from typing import Any

import pytest

from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED
from pipelines.final.recipe import RESULTS
from pipelines.final.tables import (
    BLOCKS,
    NUMBERS,
    ROOT,
    average,
    curve_table,
    false_activation_table,
    family_table,
    read_numbers,
    seed_table,
    with_block,
)
from tests.benchmarks import filter_by_domain


def row(metric: str, mean: float, *, variant: str = "", **changes: Any) -> dict[str, Any]:
    own = {"metric": metric, "variant": variant, "protocol": TEACHER_FORCED, "mean": mean}
    exact = {"exact": 0.9, "exact_low": 0.76, "exact_high": 0.97}
    return {**own, **exact, "low": 0.5, "high": 0.75, "n": 40, "kept": 0.25, **changes}


POINT: dict[str, Any] = {
    "num_edits": 1000,
    "metrics": [
        row("reliability", 0.9),
        row("text_generality", 0.8),
        row("modal_generality", 0.7),
        row("text_locality", 1.0),
        row("modal_locality", 0.6),
        row("image_swap_locality", 0.5, variant="nearest"),
    ],
}
CURVE = [POINT]


def test_a_cell_has_mean_interval_and_number() -> None:
    table = curve_table(CURVE, TEACHER_FORCED)
    assert "| reliability | 90.0 [50-75] n=40 |" in table
    assert "| N = 1,000 |" in table.splitlines()[0]


def test_protocols_do_not_mix() -> None:
    assert "reliability" not in curve_table(CURVE, FREE_GENERATION)


def test_averages_need_all_their_metrics() -> None:
    table = curve_table(CURVE, TEACHER_FORCED)
    assert "| average of the paper's five | 80.0 |" in table
    assert "| the same without text_locality | 75.0 |" in table
    assert average(POINT["metrics"][:2], ["reliability", "portability"], TEACHER_FORCED) == ""


def test_false_activations_are_kept_and_changed_shares() -> None:
    assert "| nearest | 25.0 / 10.0 [3-24] n=40 |" in false_activation_table(CURVE)


def test_each_family_shows_what_its_edits_leave_alone() -> None:
    rows = [
        {**row("prompt_swap_locality", mean, protocol=protocol), "value": family}
        for family, mean, protocol in (
            ("price", 0.9, FREE_GENERATION),
            ("price", 0.8, TEACHER_FORCED),
            ("age", 0.7, FREE_GENERATION),
        )
    ]
    other = {**row("reliability", 0.1, protocol=FREE_GENERATION), "value": "age"}
    assert family_table([*rows, other]).splitlines()[2:] == [
        "| age | 70.0 [50-75] n=40 |  |",
        "| price | 90.0 [50-75] n=40 | 80.0 [50-75] n=40 |",
    ]


def test_seeds_are_shown_as_mean_and_range() -> None:
    first = {
        "configuration": "paper",
        "num_edits": 1,
        "reliability.teacher_forced": [0.5, 0.4, 0.6],
    }
    second = {"configuration": "paper", "num_edits": 10, "correction.teacher_forced": [0.2, 0, 1]}
    assert seed_table({"seeds": [first, second]}).splitlines() == [
        "| metric | paper, N = 1 | paper, N = 10 |",
        "|---|---|---|",
        "| reliability.teacher_forced | 50.0 (40.0 to 60.0) |  |",
        "| correction.teacher_forced |  | 20.0 (0.0 to 100.0) |",
    ]


def test_a_block_is_replaced_between_its_markers() -> None:
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert with_block(text, "x", "new\n") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"
    with pytest.raises(ConfigError, match="no place"):
        with_block(text, "y", "new")


def test_the_pages_show_the_committed_numbers() -> None:
    numbers = read_numbers()
    assert numbers["about"]["split"] == "test", NUMBERS
    for path, blocks in BLOCKS.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        for name, block in blocks.items():
            assert with_block(text, name, block(numbers)) == text, (
                f"{path}: final_numbers.py --write-tables"
            )


def test_the_data_card_shows_the_committed_filter_by_domain() -> None:
    result = json.loads((RESULTS / "filter_by_domain.json").read_text())
    card = (ROOT / "liveedit_core" / "builtin" / "README.md").read_text()
    assert filter_by_domain.table(result) in card
