"""A comparison of editors as a table, a JSON file, a figure and metrics for MLflow."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from infra.reports.plots import Line, draw_by_num_edits
from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED
from liveedit_core.evaluation.summaries import MetricSummary, paper_average
from liveedit_core.schema import PAPER_METRICS, ProbeKind
from pipelines.baselines.compare import FREE_KINDS, Comparison, EditorScores
from pipelines.job.recipe_loader import to_dict

_SHORT = {
    ProbeKind.RELIABILITY: "rel",
    ProbeKind.TEXT_GENERALITY: "t-gen",
    ProbeKind.MODAL_GENERALITY: "m-gen",
    ProbeKind.TEXT_LOCALITY: "t-loc",
    ProbeKind.MODAL_LOCALITY: "m-loc",
}


def to_tree(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values: a row per editor and number of edits, with every metric."""
    return {
        "seed": comparison.recipe.seed,
        "digests": dict(comparison.digests),
        "settings": to_dict(comparison.recipe),
        "rows": [_row(scores) for scores in comparison.scores],
    }


def _row(scores: EditorScores) -> dict[str, Any]:
    average = paper_average(scores.summary)
    return {
        "editor": scores.name,
        "num_edits": scores.num_edits,
        "num_groups": scores.num_groups,
        "num_scored_cases": scores.num_scored_cases,
        "edit_s": round(scores.edit_s, 4),
        "score_s": round(scores.score_s, 2),
        **vars(scores.memory),
        "paper_average": {TEACHER_FORCED: None if average is None else round(average, 6)},
        "metrics": [
            {
                "metric": str(kind),
                "protocol": protocol,
                "mean": round(metric.mean, 6),
                "interval": [round(metric.interval.low, 6), round(metric.interval.high, 6)],
                "num_samples": metric.num_samples,
            }
            for (kind, protocol), metric in sorted(scores.summary.items())
        ],
    }


def write_files(comparison: Comparison) -> tuple[Path, Path]:
    """Write table and figure."""
    table = comparison.recipe.output_file
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(json.dumps(to_tree(comparison), indent=2) + "\n", encoding="utf-8")
    figure = table.with_suffix(".png")
    title = "Average of the paper's five metrics, teacher-forced"
    draw_by_num_edits(figure, lines(comparison), title=title)
    return table, figure


def lines(comparison: Comparison) -> list[Line]:
    """The average of each editor over the number of edits, where all five were measured."""
    by_editor: dict[str, dict[int, float]] = {}
    for scores in comparison.scores:
        if (average := paper_average(scores.summary)) is not None:
            by_editor.setdefault(scores.name, {})[scores.num_edits] = average
    return [
        Line(label=name, x=list(points), y=list(points.values()), is_dashed=name == "unedited")
        for name, points in by_editor.items()
    ]


def metric_values(scores: EditorScores) -> Mapping[str, float]:
    """Means, time and memory by "editor.metric.protocol" or "editor.quantity", for MLflow."""
    values = {f"{kind}.{protocol}": m.mean for (kind, protocol), m in scores.summary.items()}
    if (average := paper_average(scores.summary)) is not None:
        values[f"paper_average.{TEACHER_FORCED}"] = average
    values |= {"edit_s": scores.edit_s, "score_s": scores.score_s, **vars(scores.memory)}
    return {f"{scores.name}.{name}": value for name, value in values.items()}


def to_table(comparison: Comparison) -> Table:
    """One table; a column holds numbers of one protocol only."""
    table = Table(
        title=f"Editors after N edits, seed {comparison.recipe.seed}, mean in %",
        title_justify="left",
        caption="tf: teacher-forced, free: free generation; n: probes of reliability, tf / free. "
        "Memory beside the backbone: fixed, and stored for N edits.",
        caption_justify="left",
        pad_edge=False,
    )
    heads = ["N", "editor", "n"]
    heads += [f"{_SHORT[kind]}\ntf" for kind in PAPER_METRICS]
    heads += ["average\ntf", *(f"{_SHORT[kind]}\nfree" for kind in FREE_KINDS)]
    heads += ["s per\nedit", "fixed", "stored", "scored\nin s"]
    for head in heads:
        table.add_column(head, justify="left" if head == "editor" else "right", no_wrap=True)
    before = 0
    for scores in comparison.scores:
        if before and scores.num_edits != before:
            table.add_section()
        before = scores.num_edits
        table.add_row(*_cells(scores))
    return table


def _cells(scores: EditorScores) -> list[str]:
    summary = scores.summary
    average = paper_average(summary)
    reliability = [
        summary.get((ProbeKind.RELIABILITY, protocol))
        for protocol in (TEACHER_FORCED, FREE_GENERATION)
    ]
    return [
        str(scores.num_edits),
        scores.name,
        " / ".join(str(metric.num_samples if metric else 0) for metric in reliability),
        *(_percent(summary.get((kind, TEACHER_FORCED))) for kind in PAPER_METRICS),
        "" if average is None else f"{100 * average:.1f}",
        *(_percent(summary.get((kind, FREE_GENERATION))) for kind in FREE_KINDS),
        f"{scores.edit_s:.2f}" if scores.edit_s >= 0.005 else f"{scores.edit_s:.4f}",
        _size(scores.memory.fixed_bytes),
        _size(scores.memory.stored_bytes),
        f"{scores.score_s:.0f}",
    ]


def _percent(metric: MetricSummary | None) -> str:
    return f"{100 * metric.mean:.1f}" if metric else ""


def _size(num_bytes: int) -> str:
    if num_bytes >= 1_000_000:
        return f"{num_bytes / 1e6:.1f} MB"
    return f"{num_bytes / 1e3:.1f} kB" if num_bytes else "0"
