"""Intervals of a mean by the bootstrap: whole cases are drawn, as their probes belong together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 2000
_NUMBERS_AT_ONCE = 4_000_000
"""Of one block of draws: 32 MB."""


@dataclass(frozen=True)
class Interval:
    """Bounds of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class CaseSums:
    """What a case adds to a mean; cases sorted by name, so that no order of scores matters."""

    sums_G: np.ndarray
    """Sum of the scores of each case; float64."""
    counts_G: np.ndarray
    """How many scores each case has; float64."""

    @classmethod
    def of(cls, scores: Sequence[float], groups: Sequence[str]) -> "CaseSums":
        """Add up scores by case.

        Args:
            scores: any numbers.
            groups: the case of each.

        Raises:
            ValueError: the two differ in length, or there is no score.
        """
        by_case: dict[str, list[float]] = {}
        for score, group in zip(scores, groups, strict=True):
            by_case.setdefault(group, []).append(score)
        if not by_case:
            raise ValueError("a bootstrap needs one score at least")
        names = sorted(by_case)
        return cls(
            sums_G=np.array([math.fsum(by_case[name]) for name in names]),
            counts_G=np.array([float(len(by_case[name])) for name in names]),
        )

    def resampled_means(self, seed: int, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
        """Means over cases drawn with replacement, [num_resamples] float64.

        The same seed draws the same cases from equally many, whatever is measured on them.
        """
        draw = np.random.default_rng(seed)
        num_cases = len(self.sums_G)
        rows = max(1, _NUMBERS_AT_ONCE // num_cases)
        means = []
        for start in range(0, num_resamples, rows):
            shape = (min(rows, num_resamples - start), num_cases)
            drawn = draw.integers(num_cases, size=shape)
            means.append(self.sums_G[drawn].sum(1) / self.counts_G[drawn].sum(1))
        return np.concatenate(means)


def bootstrap_interval(
    scores: Sequence[float],
    *,
    groups: Sequence[str],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of a mean (Efron 1979), resampling whole groups.

    Args:
        scores: one number a probe.
        groups: the case of each probe.
        seed: of the draws.
        num_resamples: how many means are drawn.
        level: share of them inside of the interval.

    Raises:
        ValueError: nothing was measured, or the lengths differ.
    """
    means = CaseSums.of(scores, groups).resampled_means(seed, num_resamples)
    tail = (1.0 - level) / 2
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(low=float(low), high=float(high))
