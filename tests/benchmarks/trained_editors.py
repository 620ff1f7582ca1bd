#!/usr/bin/env python
"""Editors with a trained part, over several orders of the same cases: one table with intervals.

    python -m tests.benchmarks.trained_editors runs/order0 runs/order1 runs/order2 \
        --output tests/benchmarks/trained_editors.json

Each folder is a finished `pipelines/compare_editors.py` with another `seed`, which chooses and
mixes the edited cases (`liveedit_core/baselines/trained/README.md`, whose table this writes). A
value is the mean over the orders; its interval joins the 95 % intervals of the orders, over
entities, as those of independent samples; in brackets the least and largest order.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.final.tables import with_block
from tests.benchmarks.frame import parser_of, publish

README = Path(__file__).parents[2] / "liveedit_core" / "baselines" / "trained" / "README.md"
COLUMNS = {
    "average without text_locality": ("average_without_text_locality", "teacher_forced"),
    "reliability, free": ("reliability", "free_generation"),
    "text_generality, free": ("text_generality", "free_generation"),
    "modal_generality, free": ("modal_generality", "free_generation"),
    "image swap": ("image_swap_locality", "teacher_forced"),
    "prompt swap": ("prompt_swap_locality", "teacher_forced"),
}
"""Heads of the table, and the name and protocol of what is below."""


def values_of(row: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Mean and interval of each metric and measure of one editor, by name and protocol."""
    found = {(item["metric"], item["protocol"]): item for item in row["metrics"]}
    for item in row["measures"]:
        found[item["measure"], item["protocol"]] = item | {"mean": item["value"]}
    return {
        key: {"mean": item["mean"], "interval": item["interval"], "n": item["num_samples"]}
        for key, item in found.items()
    }


def joined(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One value of several orders; its interval stays in the range of theirs."""
    means = [item["mean"] for item in items]
    mean = sum(means) / len(means)
    below, above = (
        math.sqrt(sum((item["interval"][side] - item["mean"]) ** 2 for item in items)) / len(items)
        for side in (0, 1)
    )
    return {
        "mean": round(mean, 4),
        "interval": [round(mean - below, 4), round(mean + above, 4)],
        "orders": [round(value, 4) for value in means],
        "n": sum(item["n"] for item in items),
    }


def summary_of(comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All values of all editors, and how they were measured."""
    first = comparisons[0]
    for other in comparisons[1:]:
        if other["digests"] != first["digests"]:
            raise SystemExit("these comparisons are of other cases, or of other models")
    rows = []
    for row in first["rows"]:
        key = row["editor"], row["num_edits"]
        same = [
            values_of(item)
            for tree in comparisons
            for item in tree["rows"]
            if (item["editor"], item["num_edits"]) == key
        ]
        values = [
            {"name": name, "protocol": protocol, **joined([one[name, protocol] for one in same])}
            for name, protocol in same[0]
            if all((name, protocol) in one for one in same)
        ]
        names = ("editor", "num_edits", "num_groups", "num_trials", "trained_on", "train_s")
        rows.append({name: row[name] for name in names} | {"values": values})
    return {
        "cases": first["cases"],
        "seeds": [tree["seed"] for tree in comparisons],
        "digests": first["digests"],
        "settings": first["settings"],
        "rows": rows,
    }


def table_of(summary: Mapping[str, Any]) -> str:
    lines = []
    for num_edits in dict.fromkeys(row["num_edits"] for row in summary["rows"]):
        rows = [row for row in summary["rows"] if row["num_edits"] == num_edits]
        groups, noun = rows[0]["num_groups"], "edit" if num_edits == 1 else "edits"
        lines += [f"{groups} groups of {num_edits} {noun} in each order:", ""]
        lines += [f"| editor | {' | '.join(COLUMNS)} | trained in s |", "|---" * 8 + "|"]
        for row in rows:
            values = {(item["name"], item["protocol"]): item for item in row["values"]}
            cells = [_text(values.get(key)) for key in COLUMNS.values()]
            trained = f"{row['train_s']:,.0f}" if row["train_s"] else ""
            lines.append(f"| {row['editor']} | {' | '.join(cells)} | {trained} |")
        lines.append("")
    seeds = ", ".join(map(str, summary["seeds"]))
    digests = [f"{name} `{value[:12]}`" for name, value in summary["digests"].items()]
    lines.append(f"{summary['cases']}; seeds {seeds}; {', '.join(digests)}.")
    return "\n".join(lines)


def _text(item: Mapping[str, Any] | None) -> str:
    if item is None:
        return ""
    mean, low, high, least, most = (
        100 * value
        for value in (item["mean"], *item["interval"], min(item["orders"]), max(item["orders"]))
    )
    return f"{mean:.1f} [{low:.0f}-{high:.0f}] ({least:.0f}-{most:.0f})"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders with a comparison.json")
    options = parser.parse_args()
    texts = [(run / "comparison.json").read_text(encoding="utf-8") for run in options.runs]
    summary = summary_of([json.loads(text) for text in texts])
    publish(summary, options.output)
    page = README.read_text(encoding="utf-8")
    README.write_text(with_block(page, "trained-editors", table_of(summary)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
