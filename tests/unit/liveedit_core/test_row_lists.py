"""Rows in faiss lists: what is found is what reaches the bound, on any number of threads."""

import threading
from collections.abc import Iterator

import faiss
import numpy as np
import pytest
import torch

from liveedit_core.row_lists import RowList, in_threads


@pytest.fixture(params=[1, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [4, 64, 256])
def test_bytes_are_numbers_less_128(size: int) -> None:
    draw = torch.Generator().manual_seed(0)
    codes_XR = torch.randint(256, (500, size), generator=draw).to(torch.uint8)
    asked_R = torch.randint(-127, 128, (size,), generator=draw).float()
    products_X = (codes_XR.float() - 128) @ asked_R
    rows = RowList.of_bytes(codes_XR, start=7)
    assert rows.codes is not None
    assert np.array_equal(rows.codes, codes_XR.numpy())
    for least in products_X.quantile(torch.tensor([0.0, 0.5, 0.99])).floor().tolist():
        expected = (products_X > least + 0.5).nonzero().flatten() + 7
        assert rows.reaching(asked_R.numpy(), least + 0.5).tolist() == expected.tolist()


def test_sums_of_products_are_near_those_of_decoded_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    rows_XR = torch.randn(2000, 64, generator=draw).numpy()
    quantizer = faiss.ProductQuantizer(64, 16, 4)
    quantizer.train(rows_XR)
    codes = quantizer.compute_codes(rows_XR)
    rows = RowList.of_products(quantizer, codes, start=7)
    asked_R = torch.randn(64, generator=draw).numpy()
    sums = quantizer.decode(codes) @ asked_R
    for bound in (0.0, 10.0):
        found = np.isin(np.arange(2000), rows.reaching(asked_R, bound).numpy() - 7)
        assert found[sums > bound + 0.3].all()
        assert not found[sums < bound - 0.3].any()


def test_results_come_in_order_from_as_many_threads_as_torch_has(num_threads: int) -> None:
    together = threading.Barrier(num_threads, timeout=60)

    def action(item: int) -> tuple[int, str]:
        if item < num_threads:
            together.wait()
        return item * item, threading.current_thread().name

    results = in_threads(action, range(50))
    assert [square for square, _ in results] == [item * item for item in range(50)]
    assert len({name for _, name in results}) == num_threads
    assert in_threads(action, []) == []


def test_what_an_action_raises_is_raised(num_threads: int) -> None:
    def action(item: int) -> int:
        if item == 30:
            raise ValueError("item 30")
        return item

    with pytest.raises(ValueError, match="item 30"):
        in_threads(action, range(50))
