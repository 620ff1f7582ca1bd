"""The paired test: worked out by hand, calibrated under chance, indifferent to order."""

import itertools

import numpy as np
import pytest

from liveedit_core.errors import ShapeError
from liveedit_core.evaluation.statistics import PairedDifference, holm_adjusted, paired_difference


def compare(
    new: list[float], old: list[float], groups: list[str] | None = None
) -> PairedDifference:
    names = groups or [f"case-{i}" for i in range(len(new))]
    return paired_difference(new, old, groups=names, seed=0, num_resamples=2000)


def test_few_cases_are_tested_exactly() -> None:
    found = compare([0, 0, 0, 0, 1, 1], [1, 1, 1, 0, 0, 1])
    # Three cases fell and one rose: of 16 sign assignments those with a sum <= -2 are 1 + 4.
    assert found.p_value == 5 / 16
    assert found.mean == pytest.approx(-2 / 6)
    assert (found.num_samples, found.num_cases) == (6, 6)


def test_without_a_difference_nothing_is_found() -> None:
    found = compare([1.0, 0.0, 0.5], [1.0, 0.0, 0.5])
    assert (found.mean, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_an_improvement_is_no_sign_of_worse() -> None:
    assert compare([1.0] * 20, [0.0] * 20).p_value == 1.0
    assert compare([0.0] * 20, [1.0] * 20).p_value < 0.001


def test_probes_of_one_case_count_as_one() -> None:
    scores = [0.0] * 8, [1.0] * 8
    alone = compare(*scores)
    together = compare(*scores, groups=["a", "a", "a", "a", "b", "b", "b", "b"])
    assert alone.p_value == 1 / 2**8
    assert together.p_value == 1 / 2**2
    assert together.num_cases == 2


def test_order_does_not_matter() -> None:
    random = np.random.default_rng(1)
    new, old = random.random(60).tolist(), random.random(60).tolist()
    groups = [f"case-{i // 2}" for i in range(60)]
    order = random.permutation(60).tolist()
    first = compare(new, old, groups)
    second = compare([new[i] for i in order], [old[i] for i in order], [groups[i] for i in order])
    assert second.p_value == first.p_value
    assert second.mean == pytest.approx(first.mean, abs=1e-12)
    assert second.low == pytest.approx(first.low, abs=1e-12)


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
