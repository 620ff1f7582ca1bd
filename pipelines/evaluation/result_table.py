"""Terminal tables of a run: metrics by number of edits and protocol; then, at the last number of
edits, experts kept, scope of the edits, and metrics by what the cases are about."""

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from infra.reports.formats import interval, number, percent, spell
from infra.reports.metrics import tag_values
from infra.reports.outcomes import OutcomeRow
from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED
from liveedit_core.evaluation.scope import Scope
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
_AVERAGES = (
    ("average of the\npaper's five", PAPER_METRICS),
    ("average without\ntext_locality", EARNED_METRICS),
)
_TAGS = ("domain", "length")
"""Tags of cases that the terminal shows; the report has more."""


def result_tables(
    evaluations: Sequence[BankEvaluation], protocols: Sequence[str], *, note: str = ""
) -> list[Table]:
    """Metrics by number of edits; `note` ends each title."""
    tables = [
        _table(evaluations, protocol, title + note, is_exact=is_exact)
        for protocol, title, is_exact in _TABLES
        if protocol in protocols
    ]
    return [table for table in tables if table.row_count]


def detail_tables(evaluation: BankEvaluation, protocols: Sequence[str]) -> list[Table]:
    """Routing, scope and strata of one evaluation."""
    tables = [_routing_table(evaluation, protocols[0]), _scope_table(evaluation, protocols)]
    tables += [_tag_table(evaluation, tag, protocols) for tag in _TAGS if tag in evaluation.by_tag]
    return [table for table in tables if table.row_count]


def outcome_tables(rows: Sequence[OutcomeRow]) -> list[Table]:
    """How edits were written; none if no edit was verified."""
    table = Table(title="how edits were written", title_justify="left")
    heads = ("tokens of the target", "edits", "right as written", "refined", "weak", "steps, mean")
    for head in heads:
        table.add_column(head, justify="left" if head == heads[0] else "right")
    for row in rows:
        counts = (row.num_edits, row.num_verified, row.num_refined, row.num_weak)
        table.add_row(row.label, *(f"{count:,}" for count in counts), f"{row.mean_steps:.1f}")
    return [table] if rows else []


def _table(
    evaluations: Sequence[BankEvaluation], protocol: str, title: str, *, is_exact: bool
) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("metric", no_wrap=True)
    for evaluation in evaluations:
        table.add_column(_head(evaluation), justify="right")
    for kind in ProbeKind:
        items = [item.summary.get((kind, protocol)) for item in evaluations]
        if any(items):
            table.add_row(_name(kind), *(_cell(item, is_exact) for item in items))
        if kind is ProbeKind.PORTABILITY and any(items):
            # Without an expert the answer is the unedited one by the structure of the method.
            table.add_row("  any expert kept\n  (else unedited)", *map(_any_kept, items))
        for variant in sorted(
            {name for item in evaluations for k, name, _ in item.by_variant if k == kind}
        ):
            keys = kind, variant, protocol
            cells = [_cell(item.by_variant.get(keys), is_exact) for item in evaluations]
            if any(cells):
                table.add_row(f"  {escape(variant)}", *cells)
    if not is_exact and protocol == TEACHER_FORCED and table.row_count:
        table.add_section()
        for name, kinds in _AVERAGES:
            averages = [paper_average(item.summary, kinds) for item in evaluations]
            if any(average is not None for average in averages):
                cells = ["" if one is None else percent(one, unit="") for one in averages]
                table.add_row(name, *cells)
    return table


def _head(evaluation: BankEvaluation) -> str:
    noun = "edit" if evaluation.num_edits == 1 else "edits"
    groups = f"\n{evaluation.num_groups} groups" if evaluation.num_groups > 1 else ""
    return f"{evaluation.num_edits} {noun}{groups}"


def retention_tables(curve: Sequence[BankEvaluation]) -> list[Table]:
    """Each edit of a lifelong curve asked right after it, and after all edits of its group."""
    tables = []
    for protocol in dict.fromkeys(name for point in curve for name in point.retention):
        title = f"retention, {protocol}: reliability, % [95 % interval of the difference]"
        table = Table(title=title, title_justify="left")
        for column in ("edits", "right after", "after all", "difference", "edits asked"):
            table.add_column(column, justify="right")
        for point in curve:
            if item := point.retention.get(protocol):
                found = item.difference
                bounds = interval(Interval(found.low, found.high), separator=" to ")
                table.add_row(
                    str(point.num_edits),
                    percent(item.right_after, unit=""),
                    percent(item.after_all, unit=""),
                    f"{percent(found.mean, unit='')} \\[{bounds}]",
                    str(found.num_samples),
                )
        tables.append(table)
    return tables


def _name(kind: ProbeKind) -> str:
    return f"{kind}\n(by construction)" if kind in BY_CONSTRUCTION else str(kind)


def _cell(item: MetricSummary | None, is_exact: bool) -> str:
    if item is None:
        return ""
    mean, bounds = item.mean, item.interval
    if is_exact:
        mean, bounds = item.exact_mean, item.exact_interval
    return _share(mean, bounds, item.num_samples)


def _share(mean: float, bounds: Interval, num_samples: int) -> str:
    """ "68.6 [60-77] n=100"; a narrow terminal breaks it before n."""
    spread = interval(bounds, num_digits=0, separator="-")
    return f"{percent(mean, unit='')} \\[{spread}] n={num_samples}"


def _any_kept(item: MetricSummary | None) -> str:
    if item is None:
        return ""
    return f"{percent(1 - item.empty_fraction, unit='')} n={item.num_samples}"


def _routing_table(evaluation: BankEvaluation, protocol: str) -> Table:
    """How many experts were kept, and the rank of the own one among them."""
    table = Table(
        title=f"experts kept after {evaluation.num_edits} edits, and the own one among them",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("metric", no_wrap=True)
    columns = ("n", "kept", "95 % keep", "none %", "own kept %", "first %", "rank", "weight")
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


def _scope_table(evaluation: BankEvaluation, protocols: Sequence[str]) -> Table:
    """How many edits change what they should, and only that."""
    title = f"scope after {evaluation.num_edits} edits, % of cases [95 % interval] n cases"
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    for protocol in protocols:
        table.add_column(spell(protocol), justify="right")
    for scope in Scope if evaluation.scope else ():
        shares = [evaluation.scope.get((scope, protocol)) for protocol in protocols]
        cells = [_share(s.fraction, s.interval, s.num_cases) if s else "" for s in shares]
        table.add_row(str(scope), *cells)
    return table


def _tag_table(evaluation: BankEvaluation, tag: str, protocols: Sequence[str]) -> Table:
    """Each metric by the values of a tag; without those that are 1 by construction."""
    title = f"by {tag} after {evaluation.num_edits} edits, % [95 % interval] n probes"
    table = Table(title=title, title_justify="left")
    table.add_column(f"metric, {tag}")
    for protocol in protocols:
        table.add_column(spell(protocol), justify="right")
    by_value = evaluation.by_tag[tag]
    values = tag_values(by_value)
    for kind in ProbeKind:
        rows = {
            value: [_cell(by_value.get((kind, value, name)), False) for name in protocols]
            for value in values
        }
        if kind not in BY_CONSTRUCTION and any(map(any, rows.values())):
            table.add_row(str(kind))
            for value, cells in rows.items():
                if any(cells):
                    table.add_row(f"  {escape(value)}", *cells)
    return table
