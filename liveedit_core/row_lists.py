"""Rows with a large inner product with a question, found by faiss in one pass over their codes."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    import faiss

Codes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class RowList:
    """Codes of some rows, and how they are scanned; immutable."""

    def __init__(self, index: "faiss.IndexIVF", codes: Codes | None = None) -> None:
        self._index = index
        self.codes = codes
        """As they are scanned, where these are bytes."""

    @classmethod
    def of_bytes(cls, codes_XR: Tensor, start: int = 0) -> "RowList":
        """Rows of numbers -128..127, stored as uint8, 128 larger; the first one is `start`."""
        import faiss

        kind, size = faiss.ScalarQuantizer.QT_8bit_direct_signed, codes_XR.shape[1]
        metric = faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexIVFScalarQuantizer(_one_list(size), size, 1, kind, metric, False)
        index.train(np.zeros((1, size), np.float32))
        _fill(index, codes_XR.numpy(), start)
        stored = faiss.rev_swig_ptr(index.invlists.get_codes(0), codes_XR.numel())
        return cls(index, stored.reshape(codes_XR.shape))

    @classmethod
    def of_products(
        cls, quantizer: "faiss.ProductQuantizer", codes: Codes, start: int
    ) -> "RowList":
        """Product-quantized rows, in 4 bits a part."""
        import faiss

        size, metric = quantizer.d, faiss.METRIC_INNER_PRODUCT
        plain = faiss.IndexIVFPQ(_one_list(size), size, 1, quantizer.M, 4, metric)
        plain.pq, plain.by_residual, plain.is_trained = quantizer, False, True
        _fill(plain, codes, start)
        packed = faiss.IndexIVFPQFastScan(plain)
        plain.reset()  # which the packed one holds on to
        return cls(packed)

    def reaching(self, asked_R: Rows, least: float) -> Tensor:
        """Rows whose inner product with a question is more than `least`, int64 [X]."""
        _, _, row_X = self._index.range_search(asked_R[None], least)
        return torch.from_numpy(row_X)


def _one_list(size: int) -> "faiss.IndexFlatIP":
    import faiss

    coarse = faiss.IndexFlatIP(size)
    coarse.add(np.zeros((1, size), np.float32))
    return coarse


def _fill(index: "faiss.IndexIVF", codes: Codes, start: int) -> None:
    import faiss

    codes = np.ascontiguousarray(codes)
    ids = np.arange(start, start + len(codes), dtype=np.int64)
    index.invlists.add_entries(0, len(codes), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    index.ntotal = len(codes)


def in_threads(action: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """What an action that waits for no other thread makes of each item, by as many threads as torch
    computes with."""
    results: dict[int, _Result] = {}
    places = iter(range(len(items)))

    def work() -> None:
        for place in places:
            results[place] = action(items[place])

    others = min(torch.get_num_threads(), len(items)) - 1
    pool = _pool(os.getpid()) if others > 0 else None
    helping = [pool.submit(work) for _ in range(others)] if pool else []
    work()
    for one in helping:
        if not one.cancel():  # it was begun
            one.result()
    return [results[place] for place in range(len(items))]


@cache
def _pool(_process: int) -> ThreadPoolExecutor:
    """Of this process: one that was forked has none of the threads."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="rows")
