"""The scan in int8: what reaches a similarity is found, and rows are rounded once."""

import pytest
import torch
from torch.nn import functional

from liveedit_core.method import quantized as module
from liveedit_core.method.growing import GrowingRepository
from liveedit_core.method.quantized import (
    TOP_LEVEL,
    Found,
    HalfRows,
    QuantizedRows,
    QuantizedSegment,
    Questions,
    found_in,
    level_step,
    quantized,
)
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.shortlist import Search, as_they_are, scan
from tests.fake_cuda import fake_gpu
from tests.random_states import random_expert
from tests.tiny_backbone import TINY_CONFIG


def one(
    block: QuantizedRows, asked_QR: torch.Tensor, least: float, top: float = torch.inf
) -> Found:
    """What questions find in one block."""
    levels = (torch.full((len(asked_QR),), level) for level in (least, top))
    segment = QuantizedSegment(torch.zeros(0), (block,))
    (found,) = found_in([segment], Questions(asked_QR, *levels))
    return found


@pytest.mark.parametrize("count", [1, module.FEW_ROWS, module.FEW_ROWS + 1, 20])
def test_rows_that_reach_a_product_are_found_and_few_others(count: int) -> None:
    draw = torch.Generator().manual_seed(0)
    rows_XR = 3 * functional.normalize(torch.randn(2000, 64, generator=draw), dim=1)
    asked_QR = functional.normalize(torch.randn(count, 64, generator=draw), dim=1)
    products_XQ = rows_XR @ asked_QR.T
    block = QuantizedRows.of(rows_XR, first=7)
    for least in (-1.0, 0.0, 0.7, 1.2):
        found_U, _ = one(block, asked_QR, least)
        is_found_X = torch.zeros(2007, dtype=torch.bool).index_fill_(0, found_U, True)[7:]
        assert is_found_X[(products_XQ >= least).any(1)].all()
        assert not is_found_X[(products_XQ < least - 0.15).all(1)].any()
    assert not len(one(block, asked_QR, 1e30).position_U)


@pytest.mark.parametrize("count", [2, 8, 30])
def test_no_product_is_larger_than_its_level_says(count: int) -> None:
    draw = torch.Generator().manual_seed(0)
    rows_XR = functional.normalize(torch.randn(2000, 64, generator=draw), dim=1)
    asked_QR = functional.normalize(rows_XR[:count] + 0.1, dim=1)
    products_XQ = rows_XR @ asked_QR.T
    block = QuantizedRows.of(rows_XR)
    for least, top in ((0.0, 1.0), (0.3, 0.7), (-0.5, 1.0)):
        found_U, level_UQ = one(block, asked_QR, least, top)
        assert level_UQ is not None
        most_UQ = least + level_UQ * level_step(least, top)
        is_told_UQ = level_UQ < TOP_LEVEL
        assert is_told_UQ.any()
        assert (products_XQ[found_U] <= most_UQ)[is_told_UQ].all()
        assert (products_XQ[found_U] > most_UQ - 0.15)[is_told_UQ & (level_UQ > 0)].all()
    for least, top in ((-1e30, 1.0), (0.5, 0.5), (0.5, torch.inf)):
        assert level_step(least, top) == torch.inf
        is_found_X = torch.zeros(2000, dtype=torch.bool)
        is_found_X[one(block, asked_QR, least, top).position_U] = True
        assert is_found_X[(products_XQ >= least).any(1)].all()


@pytest.mark.parametrize("count", [1, module.FEW_ROWS + 1])
@pytest.mark.parametrize("value", [0.0, 1e-38, 1e30])
def test_zero_and_extreme_rows(value: float, count: int) -> None:
    block = QuantizedRows.of(torch.full((3, 4), value))
    for row_QR, least in ((torch.ones(count, 4), 4 * value), (torch.zeros(count, 4), 0.0)):
        found_U, _ = one(block, row_QR, least)
        assert found_U.unique().tolist() == [0, 1, 2]


def test_all_that_reach_a_product_are_found_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_EXPERTS", 2)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 64 * 100)
    draw = torch.Generator().manual_seed(0)
    features_NK = functional.normalize(torch.randn(1000, 64, generator=draw), dim=-1)
    segment = QuantizedSegment.of(features_NK)
    firsts = [block.first for block in segment.blocks if isinstance(block, QuantizedRows)]
    assert firsts == list(range(0, 1000, 100))
    asked_QR = features_NK[:2] + 0.05
    asked = Questions(asked_QR, torch.full((2,), 0.3), torch.full((2,), torch.inf))
    ((found_U, _),) = found_in([segment], asked)
    near = (features_NK @ asked_QR.T >= 0.3).any(1).nonzero().flatten().tolist()
    assert set(near) <= set(found_U.tolist())
    assert len(found_U.unique()) < 2 * len(near)


def test_only_new_segments_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_EXPERTS", 2)
    first = [random_expert(n, TINY_CONFIG) for n in range(4)]
    bank = GrowingRepository(ExpertRepository.from_experts(TINY_CONFIG, first))
    before = quantized(bank.snapshot().visual)
    bank.add([random_expert(4, TINY_CONFIG)])
    grown = quantized(bank.snapshot().visual, before)
    assert [len(segment.features_NK) for segment in grown] == [4, 1]
    assert grown[0] is before[0]
    assert [len(segment.blocks) for segment in grown] == [1, 0]
    bank.add([random_expert(5, TINY_CONFIG)])
    later = quantized(bank.snapshot().visual, grown)
    assert [len(segment.blocks) for segment in later] == [1, 1]
    assert later[0] is before[0]


def test_other_features_are_rounded_anew() -> None:
    one = QuantizedSegment.of(torch.randn(module.LEAST_EXPERTS, 4))
    assert one.blocks
    (other,) = quantized(torch.randn(module.LEAST_EXPERTS, 4), (one,))
    assert other is not one


def test_on_a_gpu_one_product_in_bfloat16_finds_all_and_few_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LEAST_EXPERTS", 2)
    draw = torch.Generator().manual_seed(0)
    features_NK = functional.normalize(torch.randn(1000, 64, generator=draw), dim=-1)
    asked_QR = features_NK[:5] + 0.05
    least_Q = torch.full((5,), 0.35)
    expected = scan(Search(asked_QR, *[least_Q] * 5), as_they_are(features_NK)).position_U
    with fake_gpu():
        scanned = quantized(features_NK.to("cuda"))
        blocks = [block for segment in scanned for block in segment.blocks]
        halves = [block for block in blocks if isinstance(block, HalfRows)]
        assert [block.rows_XR.dtype for block in halves] == [torch.bfloat16]
        numbers = [least_Q.to("cuda")] * 5
        found_U, _ = scan(Search(asked_QR.to("cuda"), *numbers), scanned)
    assert set(expected.tolist()) < set(found_U.tolist())
    assert 0 < len(expected) < len(found_U) < 2 * len(expected)
