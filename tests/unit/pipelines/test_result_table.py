"""The tables on the terminal: protocols apart, certainty marked."""

import io

from rich.console import Console

from liveedit_core.schema import ProbeKind
from pipelines.bank_evaluation import BankEvaluation
from pipelines.result_table import result_tables
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


def test_one_table_a_protocol() -> None:
    console = Console(file=io.StringIO(), width=100)
    tables = result_tables([evaluation(1, 1.0), evaluation(10, 0.9)], PROTOCOLS)
    for table in tables:
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    forced, free = text.split("free generation")
    assert "1 edit " in forced
    assert "10 edits" in forced
    assert "90.0" in forced
    assert "by construction" in forced
    assert "95.0" in forced  # the average of the two that were measured
    assert "25.0" in free
    assert "25.0" not in forced


def test_nothing_evaluated_no_table() -> None:
    assert result_tables([], PROTOCOLS) == []
