"""Terminal tables of a run: metrics by number of edits and protocol, and experts kept."""

from collections.abc import Sequence

from rich.table import Table

from infra.reports.formats import interval, number, percent
from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED
from liveedit_core.evaluation.statistics import Interval
from liveedit_core.evaluation.summaries import (
    BY_CONSTRUCTION,
    EARNED_METRICS,
    MetricSummary,
    paper_average,
)
from liveedit_core.schema import PAPER_METRICS, ProbeKind
from pipelines.evaluation.bank_evaluation import BankEvaluation

_TABLES = (
    (TEACHER_FORCED, "teacher-forced: share of target tokens, % [95 % interval] n probes", False),
    (TEACHER_FORCED, "teacher-forced: all target tokens, % [95 % interval] n probes", True),
    (FREE_GENERATION, "free generation: exact match, % [95 % interval] n probes", False),
)
"""Protocol, title, and whether only entirely right answers count."""


def result_tables(
    evaluations: Sequence[BankEvaluation], protocols: Sequence[str], *, note: str = ""
) -> list[Table]:
    """Metrics by number of edits, and routing at the last of them; `note` ends each title."""
    tables = [
        _table(evaluations, protocol, title + note, is_exact=is_exact)
        for protocol, title, is_exact in _TABLES
        if protocol in protocols
    ]
    if evaluations:
        tables.append(_routing_table(evaluations[-1], protocols[0]))
    return [table for table in tables if table.row_count]


def _table(
    evaluations: Sequence[BankEvaluation], protocol: str, title: str, *, is_exact: bool
) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for evaluation in evaluations:
        noun = "edit" if evaluation.num_edits == 1 else "edits"
        table.add_column(f"{evaluation.num_edits} {noun}", justify="right")
    for kind in ProbeKind:
        cells = [_cell(item.summary.get((kind, protocol)), is_exact) for item in evaluations]
        if any(cells):
            table.add_row(_name(kind), *cells)
        for variant in sorted(
            {name for item in evaluations for k, name, _ in item.by_variant if k == kind}
        ):
            keys = kind, variant, protocol
            cells = [_cell(item.by_variant.get(keys), is_exact) for item in evaluations]
            if any(cells):
                table.add_row(f"  {variant}", *cells)
    if not is_exact and protocol == TEACHER_FORCED and table.row_count:
        table.add_section()
        for name, kinds in (
            ("average of the paper's five", PAPER_METRICS),
            ("average without text_locality", EARNED_METRICS),
        ):
            averages = [paper_average(item.summary, kinds) for item in evaluations]
            if any(average is not None for average in averages):
                cells = ["" if one is None else percent(one, unit="") for one in averages]
                table.add_row(name, *cells)
    return table


def _name(kind: ProbeKind) -> str:
    return f"{kind} (by construction)" if kind in BY_CONSTRUCTION else str(kind)


def _cell(item: MetricSummary | None, is_exact: bool) -> str:
    if item is None:
        return ""
    mean, bounds = item.mean, item.interval
    if is_exact:
        mean, bounds = item.exact_mean, item.exact_interval
    return share(mean, bounds, item.num_samples)


def share(mean: float, bounds: Interval, num_samples: int) -> str:
    """ "68.6 [60-77] n=100"; a narrow terminal breaks it before n."""
    spread = interval(bounds, num_digits=0, separator="-")
    return f"{percent(mean, unit='')} \\[{spread}] n={num_samples}"


def _routing_table(evaluation: BankEvaluation, protocol: str) -> Table:
    """How many experts were kept, and the rank of the right one among them."""
    table = Table(
        title=f"experts kept after {evaluation.num_edits} edits, and the right one among them",
        title_justify="left",
    )
    table.add_column("metric")
    columns = ("probes", "kept", "95 % keep", "none %", "right kept %", "first %", "rank", "weight")
    for column in columns:
        table.add_column(column, justify="right")
    for kind in ProbeKind:
        item = evaluation.summary.get((kind, protocol))
        if item is not None:
            rank, weight = item.own_rank_mean, item.own_weight_mean
            table.add_row(
                _name(kind),
                str(item.num_samples),
                number(item.kept_mean),
                f"<= {item.kept_p95:.0f}",
                percent(item.empty_fraction, unit=""),
                percent(item.own_kept_fraction, unit=""),
                percent(item.own_first_fraction, unit=""),
                "" if rank is None else number(rank),
                "" if weight is None else number(weight),
            )
    return table
