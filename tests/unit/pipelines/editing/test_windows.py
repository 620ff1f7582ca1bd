"""Windows end where they always end, and micro-batches never cross an end."""

import pytest

from pipelines.editing.windows import WindowPlan

PLAN = WindowPlan(window_edits=25, points=(1, 10, 100))


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
    numbers = [1, 2, 3, 9, 10, 11, 24, 26, 27]
    assert list(PLAN.micro_batches(numbers, batch_size=3)) == [
        (1,),
        (2, 3, 9),
        (10,),
        (11, 24),
        (26, 27),
    ]
    assert PLAN.last_of_windows(numbers) == {1, 10, 24, 27}
