"""Intervals and tests: worked out by hand, calibrated under chance, indifferent to order."""

import itertools
import math
import statistics

import numpy as np
import pytest

from liveedit_core.errors import ShapeError
from liveedit_core.evaluation.statistics import (
    EntitySums,
    PairedDifference,
    average_interval,
    change_interval,
    exact_interval,
    holm_adjusted,
    paired_difference,
    share_interval,
)


def names(count: int) -> list[str]:
    return [f"entity {n}" for n in range(count)]


def test_many_independent_entities_give_the_normal_interval() -> None:
    scores = [float(n % 2) for n in range(400)]
    interval = share_interval(scores, groups=names(400), seed=0, num_resamples=4000)
    half = 1.96 * statistics.pstdev(scores) / math.sqrt(400)
    assert interval.low == pytest.approx(0.5 - half, abs=0.006)
    assert interval.high == pytest.approx(0.5 + half, abs=0.006)


def test_probes_of_one_entity_are_no_independent_samples() -> None:
    """Each entity ten times: the interval must not shrink."""
    scores = [float(n % 2) for n in range(40)]
    once = share_interval(scores, groups=names(40), seed=0)
    repeated = share_interval(scores * 10, groups=names(40) * 10, seed=0)
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))


def test_entities_weigh_by_their_probes() -> None:
    sums = EntitySums.of([1.0, 0.0, 0.0, 0.0], ["a", "b", "b", "b"])
    means = sums.resampled_means(0, 2000)
    assert set(means.round(6)) == {0.0, 0.25, 1.0}


def test_exact_intervals_as_in_the_tables() -> None:
    """Closed forms where none or all are right; 8 of 20 from tables of Clopper and Pearson."""
    none, every = exact_interval(0, 20), exact_interval(20, 20)
    assert (none.low, every.high) == (0.0, 1.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert every.low == pytest.approx(0.025 ** (1 / 20))
    some = exact_interval(8, 20)
    assert (some.low, some.high) == pytest.approx((0.1912, 0.6395), abs=1e-4)


def test_many_draws_in_parts_are_those_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    sums = EntitySums.of(random.random(90).tolist(), [f"entity {n % 40}" for n in range(90)])
    at_once = sums.resampled_means(5, 500)
    monkeypatch.setattr("liveedit_core.evaluation.statistics._DRAWS_AT_ONCE", 1000)
    assert sums.resampled_means(5, 500) == pytest.approx(at_once)


def test_a_single_entity_says_nearly_nothing() -> None:
    wrong = share_interval([0.0], groups=["a"], seed=0)
    assert (wrong.low, wrong.high) == pytest.approx((0.0, 0.975))
    halves = share_interval([0.25, 0.75], groups=["a", "a"], seed=0)
    assert halves.low < 0.01
    assert halves.high > 0.99


def test_few_entities_and_shares_near_the_ends_have_exact_intervals() -> None:
    def is_exact(num_right: int, num_entities: int) -> bool:
        scores = [float(n < num_right) for n in range(num_entities)]
        found = share_interval(scores * 2, groups=names(num_entities) * 2, seed=0)
        exact = exact_interval(num_right, num_entities)
        return (found.low, found.high) == pytest.approx((exact.low, exact.high), rel=1e-9)

    assert all(is_exact(*share) for share in ((15, 29), (9, 1000), (991, 1000), (100, 100)))
    assert not any(is_exact(*share) for share in ((15, 30), (10, 1000), (990, 1000)))


def test_exact_intervals_keep_their_promise_where_the_bootstrap_does_not() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        scores = (random.random(25) < 0.95).astype(float).tolist()
        interval = share_interval(scores, groups=names(25), seed=trial)
        covered += interval.low <= 0.95 <= interval.high
    assert covered / 300 >= 0.95


def test_the_seed_decides_and_order_does_not() -> None:
    draw = np.random.default_rng(0)
    scores = draw.random(60).tolist()
    groups = [f"entity {n % 35}" for n in range(60)]
    order = draw.permutation(60).tolist()
    shuffled = share_interval([scores[i] for i in order], groups=[groups[i] for i in order], seed=3)
    assert shuffled == share_interval(scores, groups=groups, seed=3)
    assert shuffled != share_interval(scores, groups=groups, seed=4)


def test_wider_levels_contain_narrower_ones() -> None:
    scores = [float(n % 3 == 0) for n in range(50)]
    wide = share_interval(scores, groups=names(50), seed=0, level=0.99)
    narrow = share_interval(scores, groups=names(50), seed=0, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least"):
        share_interval([], groups=[], seed=0)
    with pytest.raises(ValueError, match="zip"):
        share_interval([1.0], groups=[], seed=0)


def compare(
    new: list[float], old: list[float], groups: list[str] | None = None
) -> PairedDifference:
    names = groups or [f"case-{i}" for i in range(len(new))]
    return paired_difference(new, old, groups=names, seed=0, num_resamples=2000)


def test_few_entities_are_tested_exactly() -> None:
    found = compare([0, 0, 0, 0, 1, 1], [1, 1, 1, 0, 0, 1])
    # Three cases fell and one rose: of 16 sign assignments those with a sum <= -2 are 1 + 4.
    assert found.p_value == 5 / 16
    assert found.mean == pytest.approx(-2 / 6)
    assert (found.num_samples, found.num_entities) == (6, 6)


def test_without_a_difference_nothing_is_found() -> None:
    found = compare([1.0, 0.0, 0.5], [1.0, 0.0, 0.5])
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
    assert (found.p_value, found.p_value_better) == (1.0, 1.0)


def test_an_improvement_is_no_sign_of_worse() -> None:
    assert compare([1.0] * 20, [0.0] * 20).p_value == 1.0
    assert compare([0.0] * 20, [1.0] * 20).p_value < 0.001
    assert compare([1.0] * 20, [0.0] * 20).p_value_better < 0.001


def test_both_directions_mirror_each_other() -> None:
    random = np.random.default_rng(5)
    new, old = random.random(40).tolist(), random.random(40).tolist()
    found, mirrored = compare(new, old), compare(old, new)
    assert found.p_value_better == mirrored.p_value
    assert found.mean == -mirrored.mean


def test_probes_of_one_entity_count_as_one() -> None:
    scores = [0.0] * 8, [1.0] * 8
    alone = compare(*scores)
    together = compare(*scores, groups=["a", "a", "a", "a", "b", "b", "b", "b"])
    assert alone.p_value == 1 / 2**8
    assert together.p_value == 1 / 2**2
    assert together.num_entities == 2


def test_order_does_not_matter() -> None:
    random = np.random.default_rng(1)
    new, old = random.random(60).tolist(), random.random(60).tolist()
    groups = [f"entity-{i // 2}" for i in range(60)]
    order = random.permutation(60).tolist()
    first = compare(new, old, groups)
    second = compare([new[i] for i in order], [old[i] for i in order], [groups[i] for i in order])
    assert second == first


def test_the_sampled_test_agrees_with_the_exact_one() -> None:
    differences = [-0.6, 0.2, -0.3, 0.1, -0.2, -0.4, 0.5, -0.1, 0.3, -0.7, -0.2, 0.05, -0.15]
    sums = [
        sum(sign * value for sign, value in zip(signs, differences, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    exact = np.mean([value <= sum(differences) + 1e-9 for value in sums])
    found = paired_difference(
        differences, [0.0] * 13, groups=[str(i) for i in range(13)], seed=0, num_resamples=20_000
    )
    assert found.p_value == pytest.approx(exact, abs=0.01)


def test_chance_alone_is_called_worse_no_oftener_than_promised() -> None:
    random = np.random.default_rng(2)
    groups = [f"case-{i}" for i in range(40)]
    p_values, covered = [], 0
    for trial in range(200):
        new, old = random.integers(0, 2, (2, 40)).astype(float).tolist()
        found = paired_difference(new, old, groups=groups, seed=trial, num_resamples=400)
        p_values.append(found.p_value)
        covered += found.low <= 0.0 <= found.high
    assert np.mean(np.array(p_values) <= 0.05) < 0.09
    assert covered / 200 > 0.9


def test_holm_as_in_the_textbook() -> None:
    assert holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_adjusted([0.6, 0.5]) == [1.0, 1.0]
    assert holm_adjusted([]) == []


def test_scores_without_a_partner_are_refused() -> None:
    with pytest.raises(ShapeError, match="2, 1 and 2"):
        paired_difference([1.0, 0.0], [1.0], groups=["a", "b"], seed=0)


def test_a_change_of_many_entities_has_the_bootstrap_interval() -> None:
    new, old = [0.0] * 20 + [1.0] * 20, [1.0] * 40
    found = change_interval(new, old, groups=names(40), seed=3)
    drawn = EntitySums.of([n - o for n, o in zip(new, old, strict=True)], names(40))
    assert found == drawn.interval(3, 2000, 0.95)
    assert found.low < -0.5 < found.high < 0.0


def test_a_change_of_few_entities_is_what_was_gained_minus_what_was_lost() -> None:
    found = change_interval([1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0], groups=names(4), seed=0)
    one_of_four = exact_interval(1, 4, level=0.975)
    widest = one_of_four.high - one_of_four.low
    assert (found.low, found.high) == pytest.approx((-widest, widest))
    few_changed = change_interval([0.0] * 9 + [1.0] * 91, [1.0] * 100, groups=names(100), seed=0)
    lost = exact_interval(9, 100, level=0.975)
    none = exact_interval(0, 100, level=0.975)
    assert few_changed.low == pytest.approx(-lost.high)
    assert few_changed.high == pytest.approx(none.high - lost.low)


def test_changes_are_covered_as_often_as_promised() -> None:
    """One of ten edits is lost by chance: the bootstrap alone covers that too seldom."""
    random = np.random.default_rng(4)
    covered = 0
    for trial in range(300):
        new = (random.random(20) >= 0.1).astype(float).tolist()
        found = change_interval(new, [1.0] * 20, groups=names(20), seed=trial)
        covered += found.low <= -0.1 <= found.high
    assert covered / 300 >= 0.95


def test_the_interval_of_one_mean_is_that_of_an_average_of_one() -> None:
    scores = [float(n % 2) for n in range(60)]
    assert average_interval([(scores, names(60))], seed=1) == share_interval(
        scores, groups=names(60), seed=1
    )
    few = average_interval([([1.0, 0.0], names(2)), ([1.0], ["entity 0"])], seed=0)
    assert few == exact_interval(1.5, 2)  # (0.5 + 1) / 2 of two entities


def test_metrics_of_the_same_entities_move_together_in_an_average() -> None:
    """Two equal metrics tell no more than one; two opposite ones leave nothing to chance."""
    scores = [float(n % 2) for n in range(60)]
    opposite = [1.0 - score for score in scores]
    one = average_interval([(scores, names(60))], seed=1)
    assert average_interval([(scores, names(60))] * 2, seed=1) == one
    both = average_interval([(scores, names(60)), (opposite, names(60))], seed=1)
    assert (both.low, both.high) == pytest.approx((0.5, 0.5))


def test_a_metric_of_few_entities_may_be_missing_from_a_draw() -> None:
    common = [float(n % 2) for n in range(60)], names(60)
    found = average_interval([common, ([1.0], ["entity 7"])], seed=0)
    assert 0.6 < found.low < 0.75 < found.high < 0.9
