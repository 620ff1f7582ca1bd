"""Visual features in 7 bits, to scan large banks for the few experts that may matter to a question.

    <q, k>  <=  s_q * s_k * <q8, k7>  +  |q - s_q * q8| * max|s_k * k7|  +  |q| * max|k - s_k * k7|

with the maxima over a block of rows. So nothing that reaches a similarity is missed; what is found
beyond it is compared by its stored features like the rest. A scan reads a quarter of the bytes of
float32.
Numbers are stored 64 larger, 0..127: the same bytes in faiss's scan, which is faster for one row
of a question, and in a product of matrices in int8, which is faster for more.

On a GPU rows are in bfloat16, and one product finds them, with a bound of its rounding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import starmap
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from liveedit_core.method.repository import FeatureRows, segments_of
from liveedit_core.row_lists import RowList, Rows, in_threads

LEAST_EXPERTS = 4096
"""In a segment; smaller ones are scanned as they are."""
BLOCK_NUMBERS = 2_097_152
"""Numbers of features that are scanned together, at most: products of all rows of a question read
them from a processor's second cache."""
FEW_ROWS = 1
"""Of questions: so many are scanned one by one."""
_ADDED = 64
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
    def rounded_RQ(self) -> Tensor:
        """int8."""
        rounded_QR = torch.from_numpy(np.stack([row.rounded_R for row in self.rows]))
        return rounded_QR.to(torch.int8).T.contiguous()


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

    def reaching(self, asked: Questions) -> Tensor:
        """Positions of the experts that some question may find, int64 [U], some of them twice."""
        least = [self._least(row) for row in asked.rows]
        if len(least) > FEW_ROWS:
            codes_XR = torch.from_numpy(self.rows.codes).view(torch.int8)
            products_XQ = torch._int_mm(codes_XR, asked.rounded_RQ).numpy()
            pairs = zip(least, asked.rows, strict=True)
            least_Q = np.array([bound + _ADDED * row.total for bound, row in pairs])
            # Flat arrays are compared in a fifth of the time.
            least_X = np.tile(least_Q.astype(np.int32), len(products_XQ))
            place_U = np.flatnonzero(products_XQ.ravel() >= least_X)
            return torch.from_numpy(place_U // len(least) + self.first)
        # faiss takes 128 from stored numbers, and finds what is more than a bound.
        bounds = [
            bound - (128 - _ADDED) * row.total - 0.5
            for bound, row in zip(least, asked.rows, strict=True)
        ]
        rows = (row.rounded_R for row in asked.rows)
        return torch.cat([self.rows.reaching(*pair) for pair in zip(rows, bounds, strict=True)])

    def _least(self, row: AskedRow) -> float:
        """The product of rounded numbers from which on a row may be found, a whole number."""
        slack = row.error * self.length + row.length * self.error
        least = (row.least - slack) / (row.scale * self.scale)
        return math.floor(min(max(least - 1e-6 * abs(least), -(2.0**30)), 2.0**30))


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

    def reaching(self, asked: Questions) -> Tensor:
        """Positions of the experts that some question may find, int64 [U]."""
        least_Q = asked.least_Q - _HALF_ROUNDING * asked.asked_QR.norm(dim=1) * self.length
        products_XQ = self.rows_XR @ asked.asked_QR.to(torch.bfloat16).T
        position_U: Tensor = (products_XQ.float() >= least_Q).any(1).nonzero().flatten()
        return position_U


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


def found_in(segments: Sequence[QuantizedSegment], asked: Questions) -> list[Tensor]:
    """Of each segment that has blocks, positions of the experts that some question finds and of
    others that are nearly as similar, int64 [U], some of them twice."""
    tasks = [(number, block) for number, part in enumerate(segments) for block in part.blocks]
    if len(asked.asked_QR) > FEW_ROWS or asked.asked_QR.device.type != "cpu":
        # A product uses all threads.
        reached = [block.reaching(asked) for _, block in tasks]
    else:
        _ = asked.rows  # for all threads
        reached = in_threads(lambda task: task[1].reaching(asked), tasks)
    parts: dict[int, list[Tensor]] = {}
    for (number, _), position_U in zip(tasks, reached, strict=True):
        parts.setdefault(number, []).append(position_U)
    nothing_U = [torch.zeros(0, dtype=torch.int64)]
    return [torch.cat(parts.get(number, nothing_U)).cpu() for number in range(len(segments))]
