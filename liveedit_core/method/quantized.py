"""Visual features in 7 bits, to scan large banks for the few experts that may matter to a question.

    <q, k>  <=  s_q * s_k * <q8, k7>  +  |q - s_q * q8| * max|s_k * k7|  +  |q| * max|k - s_k * k7|

with the maxima over a block of rows. So nothing that reaches a similarity is missed; what is found
beyond it is compared by its stored features like the rest. A scan reads a quarter of the bytes of
float32.
Numbers are stored 64 larger, 0..127: the same bytes in faiss's scan, which is faster for one row
of a question, and in a quantized linear layer, which is faster for more. A pair of products of such
numbers fits into 16 bits, as processors without VNNI add them. The layer's output is one byte a
product, a level: 0 below what is asked for, 255 for what is as similar as can be told.

On a GPU rows are in bfloat16, and one product finds them, with a bound of its rounding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import starmap
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from liveedit_core.method.repository import FeatureRows, segments_of
from liveedit_core.row_lists import RowList, Rows, in_threads

LEAST_EXPERTS = 4096
"""In a segment; smaller ones are scanned as they are."""
BLOCK_NUMBERS = 33_554_432
"""Numbers of features that are scanned together, at most: one call, or the task of a thread."""
LEVELS_AT_ONCE = 4_194_304
"""Of one call."""
TOP_LEVEL = 255
FEW_ROWS = 1
"""Of questions: so many are scanned one by one."""
_HAS_LEVELS = "onednn" in torch.backends.quantized.supported_engines
_ADDED = 64
_FAR = 2**30
"""No product of rounded numbers is as large."""
_WORD = 8
"""Levels that are compared with zero together."""
_TINY = 1e-20
"""Smaller numbers are rounded to zero."""
_HALF_ROUNDING = 2**-6
"""Of the length of both: more than a product in bfloat16 is rounded by, partial sums included."""


class AskedRow(NamedTuple):
    """One row of a question, and the inner product from which on a row of an expert is found."""

    rounded_R: Rows
    """Whole numbers, -127..127."""
    total: float
    """Of these."""
    scale: float
    length: float
    error: float
    """How far rounding moves it."""
    least: float


@dataclass(frozen=True)
class Questions:
    """Rows of questions, at least one."""

    asked_QR: Tensor
    least_Q: Tensor
    top_Q: Tensor
    """Inner products from which on all have the highest level; infinite without levels."""

    @cached_property
    def rows(self) -> tuple[AskedRow, ...]:
        asked_QR = self.asked_QR
        scale_Q = asked_QR.abs().amax(1).clamp(min=_TINY) / 127
        rounded_QR = (asked_QR / scale_Q[:, None]).round()
        columns = (
            rounded_QR.sum(1),
            scale_Q,
            asked_QR.norm(dim=1),
            (asked_QR - rounded_QR * scale_Q[:, None]).norm(dim=1),
            self.least_Q,
        )
        numbers = zip(*(column_Q.tolist() for column_Q in columns), strict=True)
        return tuple(
            starmap(AskedRow, zip(rounded_QR.numpy(), *zip(*numbers, strict=True), strict=True))
        )

    @cached_property
    def step_Q(self) -> npt.NDArray[np.float64]:
        """`level_step` of each."""
        steps = map(level_step, self.least_Q.tolist(), self.top_Q.tolist())
        return np.array(list(steps), np.float64)

    @cached_property
    def weight(self) -> Tensor:
        """Of the linear layer: whole numbers, packed; zeros where a row of levels is filled up to
        whole words."""
        rounded_QR = np.zeros(
            (-(-len(self.rows) // _WORD) * _WORD, self.asked_QR.shape[1]), np.int8
        )
        rounded_QR[: len(self.rows)] = [row.rounded_R for row in self.rows]
        packed: Tensor = torch.ops.onednn.qlinear_prepack(torch.from_numpy(rounded_QR), None)
        return packed


def level_step(least: float, top: float) -> float:
    """By how much the inner products of a level may exceed those of the level below; infinite where
    there is only one level."""
    span = top - least
    return span / (TOP_LEVEL - 1) if 0 < span <= 4 * abs(top) else math.inf


class Found(NamedTuple):
    """Experts that some question may find."""

    position_U: Tensor
    """int64, on the CPU; some of them twice where nothing more is known."""
    level_UQ: Tensor | None = None
    """uint8, where the scan says it: inner products are at most `least + level * level_step`, of
    `TOP_LEVEL` any."""

    @classmethod
    def joined(cls, parts: Sequence["Found"]) -> "Found":
        """Those of parts that follow each other."""
        if len(parts) == 1:
            return parts[0]
        nothing_U = torch.zeros(0, dtype=torch.int64)
        position_U = torch.cat([nothing_U, *(part.position_U for part in parts)])
        known = [part.level_UQ for part in parts if part.level_UQ is not None]
        if not known:
            return cls(position_U)
        levels = (
            known[0].new_full((len(part.position_U), known[0].shape[1]), TOP_LEVEL)
            if part.level_UQ is None
            else part.level_UQ
            for part in parts
        )
        return cls(position_U, torch.cat(list(levels)))


@dataclass(frozen=True, kw_only=True)
class QuantizedRows:
    """Some experts, and how much rounding can change their inner products."""

    rows: RowList
    first: int
    """Position of the first expert in the segment."""
    scale: float
    length: float
    """Of the longest rounded row."""
    error: float
    """Of the row that rounding moves most."""

    @classmethod
    def of(cls, rows_XR: Tensor, first: int = 0) -> "QuantizedRows":
        rows_XR = rows_XR.float()
        smallest, largest = (float(bound) for bound in rows_XR.aminmax())
        scale = max(-smallest, largest, _TINY) / (_ADDED - 1)
        rounded_XR = (rows_XR / scale).round_()
        return cls(
            rows=RowList.of_bytes(rounded_XR.add(_ADDED).to(torch.uint8), first),
            first=first,
            scale=scale,
            length=scale * float(rounded_XR.norm(dim=1).max()),
            error=float((rows_XR - rounded_XR.mul_(scale)).norm(dim=1).max()),
        )

    def reaching(self, asked: Questions) -> Found:
        # faiss takes 128 from stored numbers, and finds what is more than a bound.
        least = [min(max(self.least(row), -_FAR), _FAR) for row in asked.rows]
        pairs = zip(least, asked.rows, strict=True)
        bounds = [bound - (128 - _ADDED) * row.total - 0.5 for bound, row in pairs]
        rows = (row.rounded_R for row in asked.rows)
        found = [self.rows.reaching(*pair) for pair in zip(rows, bounds, strict=True)]
        return Found(torch.cat(found))

    def least(self, row: AskedRow) -> int:
        """The product of rounded numbers from which on a row may be found, a whole number."""
        slack = row.error * self.length + row.length * self.error
        least = (row.least - slack) / (row.scale * self.scale)
        return math.floor(min(max(least - 1e-6 * abs(least), -1e30), 1e30))


@dataclass(frozen=True, kw_only=True)
class HalfRows:
    """A segment of experts on a GPU, in bfloat16."""

    rows_XR: Tensor
    length: float
    """Of the longest row."""

    @classmethod
    def of(cls, rows_XR: Tensor) -> "HalfRows":
        length = float(rows_XR.float().norm(dim=1).max())
        return cls(rows_XR=rows_XR.to(torch.bfloat16), length=length)

    def reaching(self, asked: Questions) -> Found:
        least_Q = asked.least_Q - _HALF_ROUNDING * asked.asked_QR.norm(dim=1) * self.length
        products_XQ = self.rows_XR @ asked.asked_QR.to(torch.bfloat16).T
        position_U = (products_XQ.float() >= least_Q).any(1).nonzero().flatten()
        return Found(position_U.cpu())


@dataclass(frozen=True)
class QuantizedSegment:
    """A segment of features whose rows never change."""

    features_NK: Tensor
    blocks: tuple[QuantizedRows | HalfRows, ...]
    """() where it is scanned as it is."""

    @classmethod
    def of(cls, features_NK: Tensor) -> "QuantizedSegment":
        if len(features_NK) < LEAST_EXPERTS:
            return cls(features_NK, ())
        if features_NK.device.type != "cpu":
            return cls(features_NK, (HalfRows.of(features_NK),))
        num_blocks = -(-features_NK.numel() // BLOCK_NUMBERS)
        step = -(-len(features_NK) // num_blocks)
        blocks = (
            QuantizedRows.of(part_XR, step * number)
            for number, part_XR in enumerate(features_NK.split(step))
        )
        return cls(features_NK, tuple(blocks))

    def holds(self, features_NK: Tensor) -> bool:
        """Whether these are the same rows in memory."""
        own = self.features_NK
        return own.data_ptr() == features_NK.data_ptr() and own.shape == features_NK.shape


def quantized(
    features: FeatureRows, before: Sequence[QuantizedSegment] = ()
) -> tuple[QuantizedSegment, ...]:
    """All segments; those that are the same as `before` are taken from there."""
    old = iter(before)
    return tuple(
        one if (one := next(old, None)) and one.holds(part) else QuantizedSegment.of(part)
        for part in segments_of(features)
    )


def found_in(segments: Sequence[QuantizedSegment], asked: Questions) -> list[Found]:
    """What some question finds in each segment that has blocks, and others that are nearly as
    similar."""
    tasks = [(number, block) for number, part in enumerate(segments) for block in part.blocks]
    blocks = [block for _, block in tasks]
    if asked.asked_QR.device.type != "cpu":
        reached = [block.reaching(asked) for block in blocks]
    elif len(asked.asked_QR) > FEW_ROWS and _HAS_LEVELS:
        # A product uses all threads.
        reached = levelled([block for block in blocks if isinstance(block, QuantizedRows)], asked)
    else:
        _ = asked.rows  # for all threads
        reached = in_threads(lambda block: block.reaching(asked), blocks)
    parts: list[list[Found]] = [[] for _ in segments]
    for (number, _), found in zip(tasks, reached, strict=True):
        parts[number].append(found)
    return [Found.joined(some) for some in parts]


def levelled(blocks: Sequence[QuantizedRows], asked: Questions) -> list[Found]:
    """By a linear layer, in which what reaches the least product has level 1."""
    if not blocks:
        return []
    least_BQ = np.array([[block.least(row) for row in asked.rows] for block in blocks], np.float64)
    total_Q, unit_Q = (np.array([row[part] for row in asked.rows]) for part in (1, 2))
    unit_BQ = np.array([[block.scale] for block in blocks]) * unit_Q
    is_told_Q = np.isfinite(asked.step_Q)
    gain_BQ = np.where(is_told_Q, unit_BQ / asked.step_Q, 1.0)
    bias_BQ = (1 - gain_BQ * (least_BQ + _ADDED * total_Q)).clip(-_FAR, _FAR)
    missing = ((0, 0), (0, -len(asked.rows) % _WORD))
    gain_BQ = np.pad(gain_BQ, missing).astype(np.float32)
    bias_BQ = np.pad(bias_BQ, missing, constant_values=-_FAR).astype(np.float32)
    zero_Q = torch.zeros(gain_BQ.shape[1], dtype=torch.int64)
    found: list[Found] = []
    for block, gain_Q, bias_Q in zip(
        blocks, torch.from_numpy(gain_BQ), torch.from_numpy(bias_BQ), strict=True
    ):
        parts, start = [], block.first
        for codes_XR in torch.from_numpy(block.rows.codes).split(LEVELS_AT_ONCE // len(zero_Q)):
            level_XQ = torch.ops.onednn.qlinear_pointwise(
                *(codes_XR, 1.0, 0, asked.weight, gain_Q, zero_Q, bias_Q),
                *(1.0, 0, torch.uint8, "none", [], ""),
            ).numpy()
            words_XW = level_XQ.view(np.int64)
            # numpy finds what is not zero in a fraction of torch's time.
            row_U = np.flatnonzero(words_XW)
            if words_XW.shape[1] > 1:
                row_U = np.unique(row_U // words_XW.shape[1])
            level_UQ = level_XQ[row_U, : len(asked.rows)]
            parts.append(Found(torch.from_numpy(row_U + start), torch.from_numpy(level_UQ)))
            start += len(codes_XR)
        found.append(Found.joined(parts))
    return found
