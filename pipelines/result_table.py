"""The last thing on the terminal: metrics by number of edits, one table for each protocol."""

from collections.abc import Sequence

from rich.table import Table

from liveedit_core.metrics import TEACHER_FORCED, paper_average
from liveedit_core.schema import ProbeKind
from pipelines.bank_evaluation import BankEvaluation

_TITLES = {
    TEACHER_FORCED: "teacher-forced: share of target tokens (%)",
    "free_generation": "free generation: exact match (%)",
}


def result_tables(evaluations: Sequence[BankEvaluation], protocols: Sequence[str]) -> list[Table]:
    """One table a protocol that has results; numbers of two protocols never share a column."""
    tables = [_table(evaluations, protocol) for protocol in protocols]
    return [table for table in tables if table.row_count]


def _table(evaluations: Sequence[BankEvaluation], protocol: str) -> Table:
    table = Table(title=_TITLES.get(protocol, protocol), title_justify="left")
    table.add_column("metric")
    for evaluation in evaluations:
        noun = "edit" if evaluation.num_edits == 1 else "edits"
        table.add_column(f"{evaluation.num_edits} {noun}", justify="right")
    for kind in ProbeKind:
        cells = [_percent(item, kind, protocol) for item in evaluations]
        if any(cells):
            is_certain = kind is ProbeKind.TEXT_LOCALITY
            table.add_row(f"{kind}{' (by construction)' if is_certain else ''}", *cells)
    if protocol == TEACHER_FORCED and table.row_count:
        averages = [paper_average(dict(item.summary)) for item in evaluations]
        table.add_section()
        table.add_row("average of the paper's five", *(f"{100 * value:.1f}" for value in averages))
    return table


def _percent(evaluation: BankEvaluation, kind: ProbeKind, protocol: str) -> str:
    item = evaluation.summary.get((kind, protocol))
    return f"{100 * item.mean:.1f}" if item else ""
