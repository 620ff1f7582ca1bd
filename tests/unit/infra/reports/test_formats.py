"""Numbers as pages write them."""

import pytest

from infra.reports import formats
from liveedit_core.evaluation.statistics import Interval


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formats.spell("teacher_forced"), "teacher-forced"),
        (formats.spell("text_locality"), "text locality"),
        (formats.count(1234), "1,234"),
        (formats.count(None), "\N{EN DASH}"),
        (formats.number(1.234), "1.23"),
        (formats.number(3.0, 0), "3"),
        (formats.number(None), "-"),
        (formats.percent(0.9745), "97.5 %"),
        (formats.percent(0.5, unit=""), "50.0"),
        (formats.percent(None), "-"),
        (formats.interval(Interval(low=0.951, high=0.982)), "95.1 to 98.2"),
        (formats.interval(Interval(low=0.951, high=1.0), 0, "-"), "95-100"),
    ],
)
def test_numbers_and_names(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0004, "0.0"), (-0.0004, "0.0"), (0.0123, "+1.2"), (-0.0123, "\N{MINUS SIGN}1.2")],
)
def test_differences_have_a_sign(fraction: float, text: str) -> None:
    assert formats.points(fraction) == text


@pytest.mark.parametrize(("p_value", "text"), [(0.0, "< 0.001"), (0.001, "0.001"), (1.0, "1.000")])
def test_small_p_values_are_bounds(p_value: float, text: str) -> None:
    assert formats.p_value(p_value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.6, "1 min 0 s"), (3_725, "1 h 2 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text
