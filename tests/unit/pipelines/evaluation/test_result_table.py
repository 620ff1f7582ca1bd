"""The tables on the terminal: protocols apart, certainty marked."""

import io

from rich.console import Console

from liveedit_core.schema import ProbeKind
from pipelines.evaluation.bank_evaluation import BankEvaluation
from pipelines.evaluation.result_table import result_tables
from tests.unit.tiny_results import metric_summary

PROTOCOLS = ("teacher_forced", "free_generation")


def evaluation(num_edits: int, reliability: float) -> BankEvaluation:
    return BankEvaluation(
        bank="main",
        bank_version=num_edits + 1,
        num_edits=num_edits,
        run="test",
        num_cases=num_edits,
        results=(),
        summary={
            (ProbeKind.RELIABILITY, "teacher_forced"): metric_summary(reliability),
            (ProbeKind.TEXT_LOCALITY, "teacher_forced"): metric_summary(1.0),
            (ProbeKind.RELIABILITY, "free_generation"): metric_summary(0.25),
        },
        is_complete=True,
        num_new_results=4,
        seconds=1.0,
    )


def printed() -> list[str]:
    """Each table as text."""
    tables = result_tables([evaluation(1, 1.0), evaluation(10, 0.9)], PROTOCOLS)
    texts = []
    for table in tables:
        console = Console(file=io.StringIO(), width=100)
        console.print(table)
        texts.append(console.file.getvalue())  # type: ignore[attr-defined]
    return texts


def test_protocols_and_ways_of_counting_have_tables_of_their_own() -> None:
    forced, exact, free, _ = printed()
    assert "1 edit " in forced
    assert "10 edits" in forced
    assert "90.0 [85-95] n=4" in forced
    assert "by construction" in forced
    assert "average" not in forced  # two of the five were measured
    assert "all target tokens" in exact
    assert "average" not in exact
    assert "25.0 [20-30] n=4" in free
    assert "25.0" not in forced


def test_routing_is_shown_at_the_last_point() -> None:
    routing = printed()[-1]
    assert "after 10 edits" in routing
    assert "<= 3" in routing
    assert "0.25" in routing


def test_nothing_evaluated_no_table() -> None:
    assert result_tables([], PROTOCOLS) == []
