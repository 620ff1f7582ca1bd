"""Windows end where they always end, and micro-batches never cross an end."""

from datetime import UTC, datetime

import pytest

from infra.requests.request_log import LoggedRequest
from pipelines.editing.windows import WindowPlan
from tests.unit.tiny_inputs import request

PLAN = WindowPlan(window_edits=25, points=(1, 10, 100))


def logged(*sequences: int) -> list[LoggedRequest]:
    moment = datetime.now(UTC)
    return [
        LoggedRequest(sequence=n, request=request(0), supersedes="", submitted_at=moment)
        for n in sequences
    ]


@pytest.mark.parametrize(
    ("sequence", "end"),
    [(1, 1), (2, 10), (10, 10), (11, 25), (25, 25), (26, 50), (99, 100), (101, 125), (1000, 1000)],
)
def test_the_end_of_a_window(sequence: int, end: int) -> None:
    assert PLAN.end_of(sequence) == end


def test_a_long_window_ends_at_points_too() -> None:
    plan = WindowPlan(window_edits=1000, points=(3, 30))
    assert [plan.end_of(sequence) for sequence in (1, 3, 4, 31)] == [3, 3, 30, 1000]


def test_micro_batches_stay_within_windows_and_gaps_change_nothing() -> None:
    batches = PLAN.micro_batches(logged(1, 2, 3, 9, 10, 11, 24, 26, 27), batch_size=3)
    assert [[item.sequence for item in batch] for batch in batches] == [
        [1],
        [2, 3, 9],
        [10],
        [11, 24],
        [26, 27],
    ]
