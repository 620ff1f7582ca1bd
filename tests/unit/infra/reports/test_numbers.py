"""The numbers beside a report are those of its tables."""

import json
from dataclasses import replace
from pathlib import Path

from infra.reports.numbers import point_tree, write_numbers
from liveedit_core.schema import ProbeKind
from tests.report_examples import HOSTILE, run_example


def test_numbers_hold_metrics_variants_strata_scope_and_averages(tmp_path: Path) -> None:
    data = run_example()
    tree = json.loads(write_numbers(tmp_path / "n.json", data.metrics, data.curve).read_text())
    last = tree["metrics"][-1]
    assert last["num_edits"] == 100
    rows = {(row["metric"], row["variant"], row["protocol"]): row for row in last["metrics"]}
    assert len(rows) == 2 * len(ProbeKind) + 1
    mirrored = rows["modal_generality", f"mirrored {HOSTILE}", "teacher_forced"]
    assert (mirrored["mean"], mirrored["low"], mirrored["n"], mirrored["entities"]) == (
        0.5,
        0.46,
        21,
        7,
    )
    assert {row["value"]: row["n"] for row in last["tags"]["length"]} == {"3-5": 27, "11-24": 6}
    assert {(row["class"], row["share"]) for row in last["scope"]} == {
        ("proper", 0.25),
        ("under-generalised", 0.25),
        ("over-generalised", 0.25),
        ("both", 0.25),
    }
    last_point = replace(data.metrics[-1], budget=0.02)
    assert point_tree(last_point)["false_activations"] == {
        "budget": 0.02,
        "measured": 0.28,
        "low": 0.1948,
        "high": 0.3787,
        "n": 300,
    }
    assert last["false_activations"]["budget"] is None
    averages = last["averages"]
    # 0.92, 0.89, 0.77, 1.0 by construction and 0.93: each fell by 0.04 since the first edit.
    assert round(averages["paper_average.teacher_forced"], 4) == 0.902
    assert round(averages["paper_average_without_text_locality.teacher_forced"], 4) == 0.8775
    assert [point["num_groups"] for point in tree["curve"]] == [1000, 100, 10, 1]


def test_numbers_say_how_they_were_measured_and_what_was_retained(tmp_path: Path) -> None:
    data = run_example()
    tree = json.loads(write_numbers(tmp_path / "n.json", data.metrics, data.curve).read_text())
    last = tree["curve"][-1]
    assert last["comparable_group"] == "E-VQA, paper prompts"
    assert last["retention"] == [
        {
            "protocol": "teacher_forced",
            "right_after": 0.99,
            "after_all": 0.95,
            "difference": -0.04,
            "low": -0.06,
            "high": -0.02,
            "n": 1000,
        }
    ]
    assert tree["curve"][0]["retention"] == []
