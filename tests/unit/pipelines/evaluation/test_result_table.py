"""The tables on the terminal: protocols apart, certainty marked."""

import io
from dataclasses import replace

from rich.console import Console

from liveedit_core.evaluation.retention import retention
from liveedit_core.evaluation.scope import Scope, ScopeShare
from liveedit_core.evaluation.statistics import exact_interval
from liveedit_core.schema import ProbeKind
from pipelines.evaluation.bank_evaluation import BankEvaluation
from pipelines.evaluation.result_table import detail_tables, result_tables, retention_tables
from tests.unit.tiny_results import metric_summary, probe_result

PORTABILITY = ProbeKind.PORTABILITY
PROTOCOLS = ("teacher_forced", "free_generation")


def evaluation(num_edits: int, reliability: float) -> BankEvaluation:
    return BankEvaluation(
        bank="main",
        bank_version=num_edits + 1,
        num_edits=num_edits,
        run="test",
        num_cases=num_edits,
        results=(),
        num_groups=num_edits,
        by_variant={(PORTABILITY, "2 hops", "teacher_forced"): metric_summary(0.3)},
        by_tag={
            "length": {
                (ProbeKind.RELIABILITY, value, "teacher_forced"): metric_summary(mean)
                for value, mean in (("11-24", 0.2), ("3-5", 0.8))
            },
            "family": {(ProbeKind.RELIABILITY, "price", "teacher_forced"): metric_summary(0.7)},
        },
        scope={
            (scope, "teacher_forced"): ScopeShare(
                num_in_class=1, num_cases=4, fraction=0.25, interval=exact_interval(1, 4)
            )
            for scope in Scope
        },
        summary={
            (PORTABILITY, "teacher_forced"): replace(metric_summary(0.4), empty_fraction=0.85),
            (ProbeKind.RELIABILITY, "teacher_forced"): metric_summary(reliability),
            (ProbeKind.TEXT_LOCALITY, "teacher_forced"): metric_summary(1.0),
            (ProbeKind.PROMPT_SWAP_LOCALITY, "teacher_forced"): metric_summary(0.95),
            (ProbeKind.RELIABILITY, "free_generation"): metric_summary(0.25),
        },
        is_complete=True,
        num_new_results=4,
        seconds=1.0,
    )


def printed() -> list[str]:
    """Each table as text."""
    evaluations = [evaluation(1, 1.0), evaluation(10, 0.9)]
    tables = result_tables(evaluations, PROTOCOLS) + detail_tables(evaluations[-1], PROTOCOLS)
    texts = []
    for table in tables:
        console = Console(file=io.StringIO(), width=100)
        console.print(table)
        texts.append(console.file.getvalue())  # type: ignore[attr-defined]
    return texts


def test_protocols_and_ways_of_counting_have_tables_of_their_own() -> None:
    forced, exact, free, *_ = printed()
    assert "1 edit " in forced
    assert "10 edits" in forced
    assert "90.0 [85-95] n=4" in forced
    assert "by construction" in forced
    assert "average" not in forced  # two of the five were measured
    assert "all target tokens" in exact
    assert "average" not in exact
    assert "25.0 [20-30] n=4" in free
    assert "25.0" not in forced


def test_retention_has_a_row_for_each_number_of_edits_beyond_one() -> None:
    before = [probe_result(f"case-{i}", score=1.0) for i in range(4)]
    after = [probe_result(f"case-{i}", score=float(i > 0)) for i in range(4)]
    kept = retention(before, after, {}, seed=0)
    curve = [evaluation(1, 1.0), replace(evaluation(10, 0.9), retention=kept)]
    (table,) = retention_tables(curve)
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "100.0" in text
    assert "75.0" in text
    assert "-25.0 [" in text
    assert table.row_count == 1
    assert retention_tables([evaluation(1, 1.0)]) == []


def test_routing_is_shown_at_the_last_point() -> None:
    routing = printed()[3]
    assert "after 10 edits" in routing
    assert "<= 3" in routing
    assert "0.25" in routing


def test_nothing_evaluated_no_table() -> None:
    assert result_tables([], PROTOCOLS) == []


def test_portability_says_how_often_any_expert_was_kept() -> None:
    forced = printed()[0]
    lines = [line for line in forced.splitlines() if "any expert kept" in line]
    assert len(lines) == 1
    assert lines[0].count("15.0 n=4") == 2
    assert "2 hops" in forced


def test_scope_and_strata_have_intervals_and_samples() -> None:
    *_, scope, length = printed()
    assert "under-generalised" in scope
    assert scope.count("25.0 [1-81] n=4") == 4
    assert length.index("3-5") < length.index("80.0 [75-85] n=4") < length.index("11-24")
    assert not any("price" in text for text in printed())


def test_a_curve_says_how_many_groups_it_has() -> None:
    assert "10 groups" in printed()[0]


def test_cells_break_before_the_number_of_samples_on_a_narrow_terminal() -> None:
    evaluations = [evaluation(n, 0.9) for n in (1, 10, 100)]
    console = Console(file=io.StringIO(), width=80)
    console.print(result_tables(evaluations, PROTOCOLS)[0])
    console.print(*detail_tables(evaluations[-1], PROTOCOLS))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("90.0 [85-95]") == 3
    assert "…" not in text
