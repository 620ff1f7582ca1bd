"""Evaluations as plain values, for JSON files beside the pages."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.reports.data import CurvePoint
from liveedit_core.evaluation.false_activations import false_activations
from liveedit_core.evaluation.summaries import (
    LabelSummary,
    MetricSummary,
    Summary,
    average_values,
)


def write_numbers(path: Path, metrics: Sequence[CurvePoint], curve: Sequence[CurvePoint]) -> Path:
    """Write what the tables of a report show."""
    tree = {"metrics": [*map(point_tree, metrics)], "curve": [*map(point_tree, curve)]}
    path.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def point_tree(point: CurvePoint) -> dict[str, Any]:
    """Everything that was measured after one number of edits."""
    return {
        "num_edits": point.num_edits,
        "num_groups": point.num_groups,
        "comparable_group": point.comparable_group,
        "averages": average_values(point.summary),
        "false_activations": _activations(point),
        "metrics": metric_rows(point.summary, point.by_variant),
        "tags": {tag: _label_rows(by_value, "value") for tag, by_value in point.by_tag.items()},
        "scope": [
            {
                "class": str(scope),
                "protocol": protocol,
                "share": round(item.fraction, 4),
                "low": round(item.interval.low, 4),
                "high": round(item.interval.high, 4),
                "n": item.num_cases,
            }
            for (scope, protocol), item in point.scope.items()
        ],
        "retention": [
            {
                "protocol": protocol,
                "right_after": round(item.right_after, 4),
                "after_all": round(item.after_all, 4),
                "difference": round(item.difference.mean, 4),
                "low": round(item.difference.low, 4),
                "high": round(item.difference.high, 4),
                "n": item.difference.num_samples,
            }
            for protocol, item in point.retention.items()
        ],
    }


def _activations(point: CurvePoint) -> dict[str, float | None] | None:
    """Measured share and budget; None if no probe tells."""
    found = false_activations(point.summary, point.budget)
    if found is None:
        return None
    return {
        "budget": found.budget,
        "measured": round(found.share, 4),
        "low": round(found.interval.low, 4),
        "high": round(found.interval.high, 4),
        "n": found.num_probes,
    }


def metric_rows(summary: Summary, by_variant: LabelSummary) -> list[dict[str, Any]]:
    """A row for each metric and protocol, and for each of their variants."""
    rows = [
        {"metric": str(kind), "variant": "", "protocol": protocol, **_values(item)}
        for (kind, protocol), item in summary.items()
    ]
    rows += _label_rows(by_variant, "variant")
    return sorted(rows, key=lambda row: (row["metric"], row["variant"], row["protocol"]))


def _label_rows(by_label: LabelSummary, name: str) -> list[dict[str, Any]]:
    return [
        {"metric": str(kind), name: label, "protocol": protocol, **_values(item)}
        for (kind, label, protocol), item in by_label.items()
    ]


def _values(item: MetricSummary) -> Mapping[str, float]:
    return {
        "mean": round(item.mean, 4),
        "low": round(item.interval.low, 4),
        "high": round(item.interval.high, 4),
        "exact": round(item.exact_mean, 4),
        "exact_low": round(item.exact_interval.low, 4),
        "exact_high": round(item.exact_interval.high, 4),
        "n": item.num_samples,
        "entities": item.num_entities,
        "kept": round(1 - item.empty_fraction, 4),
        "own_kept": round(item.own_kept_fraction, 4),
    }
