"""An index of visual features, by which large banks are scanned: 4 bits for 8 numbers of a row.

    q . k  ~  sum over the parts of a row of q_p . c_p(k),   c_p(k) = the nearest of 16 centroids

(product quantization, Jegou et al., TPAMI 2011; sums by shuffles of a table in registers, faiss's
fast scan). A row of 256 numbers is 16 bytes. Of each block the rows with the largest sums, 1 of
`SHARE`, are compared as they are stored. So what is found is exactly as similar as the question
wants it; an edit whose code hides it is missed. `MissCounter` says how many are.

It is made of a bank's features alone, in memory, and says nothing of what the bank holds: rows that
were removed are left out by who asks. A row is coded once: blocks grow by windows, and edits of
another version keep their codes.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.repository import ExpertRepository, FeatureRows, segments_of
from liveedit_core.method.shortlist import Search, products_of, scanned_shape

if TYPE_CHECKING:
    import faiss

LEAST_EXPERTS = 50_000
"""Below, the scan in int8 takes less time than an index saves."""
LEAST_NEW = 1024
"""New rows that are coded together; fewer are scanned as they are."""
SHARE = 512
"""One row of so many is compared as it is stored (`tests/benchmarks/key_index.py`)."""
LEAST_ROWS, MOST_ROWS = 64, 4096
"""Of a block."""
_PART = 8
"""Numbers of a row that share a code of 4 bits."""
_TRAINED_ROWS = 32_768
_CODED_AT_ONCE = 16_384
_MARGIN = 4.0
"""Standard deviations of what codes hide: rows with smaller sums are not compared."""

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """Centroids of rows of one size, and how sums of codes are distributed around products."""

    quantizer: "faiss.ProductQuantizer"
    slope: float
    """Of a sum by the inner product that it stands for."""
    spread: float
    """Standard deviation from that, of a question of length 1."""

    @classmethod
    def trained(cls, rows_XR: Tensor) -> "Codebook":
        """From a sample of rows."""
        import faiss

        rows = _filled_up(rows_XR)
        quantizer = faiss.ProductQuantizer(rows.shape[1], rows.shape[1] // _PART, 4)
        quantizer.train(rows)
        some = torch.from_numpy(rows[:4096])
        decoded = torch.from_numpy(quantizer.decode(quantizer.compute_codes(rows[:4096])))
        slope = float((some * decoded).sum() / some.square().sum().clamp(min=1e-20))
        asked = functional.normalize(some[:256], dim=1)
        hidden = asked @ decoded.T - slope * (asked @ some.T)
        hidden.fill_diagonal_(0)
        return cls(quantizer=quantizer, slope=slope, spread=float(hidden.square().mean().sqrt()))

    def coded(self, rows_XR: Tensor) -> Codes:
        codes: Codes = self.quantizer.compute_codes(_filled_up(rows_XR))
        return codes

    def packed(self, codes: Codes) -> "faiss.IndexPQFastScan":
        """Codes as they are scanned."""
        import faiss

        size, parts = self.quantizer.d, self.quantizer.M
        plain = faiss.IndexPQ(size, parts, 4, faiss.METRIC_INNER_PRODUCT)
        plain.pq, plain.is_trained = self.quantizer, True
        plain.add_sa_codes(codes)
        return faiss.IndexPQFastScan(plain)


def _filled_up(rows_XR: Tensor) -> npt.NDArray[np.float32]:
    """With zeros at the end, so that the parts of a row are of one size, and even in number."""
    missing = -rows_XR.shape[1] % (2 * _PART)
    rows: npt.NDArray[np.float32] = functional.pad(rows_XR.float(), (0, missing)).numpy()
    return np.ascontiguousarray(rows)


@dataclass(frozen=True)
class CodedBlock:
    """The codes of some experts that follow each other; they never change."""

    codes: Codes
    packed: "faiss.IndexPQFastScan"

    @classmethod
    def of(cls, codebook: Codebook, codes: Codes) -> "CodedBlock":
        return cls(codes, codebook.packed(codes))

    def best(self, asked_QR: npt.NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """The largest sums of each question, falling, and their rows; two [Q, X]."""
        num_rows = len(self.codes)
        count = min(num_rows, max(LEAST_ROWS, num_rows // SHARE), MOST_ROWS)
        sums, rows = self.packed.search(asked_QR, count)
        return torch.from_numpy(sums), torch.from_numpy(rows)


@dataclass(frozen=True, kw_only=True)
class KeyIndex:
    """The first experts of a repository, in blocks, each half as large as that before it or less;
    the others, few, are scanned as they are. Immutable."""

    codebook: Codebook
    blocks: tuple[CodedBlock, ...]
    num_rows: int
    """Of each expert."""
    edit_ids: Sequence[str]
    """Of the repository that it was made for."""
    segments: tuple[Tensor, ...]
    """The features of that repository."""

    @property
    def num_experts(self) -> int:
        return sum(len(block.codes) for block in self.blocks) // self.num_rows

    @classmethod
    def of(
        cls, repository: ExpertRepository, config: GeneratorConfig, before: "KeyIndex | None" = None
    ) -> "KeyIndex | None":
        """The index of a repository; rows that one before it has coded are not coded again. None
        where a scan is as fast, or all that passes may be kept."""
        segments = tuple(segments_of(repository.visual))
        is_bounded = config.has_hard_filter and config.max_kept > 0
        if len(repository.edit_ids) < LEAST_EXPERTS or not is_bounded or segments[0].is_cuda:
            return None
        width, size = scanned_shape(config)
        num_rows = width // size
        if before is None:
            codebook = Codebook.trained(_sample(repository.visual, num_rows, size))
        else:
            codebook = before.codebook
        blocks: list[CodedBlock] = []
        if before is not None and before._is_of(segments):
            blocks = list(before.blocks)
        elif before is not None:
            blocks = [CodedBlock.of(codebook, before._codes_for(repository, size))]
        start = sum(len(block.codes) for block in blocks) // num_rows
        if len(repository.edit_ids) - start >= LEAST_NEW:
            row_X = torch.arange(start * num_rows, len(repository.edit_ids) * num_rows)
            codes = _coded(codebook, repository.visual, row_X, num_rows, size)
            blocks.append(CodedBlock.of(codebook, codes))
        while len(blocks) > 1 and 2 * len(blocks[-1].codes) > len(blocks[-2].codes):
            joined = np.concatenate([blocks[-2].codes, blocks[-1].codes])
            blocks[-2:] = [CodedBlock.of(codebook, joined)]
        return cls(
            codebook=codebook,
            blocks=tuple(blocks),
            num_rows=num_rows,
            edit_ids=repository.edit_ids,
            segments=segments,
        )

    def _is_of(self, segments: Sequence[Tensor]) -> bool:
        """Whether these are the same rows in memory, and perhaps more."""
        pairs = zip(self.segments, segments, strict=False)
        return len(segments) >= len(self.segments) and all(
            not len(own) or (own.data_ptr() == more.data_ptr() and len(own) <= len(more))
            for own, more in pairs
        )

    def _codes_for(self, repository: ExpertRepository, size: int) -> Codes:
        """Of all experts of another repository: what depends on an edit alone is known already."""
        codes = np.concatenate([block.codes for block in self.blocks])
        codes = codes.reshape(self.num_experts, self.num_rows, -1)
        place_of = {edit_id: n for n, edit_id in enumerate(self.edit_ids[: self.num_experts])}
        known_N = torch.tensor([place_of.get(edit_id, -1) for edit_id in repository.edit_ids])
        chosen: Codes = codes[known_N.clamp(min=0).numpy()].reshape(-1, codes.shape[-1])
        new = (known_N < 0).nonzero()
        row_X = (new * self.num_rows + torch.arange(self.num_rows)).flatten()
        if len(row_X):
            found = _coded(self.codebook, repository.visual, row_X, self.num_rows, size)
            chosen[row_X.numpy()] = found
        return chosen

    def find(self, search: Search, features: FeatureRows) -> Tensor | None:
        """`shortlist.scan` of a repository's features; None where so many may be kept that they do
        not fit into what is compared."""
        asked_QR, least_Q, keep_Q = search
        if not len(asked_QR):
            return torch.zeros(0, dtype=torch.int64)
        size, length_Q1 = asked_QR.shape[1], asked_QR.norm(dim=1, keepdim=True).clamp(min=1e-20)
        asked = _filled_up(asked_QR / length_Q1)
        floor_Q1 = self.codebook.slope * least_Q[:, None] / length_Q1
        floor_Q1 = floor_Q1 - _MARGIN * self.codebook.spread
        found, start = [self._scanned_rest(search, features)], 0
        for block in self.blocks:
            sums_QX, row_QX = block.best(asked)
            count_Q = (sums_QX >= floor_Q1).sum(1).tolist()
            for question, count in enumerate(count_Q):
                if not count:
                    continue
                row_X = row_QX[question, :count] + start
                row_X = row_X.sort().values if len(self.segments) > 1 else row_X
                products_X = stored_rows(features, row_X, self.num_rows, size) @ asked_QR[question]
                is_cut_off = count == row_QX.shape[1] < len(block.codes)
                if is_cut_off and 2 * int((products_X >= keep_Q[question]).sum()) > count:
                    return None
                found.append(row_X[products_X >= least_Q[question]] // self.num_rows)
            start += len(block.codes)
        position_U: Tensor = torch.cat(found).unique()
        return position_U

    def _scanned_rest(self, search: Search, features: FeatureRows) -> Tensor:
        """Positions of experts that are not coded yet."""
        count, start, found = self.num_experts, 0, [torch.zeros(0, dtype=torch.int64)]
        for segment_NK in segments_of(features):
            rest_NK = segment_NK[max(0, count - start) :]
            place = max(start, count)
            start += len(segment_NK)
            if len(rest_NK):
                width = self.num_rows * search.asked_QR.shape[1]
                for products_XQ in products_of(search.asked_QR, rest_NK, width):
                    hits_X = (products_XQ >= search.least_Q).any(1).view(-1, self.num_rows).any(1)
                    found.append(hits_X.nonzero().flatten() + place)
                    place += len(hits_X)
        return torch.cat(found)


def stored_rows(features: FeatureRows, row_X: Tensor, num_rows: int, size: int) -> Tensor:
    """Some rows of experts, of `num_rows` each, [X, size] float32; rising where there are several
    segments."""
    parts, start = [], 0
    for segment_NK in segments_of(features):
        here_X, count = row_X, len(segment_NK)
        if count != len(features):
            bounds = torch.tensor([start, start + count]) * num_rows
            first, last = torch.searchsorted(row_X, bounds).tolist()
            here_X = row_X[first:last] - start * num_rows
        if len(here_X):
            parts.append(_rows_of(segment_NK, here_X, num_rows, size).float())
        start += count
    return torch.cat(parts) if len(parts) != 1 else parts[0]


def _rows_of(segment_NK: Tensor, row_X: Tensor, num_rows: int, size: int) -> Tensor:
    width = segment_NK.shape[1]
    if segment_NK.is_contiguous() and width == num_rows * size:
        return segment_NK.view(-1, size).index_select(0, row_X)
    rows: Tensor = segment_NK[:, : num_rows * size].unflatten(1, (num_rows, size))
    return rows[row_X // num_rows, row_X % num_rows]


def _coded(
    codebook: Codebook, features: FeatureRows, row_X: Tensor, num_rows: int, size: int
) -> Codes:
    parts = row_X.split(_CODED_AT_ONCE)
    coded = [codebook.coded(stored_rows(features, part, num_rows, size)) for part in parts]
    return np.concatenate(coded)


def _sample(features: FeatureRows, num_rows: int, size: int) -> Tensor:
    """Rows from all over the bank, in mixed order."""
    total = len(features) * num_rows
    draw = torch.Generator().manual_seed(0)
    row_X = torch.randint(total, (_TRAINED_ROWS,), generator=draw).unique()
    rows_XR = stored_rows(features, row_X, num_rows, size)
    return rows_XR[torch.randperm(len(rows_XR), generator=draw)]


class MissCounter:
    """Compares the index with a full scan for one question of `every`, in a thread beside."""

    def __init__(self, every: int = 256) -> None:
        self.every = every
        self.num_questions = 0
        """That the index answered."""
        self.num_checked = 0
        self.num_passed = 0
        """Experts that pass in a full scan, of all questions that were checked."""
        self.num_missed = 0
        self.num_added = 0
        """Experts that pass only as a runner-up was missed."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def sample(self, num_questions: int, compare: Callable[[], tuple[int, int, int]]) -> None:
        """Count questions; `compare` gives the three numbers of experts."""
        with self._lock:
            is_due = self.num_questions % self.every < num_questions
            self.num_questions += num_questions
            if not is_due or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(
                target=self._count, args=(num_questions, compare), name="index check", daemon=True
            )
            self._thread.start()

    def _count(self, num_questions: int, compare: Callable[[], tuple[int, int, int]]) -> None:
        passed, missed, added = compare()
        with self._lock:
            self.num_checked += num_questions
            self.num_passed += passed
            self.num_missed += missed
            self.num_added += added

    def wait(self) -> None:
        """Until no check is running."""
        thread = self._thread
        if thread is not None:
            thread.join()
