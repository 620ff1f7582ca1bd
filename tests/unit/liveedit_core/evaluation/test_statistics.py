"""Intervals: where theory says what they must be, they are that."""

import math
import random
import statistics

import pytest

from liveedit_core.evaluation.statistics import CaseSums, bootstrap_interval


def names(count: int) -> list[str]:
    return [f"case {n}" for n in range(count)]


def test_many_independent_cases_give_the_normal_interval() -> None:
    scores = [float(n % 2) for n in range(400)]
    interval = bootstrap_interval(scores, groups=names(400), seed=0, num_resamples=4000)
    half = 1.96 * statistics.pstdev(scores) / math.sqrt(400)
    assert interval.low == pytest.approx(0.5 - half, abs=0.006)
    assert interval.high == pytest.approx(0.5 + half, abs=0.006)


def test_probes_of_one_case_are_no_independent_samples() -> None:
    """Each case ten times: the interval must not shrink."""
    scores = [float(n % 2) for n in range(40)]
    once = bootstrap_interval(scores, groups=names(40), seed=0)
    repeated = bootstrap_interval(scores * 10, groups=names(40) * 10, seed=0)
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))


def test_cases_weigh_by_their_probes() -> None:
    means = CaseSums.of([1.0, 0.0, 0.0, 0.0], ["a", "b", "b", "b"]).resampled_means(0)
    assert set(means.round(6)) == {0.0, 0.25, 1.0}


def test_a_single_case_and_equal_scores_have_no_width() -> None:
    one = bootstrap_interval([0.25, 0.75], groups=["a", "a"], seed=0)
    assert (one.low, one.high) == (0.5, 0.5)
    same = bootstrap_interval([1.0] * 30, groups=names(30), seed=0)
    assert (same.low, same.high) == (1.0, 1.0)


def test_the_seed_decides_and_order_does_not() -> None:
    draw = random.Random(0)
    scores = [draw.random() for _ in range(60)]
    groups = [f"case {n % 25}" for n in range(60)]
    pairs = draw.sample(list(zip(scores, groups, strict=True)), 60)
    shuffled = bootstrap_interval([s for s, _ in pairs], groups=[g for _, g in pairs], seed=3)
    assert shuffled == bootstrap_interval(scores, groups=groups, seed=3)
    assert shuffled != bootstrap_interval(scores, groups=groups, seed=4)


def test_wider_levels_contain_narrower_ones() -> None:
    scores = [float(n % 3 == 0) for n in range(50)]
    wide = bootstrap_interval(scores, groups=names(50), seed=0, level=0.99)
    narrow = bootstrap_interval(scores, groups=names(50), seed=0, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least"):
        bootstrap_interval([], groups=[], seed=0)
    with pytest.raises(ValueError, match="zip"):
        bootstrap_interval([1.0], groups=[], seed=0)
