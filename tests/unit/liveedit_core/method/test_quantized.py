"""The scan in int8: what reaches a similarity is found, and rows are rounded once."""

import pytest
import torch
from torch.nn import functional

from liveedit_core.method import quantized as module
from liveedit_core.method.growing import GrowingRepository
from liveedit_core.method.quantized import (
    QuantizedQuestions,
    QuantizedRows,
    QuantizedSegment,
    quantized,
)
from liveedit_core.method.repository import ExpertRepository
from tests.random_states import random_expert
from tests.tiny_backbone import TINY_CONFIG


def test_rows_that_reach_a_product_are_found_and_few_others() -> None:
    draw = torch.Generator().manual_seed(0)
    rows_XR = 3 * functional.normalize(torch.randn(2000, 64, generator=draw), dim=1)
    asked_QR = functional.normalize(torch.randn(5, 64, generator=draw), dim=1)
    products_XQ = rows_XR @ asked_QR.T
    block = QuantizedRows.of(rows_XR)
    for least in (-1.0, 0.0, 0.7, 1.2):
        found_X = block.reaching(QuantizedQuestions.of(asked_QR, torch.full((5,), least)), 1)
        assert found_X[(products_XQ >= least).any(1)].all()
        assert not found_X[(products_XQ < least - 0.1).all(1)].any()
    asked = QuantizedQuestions.of(asked_QR, torch.full((5,), 1e30))
    assert not block.reaching(asked, 1).any()
    asked = QuantizedQuestions.of(asked_QR[:1], torch.tensor([0.7]))
    pairs_X = block.reaching(asked, 1).view(-1, 2).any(1)
    assert torch.equal(block.reaching(asked, 2), pairs_X)


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e30])
def test_zero_and_extreme_rows(value: float) -> None:
    rows_XR = torch.full((3, 4), value)
    block = QuantizedRows.of(rows_XR)
    for row_QR, least in ((torch.ones(1, 4), 4 * value), (torch.zeros(1, 4), 0.0)):
        assert block.reaching(QuantizedQuestions.of(row_QR, torch.tensor([least])), 1).all()


def test_only_new_segments_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_EXPERTS", 2)
    first = [random_expert(n, TINY_CONFIG) for n in range(4)]
    bank = GrowingRepository(ExpertRepository.from_experts(TINY_CONFIG, first))
    shape = TINY_CONFIG.feature_size, TINY_CONFIG.feature_size
    before = quantized(bank.snapshot().visual, *shape)
    bank.add([random_expert(4, TINY_CONFIG)])
    grown = quantized(bank.snapshot().visual, *shape, before)
    assert [len(segment.features_NK) for segment in grown] == [4, 1]
    assert grown[0] is before[0]
    assert [len(segment.blocks) for segment in grown] == [1, 0]
    bank.add([random_expert(5, TINY_CONFIG)])
    later = quantized(bank.snapshot().visual, *shape, grown)
    assert [len(segment.blocks) for segment in later] == [1, 1]
    assert later[0] is before[0]


def test_other_features_are_rounded_anew() -> None:
    one = QuantizedSegment.of(torch.randn(module.LEAST_EXPERTS, 4), 4, 4)
    assert one.blocks
    (other,) = quantized(torch.randn(module.LEAST_EXPERTS, 4), 4, 4, (one,))
    assert other is not one
