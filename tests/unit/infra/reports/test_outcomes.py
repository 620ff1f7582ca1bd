"""Counts of how edits were written, by length of the target."""

from infra.reports.outcomes import outcome_metrics, outcome_rows
from liveedit_core.outcome import WriteOutcome

OUTCOMES = [
    WriteOutcome(state="verified", num_target_tokens=1),
    WriteOutcome(state="verified", num_target_tokens=2),
    WriteOutcome(state="refined", num_target_tokens=2, steps=3),
    WriteOutcome(state="refined", num_target_tokens=30, steps=5),
    WriteOutcome(state="weak", num_target_tokens=30, steps=0, reason="gate"),
    WriteOutcome(),
]


def test_edits_are_counted_by_length() -> None:
    every, short, long = outcome_rows(OUTCOMES)
    assert (every.label, short.label, long.label) == ("all", "1-2", "25 or more")
    assert (every.num_edits, every.num_verified, every.num_refined, every.num_weak) == (5, 2, 2, 1)
    assert (short.mean_steps, long.mean_steps) == (1.0, 2.5)
    metrics = outcome_metrics([every, long])
    assert metrics["edits.all.right_as_written"] == 0.4
    assert metrics["edits.25_or_more.weak"] == 1.0


def test_edits_that_were_not_verified_make_no_table() -> None:
    assert outcome_rows([WriteOutcome()]) == []
