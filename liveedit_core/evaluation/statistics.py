"""Confidence intervals and a paired test over entities: bootstrap, exact, sign flips, Holm.

Probes of one entity share its images, and often an expert, so they are not independent samples: of
643 entities of the built-in benchmark 362 have two edits. The unit that is resampled or flipped is
therefore an entity with all probes of all its cases:

    S_g = sum of the scores of entity g    n_g = number of its probes    mean = sum S_g / sum n_g

**Interval** (Efron, 1979): entities drawn with replacement, percentiles of the mean. It is too
narrow for few entities and near 0 and 1, where resampling sees too few failures or none. With fewer
than 30 entities, or fewer than 10 of them expected to succeed or to fail, the interval is the exact
one for a share (Clopper and Pearson, 1934) with n = number of entities, as if all probes of an
entity succeeded or failed together; where they differ, or score between 0 and 1, it is too wide.

**Paired test** of two versions scored on the same probes (one-sided: is the newer one worse?). The
scores are differences, newer minus older. If the versions are equally good, each S_g could as well
have had the other sign. p = share of sign assignments whose sum is at most the observed one: all
2^G of them when at most 12 entities differ, otherwise a random sample that includes the observed
one, so that p > 0 (Phipson and Smyth, 2010).

**Several metrics at once**: Holm (1979) keeps the chance of any false alarm below alpha.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from liveedit_core.errors import ShapeError

NUM_RESAMPLES = 2000
LEAST_ENTITIES = 30
"""Fewer have exact intervals."""
LEAST_EXPECTED = 10
"""As does a share with fewer entities than this expected to succeed, or to fail."""
_MAX_EXACT_ENTITIES = 12
_FLIPS_AT_ONCE = 1000
_DRAWS_AT_ONCE = 4_000_000
"""Drawn indices held in memory at once: 32 MB."""
_ROUNDING = 1e-9
"""Sums that differ by less count as equal, so that the order of adding does not matter."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """How two versions differ on the same probes; negative where the newer one is worse."""

    mean: float
    """Newer minus older, averaged over probes."""
    low: float
    """Lower end of the interval of `mean`."""
    high: float
    p_value: float
    """One-sided: how often chance alone makes the newer version look this bad, or worse."""
    p_value_better: float
    """The same in the other direction: this good, or better."""
    num_samples: int
    """Pairs of probes."""
    num_entities: int


@dataclass(frozen=True)
class EntitySums:
    """Sum and number of the scores of each entity, sorted by name: input order has no effect."""

    sums_G: Floats
    counts_G: Floats

    @classmethod
    def of(cls, scores: Sequence[float], groups: Sequence[str]) -> "EntitySums":
        """Add up scores by entity; `groups` names the entity of each."""
        by_entity: dict[str, list[float]] = {}
        for score, group in zip(scores, groups, strict=True):
            by_entity.setdefault(group, []).append(score)
        if not by_entity:
            raise ValueError("an interval needs at least one score")
        names = sorted(by_entity)
        return cls(
            sums_G=np.array([math.fsum(by_entity[name]) for name in names]),
            counts_G=np.array([float(len(by_entity[name])) for name in names]),
        )

    @property
    def mean(self) -> float:
        return float(self.sums_G.sum() / self.counts_G.sum())

    def resampled_means(self, seed: int, num_resamples: int) -> Floats:
        """Means over entities drawn with replacement, [num_resamples]."""
        num_entities = len(self.sums_G)
        if num_resamples * num_entities <= _DRAWS_AT_ONCE:
            drawn_RG = _drawn_counts(num_entities, seed, num_resamples)
            means: Floats = (drawn_RG @ self.sums_G) / (drawn_RG @ self.counts_G)
            return means
        random = np.random.default_rng(seed)
        rows = max(1, _DRAWS_AT_ONCE // num_entities)
        parts: list[Floats] = []
        for start in range(0, num_resamples, rows):
            shape = (min(rows, num_resamples - start), num_entities)
            drawn = random.integers(num_entities, size=shape)
            parts.append(self.sums_G[drawn].sum(1) / self.counts_G[drawn].sum(1))
        return np.concatenate(parts)

    def interval(self, seed: int, num_resamples: int, level: float) -> Interval:
        tail = (1.0 - level) / 2
        means = self.resampled_means(seed, num_resamples)
        low, high = np.quantile(means, [tail, 1.0 - tail])
        return Interval(low=float(low), high=float(high))


@lru_cache(maxsize=8)
def _drawn_counts(num_entities: int, seed: int, num_resamples: int) -> Floats:
    """How often each entity is drawn in each resample, [num_resamples, num_entities]. Kept, as many
    metrics of an evaluation are measured on equally many entities."""
    drawn = np.random.default_rng(seed).integers(num_entities, size=(num_resamples, num_entities))
    drawn += np.arange(num_resamples)[:, None] * num_entities
    counts = np.bincount(drawn.ravel(), minlength=drawn.size)
    return counts.reshape(drawn.shape).astype(np.float64)


def share_interval(
    scores: Sequence[float],
    *,
    groups: Sequence[str],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """Interval of a mean of scores in 0..1: bootstrap, or exact (see above); `groups` names the
    entity of each score. The same seed draws the same entities from equally many, whatever is
    measured on them."""
    entities = EntitySums.of(scores, groups)
    num_entities = len(entities.sums_G)
    num_right = entities.mean * num_entities
    fewest = min(num_right, num_entities - num_right)
    if num_entities < LEAST_ENTITIES or fewest < LEAST_EXPECTED - _ROUNDING:
        return exact_interval(num_right, num_entities, level=level)
    return entities.interval(seed, num_resamples, level)


def exact_interval(num_right: float, num_trials: int, *, level: float = 0.95) -> Interval:
    """Clopper-Pearson interval of a share; `num_right` need not be whole."""
    tail, num_wrong = (1.0 - level) / 2, num_trials - num_right
    is_none, is_all = num_right <= _ROUNDING, num_wrong <= _ROUNDING
    low = 0.0 if is_none else float(betaincinv(num_right, num_wrong + 1, tail))
    high = 1.0 if is_all else float(betaincinv(num_right + 1, num_wrong, 1.0 - tail))
    return Interval(low=low, high=high)


def change_interval(
    new: Sequence[float],
    old: Sequence[float],
    *,
    groups: Sequence[str],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """Interval of a mean change of scores in 0..1. With few entities, or few that changed, it is
    gained minus lost with an exact interval of each at half the error: no change seen in 20 edits
    does not mean that there is none."""
    changes = np.subtract(new, old, dtype=np.float64)
    entities = EntitySums.of(changes.tolist(), groups)
    num_entities = len(entities.sums_G)
    num_changed = int(np.count_nonzero(np.abs(entities.sums_G) > _ROUNDING))
    if num_entities >= LEAST_ENTITIES and num_changed >= LEAST_EXPECTED:
        return entities.interval(seed, num_resamples, level)
    gained, lost = (
        exact_interval(
            EntitySums.of(part.tolist(), groups).mean * num_entities,
            num_entities,
            level=(1.0 + level) / 2,
        )
        for part in (changes.clip(min=0.0), -changes.clip(max=0.0))
    )
    return Interval(low=gained.low - lost.high, high=gained.high - lost.low)


def average_interval(
    parts: Sequence[tuple[Sequence[float], Sequence[str]]],
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """Interval of the mean of several means of scores in 0..1, such as metrics of the same edits;
    each part is scores and the entity of each. Entities are drawn for all parts together."""
    names = sorted({name for _, groups in parts for name in groups})
    row_of = {name: row for row, name in enumerate(names)}
    means: list[float] = []
    resampled: list[Floats] = []
    for scores, groups in parts:
        sums_G, counts_G = np.zeros((2, len(names)))
        rows = [row_of[name] for name in groups]
        np.add.at(sums_G, rows, scores)
        np.add.at(counts_G, rows, 1.0)
        part = EntitySums(sums_G=sums_G, counts_G=counts_G)
        means.append(part.mean)
        with np.errstate(invalid="ignore"):  # a draw may lack every entity of a rare metric
            resampled.append(part.resampled_means(seed, num_resamples))
    average, num_entities = sum(means) / len(means), len(names)
    fewest = min(average, 1.0 - average) * num_entities
    if num_entities < LEAST_ENTITIES or fewest < LEAST_EXPECTED - _ROUNDING:
        return exact_interval(average * num_entities, num_entities, level=level)
    drawn = np.stack(resampled).mean(0)
    low, high = np.nanquantile(drawn, [(1.0 - level) / 2, (1.0 + level) / 2])
    return Interval(low=float(low), high=float(high))


def paired_difference(
    new: Sequence[float],
    old: Sequence[float],
    *,
    groups: Sequence[str],
    seed: int,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> PairedDifference:
    """Compare the scores of two versions on the same probes; `groups` names the entity of
    each. The result depends on the set of pairs and the seed, not on their order."""
    if not len(new) == len(old) == len(groups) or not groups:
        raise ShapeError(
            "a paired comparison needs one new score, one old score and one entity for each probe, "
            f"got {len(new)}, {len(old)} and {len(groups)}"
        )
    entities = EntitySums.of(np.subtract(new, old, dtype=np.float64).tolist(), groups)
    differing = entities.sums_G[np.abs(entities.sums_G) > _ROUNDING]
    p_value = _sign_flip_p_value(differing, np.random.default_rng(seed), num_resamples)
    interval = entities.interval(seed, num_resamples, level)
    return PairedDifference(
        mean=entities.mean,
        low=interval.low,
        high=interval.high,
        p_value=p_value,
        p_value_better=_sign_flip_p_value(-differing, np.random.default_rng(seed), num_resamples),
        num_samples=len(groups),
        num_entities=len(entities.sums_G),
    )


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values of tests made together, adjusted so that each compares with alpha (Holm, 1979)."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(ranked):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _sign_flip_p_value(sums: Floats, random: np.random.Generator, num_resamples: int) -> float:
    """Share of sign assignments with a sum at most the observed one; `sums` holds no ties."""
    if not len(sums):
        return 1.0
    limit = float(sums.sum()) + _ROUNDING
    if len(sums) <= _MAX_EXACT_ENTITIES:
        bits = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
        return float(np.mean((2.0 * bits - 1.0) @ sums <= limit))
    num_as_bad = 0
    for start in range(0, num_resamples, _FLIPS_AT_ONCE):
        shape = (min(_FLIPS_AT_ONCE, num_resamples - start), len(sums))
        signs = random.integers(0, 2, shape, dtype=np.int8) * 2.0 - 1.0
        num_as_bad += int(np.count_nonzero(signs @ sums <= limit))
    return (1 + num_as_bad) / (1 + num_resamples)
