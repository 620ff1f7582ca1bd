"""A comparison of editors as tables for the terminal: metrics; what others measure; costs."""

from collections.abc import Callable, Sequence

from rich.table import Table

from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED
from liveedit_core.evaluation.summaries import EARNED_METRICS, MetricSummary, paper_average
from liveedit_core.schema import PAPER_METRICS, ProbeKind
from pipelines.baselines.compare import Comparison
from pipelines.baselines.scores import EditorScores
from pipelines.baselines.tables import seeds_of, spread_text, spreads

_SHORT = {
    ProbeKind.RELIABILITY: "rel",
    ProbeKind.TEXT_GENERALITY: "t-gen",
    ProbeKind.MODAL_GENERALITY: "m-gen",
    ProbeKind.TEXT_LOCALITY: "t-loc",
    ProbeKind.MODAL_LOCALITY: "m-loc",
    ProbeKind.IMAGE_SWAP_LOCALITY: "i-swap",
    ProbeKind.PROMPT_SWAP_LOCALITY: "p-swap",
    ProbeKind.NEIGHBOUR_LOCALITY: "n-loc",
    ProbeKind.NEIGHBOUR_GENERALITY: "n-gen",
    ProbeKind.CORRECTION: "corrected",
    ProbeKind.PORTABILITY: "portab",
}
_PROTOCOL = {TEACHER_FORCED: "tf", FREE_GENERATION: "free"}
_FREE = (ProbeKind.RELIABILITY, ProbeKind.TEXT_GENERALITY, ProbeKind.MODAL_GENERALITY)
_OURS = (ProbeKind.IMAGE_SWAP_LOCALITY, ProbeKind.PROMPT_SWAP_LOCALITY)

Column = tuple[str, Callable[[EditorScores], str]]
"""Head and cell."""


def to_tables(comparison: Comparison) -> list[Table]:
    """A column of metrics holds numbers of one protocol only."""
    seed = f"seed {comparison.recipe.seed}, {comparison.recipe.title}"
    metrics = _table(
        comparison,
        f"Editors after N edits, {seed}: mean in % and number of probes",
        "tf: teacher-forced, free: free generation. average: of the paper's five; without t-loc: "
        "text locality is 100 for an editor that acts on questions with an image only.",
        _metric_columns(),
    )
    others = _table(
        comparison,
        "Other strangers, corrections, and what lookup cannot answer",
        "i-swap: the edit's prompt, another entity; p-swap: the edit's image, another question. "
        "The last columns are portability by variant.",
        _other_columns(comparison.scores),
    )
    costs = _table(
        comparison,
        "What an edit costs, and what was trained before",
        "s per edit: from hidden states at l_e on, which all share; cold: from the image's bytes, "
        "one at a time. Memory beside the backbone: fixed, and stored for N edits.",
        _cost_columns(),
    )
    seeds = seeds_of(comparison.scores)
    return [metrics, others, costs, *([_seed_table(seeds)] if seeds else [])]


def _seed_table(seeds: Sequence[Sequence[EditorScores]]) -> Table:
    found = [spreads(rows) for rows in seeds]
    names = list(found[0])
    table = Table(title="Mean and range over seeds, in %", title_justify="left", pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for rows in seeds:
        head = f"{rows[0].configuration}, {len(rows)} seeds\n{rows[0].num_edits} edits"
        table.add_column(head, justify="right", no_wrap=True)
    for name in names:
        table.add_row(name, *(spread_text(one[name]) if name in one else "" for one in found))
    return table


def _table(comparison: Comparison, title: str, caption: str, columns: Sequence[Column]) -> Table:
    table = Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", pad_edge=False
    )
    named: list[Column] = [("N", lambda row: str(row.num_edits)), ("editor", lambda row: row.name)]
    for head, _ in (all_columns := [*named, *columns]):
        is_text = head in ("editor", "trained before on")
        table.add_column(head, justify="left" if is_text else "right", no_wrap=True)
    before = 0
    for scores in comparison.scores:
        if before and scores.num_edits != before:
            table.add_section()
        before = scores.num_edits
        table.add_row(*(cell(scores) for _, cell in all_columns))
    return table


def _metric_columns() -> list[Column]:
    return [
        ("average\ntf", lambda row: _share(paper_average(row.summary))),
        ("without\nt-loc tf", lambda row: _share(paper_average(row.summary, EARNED_METRICS))),
        *(_metric_column(kind, TEACHER_FORCED) for kind in PAPER_METRICS),
        *(_metric_column(kind, FREE_GENERATION) for kind in _FREE),
    ]


def _other_columns(scores: Sequence[EditorScores]) -> list[Column]:
    columns = [_metric_column(kind, TEACHER_FORCED) for kind in _OURS]
    for kind in (ProbeKind.CORRECTION, ProbeKind.PORTABILITY):
        columns += [_metric_column(kind, protocol) for protocol in _PROTOCOL]
    measured = {key for row in scores for key in row.summary}
    for kind in (ProbeKind.NEIGHBOUR_GENERALITY, ProbeKind.NEIGHBOUR_LOCALITY):
        columns += [_metric_column(kind, name) for name in _PROTOCOL if (kind, name) in measured]
    keys = {key for row in scores for key in row.by_variant if key[0] is ProbeKind.PORTABILITY}
    return columns + [_variant_column(variant, protocol) for _, variant, protocol in sorted(keys)]


def _metric_column(kind: ProbeKind, protocol: str) -> Column:
    head = f"{_SHORT[kind]}\n{_PROTOCOL[protocol]}"
    return head, lambda row: _percent(row.summary.get((kind, protocol)))


def _variant_column(variant: str, protocol: str) -> Column:
    key = (ProbeKind.PORTABILITY, variant, protocol)
    return f"{variant}\n{_PROTOCOL[protocol]}", lambda row: _percent(row.by_variant.get(key))


def _cost_columns() -> list[Column]:
    return [
        ("groups", lambda row: str(row.num_groups)),
        ("s per\nedit", lambda row: _seconds(row.edit_s)),
        ("s per\ncold edit", lambda row: _seconds(row.cold_s)),
        ("fixed", lambda row: _size(row.memory.fixed_bytes)),
        ("stored", lambda row: _size(row.memory.stored_bytes)),
        ("scored\nin s", lambda row: f"{row.score_s:.0f}"),
        ("trials on\nvalidation", lambda row: str(row.num_trials)),
        ("trained\nparameters", lambda row: f"{row.num_trained:,}" if row.num_trained else ""),
        ("trained\nin s", lambda row: "" if row.train_s is None else f"{row.train_s:.0f}"),
        ("trained before on", lambda row: row.trained_on),
    ]


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _percent(metric: MetricSummary | None) -> str:
    """Mean and number of probes."""
    return f"{100 * metric.mean:.1f} /{metric.num_samples}" if metric else ""


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds >= 0.005 else f"{seconds:.4f}"


def _size(num_bytes: int) -> str:
    if num_bytes >= 1_000_000:
        return f"{num_bytes / 1e6:.1f} MB"
    return f"{num_bytes / 1e3:.1f} kB" if num_bytes else "0"
