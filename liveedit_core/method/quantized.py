"""Visual features in int8, to scan large banks for the few experts that may matter to a question.

    <q, k>  <=  s_q * s_k * <q8, k8>  +  |q - s_q * q8| * max|s_k * k8|  +  |q| * max|k - s_k * k8|

with the maxima over a block of rows. So nothing that reaches a similarity is missed, and what is
found beyond it is compared exactly afterwards. A scan reads a quarter of the bytes of float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit_core.method.repository import FeatureRows, segments_of

LEAST_EXPERTS = 4096
"""In a segment; smaller ones are scanned as they are."""
BLOCK_NUMBERS = 4_194_304
"""Numbers of features in one product; their products stay in the processor's cache."""
_TINY = 1e-20
"""Smaller numbers are rounded to zero."""


@dataclass(frozen=True, kw_only=True)
class QuantizedRows:
    """Some rows, and how much rounding can change their inner products."""

    rows_XR: Tensor
    """int8."""
    scale: float
    length: float
    """Of the longest rounded row."""
    error: float
    """Of the row that rounding moves most."""

    @classmethod
    def of(cls, rows_XR: Tensor) -> "QuantizedRows":
        rows_XR = rows_XR.float()
        scale = max(float(rows_XR.abs().max()), _TINY) / 127
        rounded_XR = (rows_XR / scale).round_()
        return cls(
            rows_XR=rounded_XR.to(torch.int8),
            scale=scale,
            length=scale * float(rounded_XR.norm(dim=1).max()),
            error=float((rows_XR - rounded_XR * scale).norm(dim=1).max()),
        )

    def reaching(self, asked: "QuantizedQuestions", num_rows: int) -> Tensor:
        """Which experts, each of `num_rows` rows, some question may find, bool [X / num_rows]."""
        slack_Q = asked.error_Q * self.length + asked.length_Q * self.error
        least_Q = ((asked.least_Q - slack_Q) / (asked.scale_Q * self.scale)).floor()
        products_XQ = torch._int_mm(self.rows_XR, asked.rows_RQ)
        is_found_XQ = products_XQ >= least_Q.clamp(-(2**30), 2**30).int()
        return is_found_XQ.view(len(products_XQ) // num_rows, -1).any(1)


@dataclass(frozen=True, kw_only=True)
class QuantizedQuestions:
    """Rows of questions, and the inner product from which on a row of an expert is found."""

    rows_RQ: Tensor
    """int8."""
    scale_Q: Tensor
    length_Q: Tensor
    """Of each row."""
    error_Q: Tensor
    """How far rounding moves it."""
    least_Q: Tensor

    @classmethod
    def of(cls, asked_QR: Tensor, least_Q: Tensor) -> "QuantizedQuestions":
        scale_Q1 = asked_QR.abs().amax(1, keepdim=True).clamp(min=_TINY) / 127
        rounded_QR = (asked_QR / scale_Q1).round()
        return cls(
            rows_RQ=rounded_QR.to(torch.int8).T.contiguous(),
            scale_Q=scale_Q1[:, 0],
            length_Q=asked_QR.norm(dim=1),
            error_Q=(asked_QR - rounded_QR * scale_Q1).norm(dim=1),
            least_Q=least_Q,
        )


@dataclass(frozen=True)
class QuantizedSegment:
    """A segment of features whose rows never change."""

    features_NK: Tensor
    blocks: tuple[QuantizedRows, ...]
    """() where it is scanned as it is."""

    @classmethod
    def of(cls, features_NK: Tensor, width: int, size: int) -> "QuantizedSegment":
        """Of the first `width` numbers of each feature, as rows of `size` numbers."""
        if len(features_NK) < LEAST_EXPERTS or features_NK.device.type != "cpu":
            return cls(features_NK, ())
        parts = features_NK.split(max(1, BLOCK_NUMBERS // width))
        blocks = (QuantizedRows.of(part[:, :width].reshape(-1, size)) for part in parts)
        return cls(features_NK, tuple(blocks))

    def holds(self, features_NK: Tensor) -> bool:
        """Whether these are the same rows in memory."""
        own = self.features_NK
        return own.data_ptr() == features_NK.data_ptr() and own.shape == features_NK.shape


def quantized(
    features: FeatureRows, width: int, size: int, before: Sequence[QuantizedSegment] = ()
) -> tuple[QuantizedSegment, ...]:
    """All segments; those that are the same as `before` are taken from there."""
    old = iter(before)
    return tuple(
        one
        if (one := next(old, None)) and one.holds(part)
        else QuantizedSegment.of(part, width, size)
        for part in segments_of(features)
    )
