"""A comparison of editors as a JSON file, a page with its figures, and metrics for MLflow."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.reports.editors import write_editors_report
from infra.reports.plots import Line, draw_by_num_edits
from liveedit_core.evaluation.comparable import ComparableGroup
from liveedit_core.evaluation.probes import TEACHER_FORCED
from liveedit_core.evaluation.statistics import Interval
from liveedit_core.evaluation.summaries import (
    EARNED_METRICS,
    MetricSummary,
    average_values,
    paper_average,
)
from pipelines.baselines.compare import Comparison
from pipelines.baselines.page import page_data
from pipelines.baselines.scores import EditorScores
from pipelines.job.recipe_loader import to_dict


def to_tree(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values: a row per editor and number of edits, with every metric."""
    return {
        "seed": comparison.recipe.seed,
        "cases": comparison.recipe.title,
        "digests": dict(comparison.digests),
        "settings": to_dict(comparison.recipe),
        "rows": [
            _row(scores) | {"comparable_group": str(_group(comparison, scores))}
            for scores in comparison.scores
        ],
        "seeds": [
            {"configuration": rows[0].configuration, "num_edits": rows[0].num_edits}
            | {name: list(spread) for name, spread in spreads(rows).items()}
            for rows in seeds_of(comparison.scores)
        ],
    }


def _group(comparison: Comparison, scores: EditorScores) -> ComparableGroup:
    """How the numbers of a row were measured."""
    recipe, noun = comparison.recipe, "edit" if scores.num_edits == 1 else "edits"
    return ComparableGroup(
        benchmark=recipe.title,
        cases=comparison.digests.get("cases", ""),
        prompts=recipe.benchmark.protocol,
        backbone=comparison.digests["backbone"],
        edits=f"groups of {scores.num_edits} {noun}",
        max_new_tokens=recipe.max_new_tokens,
    )


def _row(scores: EditorScores) -> dict[str, Any]:
    return {
        "editor": scores.name,
        "trained_on": scores.trained_on,
        "train_s": scores.train_s,
        "num_trained": scores.num_trained,
        "num_trials": scores.num_trials,
        "num_edits": scores.num_edits,
        "num_groups": scores.num_groups,
        "num_scored_cases": scores.num_scored_cases,
        "edit_s": round(scores.edit_s, 4),
        "cold_edit_s": round(scores.cold_s, 4),
        "score_s": round(scores.score_s, 2),
        **vars(scores.memory),
        "paper_average": {TEACHER_FORCED: _rounded(paper_average(scores.summary))},
        "paper_average_without_text_locality": {
            TEACHER_FORCED: _rounded(paper_average(scores.summary, EARNED_METRICS))
        },
        "metrics": [
            {"metric": str(kind), "protocol": protocol} | _metric(metric)
            for (kind, protocol), metric in sorted(scores.summary.items())
        ],
        "variants": [
            {"metric": str(kind), "variant": variant, "protocol": protocol} | _metric(metric)
            for (kind, variant, protocol), metric in sorted(scores.by_variant.items())
        ],
        "measures": measures_of(scores),
    }


def measures_of(scores: EditorScores) -> list[dict[str, Any]]:
    """What is measured beside the metrics: averages, retention, scope, unrelated questions."""
    rows = [
        _measure(name, TEACHER_FORCED, item.mean, item.interval, item.num_samples)
        for name, item in scores.averages.items()
    ]
    for protocol, kept in scores.retention.items():
        change = kept.difference
        count, bounds = change.num_samples, Interval(low=change.low, high=change.high)
        rows += [
            _measure("right_after", protocol, kept.right_after, kept.right_after_interval, count),
            _measure("after_all", protocol, kept.after_all, kept.after_all_interval, count),
            _measure("backward_transfer", protocol, change.mean, bounds, count),
        ]
    rows += [
        _measure(f"scope.{scope}", protocol, item.fraction, item.interval, item.num_cases)
        for (scope, protocol), item in scores.scope.items()
    ]
    if (other := scores.unrelated) is not None:
        count, name = other.num_questions, "unrelated.changed"
        rows.append(_measure(name, TEACHER_FORCED, other.changed, other.changed_interval, count))
        if scores.has_experts:
            name = "unrelated.kept"
            rows.append(_measure(name, TEACHER_FORCED, other.kept, other.kept_interval, count))
    return rows


def _measure(
    name: str, protocol: str, value: float, interval: Interval, num_samples: int
) -> dict[str, Any]:
    bounds = [round(interval.low, 6), round(interval.high, 6)]
    row = {"measure": name, "protocol": protocol, "value": round(value, 6)}
    return row | {"interval": bounds, "num_samples": num_samples}


def _metric(metric: MetricSummary) -> dict[str, Any]:
    return {
        "mean": round(metric.mean, 6),
        "interval": [round(metric.interval.low, 6), round(metric.interval.high, 6)],
        "exact_mean": round(metric.exact_mean, 6),
        "num_samples": metric.num_samples,
        "num_cases": metric.num_cases,
        "num_entities": metric.num_entities,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def seeds_of(scores: Sequence[EditorScores]) -> list[list[EditorScores]]:
    """Rows of one configuration with several seeds, by number of edits."""
    groups: dict[tuple[int, str], list[EditorScores]] = {}
    for row in scores:
        groups.setdefault((row.num_edits, row.configuration), []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def spreads(rows: Sequence[EditorScores]) -> dict[str, tuple[float, float, float]]:
    """Mean, least and largest over seeds, by "metric.protocol" or name of an average."""
    values = [_values(row) for row in rows]
    shared = [name for name in values[0] if all(name in one for one in values)]
    return {name: _spread([one[name] for one in values]) for name in shared}


def _spread(numbers: Sequence[float]) -> tuple[float, float, float]:
    return sum(numbers) / len(numbers), min(numbers), max(numbers)


def spread_text(spread: Sequence[float]) -> str:
    """ "68.6 (66.0 to 70.1)", in %."""
    mean, least, largest = (f"{100 * value:.1f}" for value in spread)
    return f"{mean} ({least} to {largest})"


def _values(scores: EditorScores) -> dict[str, float]:
    """Means by "metric.protocol" and both averages."""
    values = {f"{kind}.{protocol}": m.mean for (kind, protocol), m in scores.summary.items()}
    return values | average_values(scores.summary)


def write_files(comparison: Comparison) -> list[Path]:
    """Write JSON, the figure for MLflow, and the page with its files."""
    table, tree = comparison.recipe.output_file, to_tree(comparison)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    figure = table.with_suffix(".png")
    title = "Average of the paper's metrics without text locality, teacher-forced"
    draw_by_num_edits(figure, lines(comparison), title=title)
    return [table, figure, *write_editors_report(table.parent, table.stem, page_data([tree]))]


def lines(comparison: Comparison) -> list[Line]:
    """The average of each editor over the number of edits, where all its metrics were measured."""
    by_editor: dict[str, dict[int, float]] = {}
    for scores in comparison.scores:
        if (average := paper_average(scores.summary, EARNED_METRICS)) is not None:
            by_editor.setdefault(scores.name, {})[scores.num_edits] = average
    return [
        Line(label=name, x=list(points), y=list(points.values()), is_dashed=name == "unedited")
        for name, points in by_editor.items()
    ]


def metric_values(scores: EditorScores) -> Mapping[str, float]:
    """Means, time and memory by "editor.metric.protocol" or "editor.quantity", for MLflow."""
    values = _values(scores)
    values |= {"edit_s": scores.edit_s, "cold_edit_s": scores.cold_s, "score_s": scores.score_s}
    values |= vars(scores.memory)
    return {f"{scores.name}.{name}": value for name, value in values.items()}
