"""Intervals of a mean by the bootstrap: whole cases are drawn, as their probes belong together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from liveedit_core.errors import ShapeError

_MAX_EXACT_CASES = 12
_CHUNK = 1000
_ROUNDING = 1e-9
"""Two sums of scores that differ by less are equal: the order of adding must not decide."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """How two versions differ on the same probes; negative where the newer one is worse."""

    mean: float
    """Newer minus older, averaged over probes."""
    low: float
    """Lower end of the interval of `mean`."""
    high: float
    p_value: float
    """One-sided: how often chance alone makes the newer one look so bad, or worse."""
    num_samples: int
    """Pairs of probes."""
    num_cases: int
    """Independent units among them."""


def paired_difference(
    new: Sequence[float],
    old: Sequence[float],
    *,
    groups: Sequence[str],
    seed: int,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> PairedDifference:
    """Compare the scores of two versions on the same probes.

    The result depends on the set of pairs and the seed, not on their order.

    Args:
        new: Scores of the newer version, [n].
        old: Scores of the older version on the same probes, [n].
        groups: The case of each probe, [n].
        seed: Of the sampled sign flips and of the bootstrap.
        num_resamples: How many of each.
        level: Of the interval, in (0, 1).

    Raises:
        ShapeError: The three do not have the same length, or are empty.
    """
    if not len(new) == len(old) == len(groups) or not groups:
        raise ShapeError(
            "a paired comparison needs one new score, one old score and one case for each probe, "
            f"got {len(new)}, {len(old)} and {len(groups)}"
        )
    sums, sizes = _case_sums(np.subtract(new, old, dtype=np.float64), groups)
    random = np.random.default_rng(seed)
    p_value = _sign_flip_p_value(sums[np.abs(sums) > _ROUNDING], random, num_resamples)
    low, high = _bootstrap(sums, sizes, random, num_resamples, level)
    return PairedDifference(
        mean=float(sums.sum() / sizes.sum()),
        low=low,
        high=high,
        p_value=p_value,
        num_samples=len(groups),
        num_cases=len(sums),
    )


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values that may all be compared with one alpha, in the order given (Holm, 1979).

    Args:
        p_values: Of all tests that were made together.
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(ranked):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _case_sums(differences: Floats, groups: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum of differences and number of probes of each case, cases sorted by name."""
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    sums: Floats = np.bincount(owner, weights=differences, minlength=len(names)).astype(np.float64)
    return sums, np.bincount(owner, minlength=len(names)).astype(np.float64)


def _sign_flip_p_value(sums: Floats, random: np.random.Generator, num_resamples: int) -> float:
    """Share of sign assignments that are as bad as the one seen; cases that tie play no part."""
    if not len(sums):
        return 1.0
    limit = float(sums.sum()) + _ROUNDING
    if len(sums) <= _MAX_EXACT_CASES:
        bits = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
        return float(np.mean((2.0 * bits - 1.0) @ sums <= limit))
    num_as_bad = 0
    for start in range(0, num_resamples, _CHUNK):
        shape = (min(_CHUNK, num_resamples - start), len(sums))
        signs = random.integers(0, 2, shape, dtype=np.int8) * 2.0 - 1.0
        num_as_bad += int(np.count_nonzero(signs @ sums <= limit))
    return (1 + num_as_bad) / (1 + num_resamples)


def _bootstrap(
    sums: Floats, sizes: Floats, random: np.random.Generator, num_resamples: int, level: float
) -> tuple[float, float]:
    means: list[Floats] = []
    for start in range(0, num_resamples, _CHUNK):
        shape = (min(_CHUNK, num_resamples - start), len(sums))
        drawn = random.integers(0, len(sums), shape)
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail])
    return float(low), float(high)


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
