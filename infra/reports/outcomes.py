"""How edits turned out when their experts were written, by length of the target."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from liveedit_core.outcome import WriteOutcome

LENGTHS = ((1, 2), (3, 5), (6, 10), (11, 24), (25, 0))
"""Tokens of a target, both included; 0: no bound."""
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class OutcomeRow:
    """Verified edits with targets of some lengths, those refused as weak included."""

    label: str
    """`ALL` or tokens of the target: "3-5"."""
    num_edits: int
    num_verified: int
    """Right as the generator wrote them."""
    num_refined: int
    num_weak: int
    mean_steps: float
    """Refinement steps of an edit."""


def outcome_rows(outcomes: Collection[WriteOutcome]) -> list[OutcomeRow]:
    """A row for all edits and one for each length; none if no edit was verified."""
    known = [item for item in outcomes if item.state != "written"]
    rows = [_row(ALL, known)]
    for first, last in LENGTHS:
        label = f"{first}-{last}" if last else f"{first} or more"
        rows.append(
            _row(label, [o for o in known if first <= o.num_target_tokens <= (last or 10**9)])
        )
    return [row for row in rows if row.num_edits]


def _row(label: str, outcomes: Sequence[WriteOutcome]) -> OutcomeRow:
    states = [outcome.state for outcome in outcomes]
    return OutcomeRow(
        label=label,
        num_edits=len(states),
        num_verified=states.count("verified"),
        num_refined=states.count("refined"),
        num_weak=states.count("weak"),
        mean_steps=sum(outcome.steps for outcome in outcomes) / max(len(outcomes), 1),
    )


def outcome_metrics(rows: Sequence[OutcomeRow]) -> dict[str, float]:
    """Counts, shares right before refining, and mean steps, by name."""
    metrics: dict[str, float] = {}
    for row in rows:
        name = row.label.replace(" ", "_")
        metrics |= {
            f"edits.{name}.verified": float(row.num_verified),
            f"edits.{name}.refined": float(row.num_refined),
            f"edits.{name}.weak": float(row.num_weak),
            f"edits.{name}.right_as_written": row.num_verified / row.num_edits,
            f"edits.{name}.refine_steps": row.mean_steps,
        }
    return metrics
