"""An index of visual features, by which large banks are scanned: 4 bits for 4 numbers of a row.

    q . k  ~  sum over the parts of a row of q_p . c_p(k),   c_p(k) = the nearest of 16 centroids

(product quantization, Jegou et al., TPAMI 2011; sums by shuffles of a table in registers, faiss's
fast scan). A row of 256 numbers is 32 bytes. First the rows are found whose sums say that they may
be kept, and compared as they are stored. Only where one may be kept, the rows are found that are
similar enough to be the runner-up that keeps it out. So what is found is exactly as similar as the
question wants it; an edit whose code hides it is missed. `MissCounter` says how many are.

It is made of a bank's features alone, in memory, and says nothing of what the bank holds: rows that
were removed are left out by who asks. A row is coded once: blocks grow by windows, and edits of
another version keep their codes.
"""

import math
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
from liveedit_core.method.routing import RUNNER_UP_SHARE
from liveedit_core.method.shortlist import DOUBT, Search, found_as_stored
from liveedit_core.method.visual_key import VIEW_SHARE
from liveedit_core.row_lists import Codes, RowList, Rows, in_threads

if TYPE_CHECKING:
    import faiss

LEAST_EXPERTS = 50_000
"""Below, a scan takes less time than an index saves."""
LEAST_NEW = 1024
"""New rows that are coded together; fewer are scanned as they are."""
SHARE = 64
"""If the sums of more than one row of so many are large enough, a scan is as fast."""
_PART = 4
"""Numbers of a row that share a code of 4 bits."""
_ROWS_AT_ONCE = 131_072
"""At most, that one thread scans."""
_TRAINED_ROWS = 32_768
_CODED_AT_ONCE = 16_384
_MARGIN = 2.5
"""Standard deviations of what codes hide: rows with smaller sums are not compared
(`tests/benchmarks/key_index.py`)."""
_FIRST_COSINE = 0.4
"""Rows as similar are few: runners-up are found with what may be kept."""


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """Centroids of rows of one size, and how sums of codes are distributed around products."""

    quantizer: "faiss.ProductQuantizer"
    slope: float
    """Of a sum by the inner product that it stands for."""
    spread: float
    """Standard deviation from that, of a question of length 1."""
    length: float
    """Of the longest row."""

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
        return cls(
            quantizer=quantizer,
            slope=slope,
            spread=float(hidden.square().mean().sqrt()),
            length=float(some.norm(dim=1).max()),
        )

    def coded(self, rows_XR: Tensor) -> Codes:
        codes: Codes = self.quantizer.compute_codes(_filled_up(rows_XR))
        return codes


def _filled_up(rows_XR: Tensor) -> npt.NDArray[np.float32]:
    """With zeros at the end, so that the parts of a row are of one size, and even in number."""
    missing = -rows_XR.shape[1] % (2 * _PART)
    rows: npt.NDArray[np.float32] = functional.pad(rows_XR.float(), (0, missing)).numpy()
    return np.ascontiguousarray(rows)


@dataclass(frozen=True)
class CodedBlock:
    """The codes of some experts that follow each other; they never change."""

    codes: Codes
    lists: tuple[RowList, ...]

    @classmethod
    def of(cls, codebook: Codebook, codes: Codes) -> "CodedBlock":
        step = -(-len(codes) // -(-len(codes) // _ROWS_AT_ONCE))
        parts = ((codes[start : start + step], start) for start in range(0, len(codes), step))
        return cls(codes, tuple(RowList.of_products(codebook.quantizer, *part) for part in parts))


@dataclass(frozen=True, kw_only=True)
class KeyIndex:
    """The first experts of a repository, in blocks, each half as large as that before it or less;
    the others, few, are scanned as they are. Immutable."""

    codebook: Codebook
    blocks: tuple[CodedBlock, ...]
    edit_ids: Sequence[str]
    """Of the repository that it was made for."""
    segments: tuple[Tensor, ...]
    """The features of that repository."""

    @property
    def num_experts(self) -> int:
        return sum(len(block.codes) for block in self.blocks)

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
        if before is None:
            codebook = Codebook.trained(_sample(repository.visual))
        else:
            codebook = before.codebook
        blocks: list[CodedBlock] = []
        if before is not None and before._is_of(segments):
            blocks = list(before.blocks)
        elif before is not None:
            blocks = [CodedBlock.of(codebook, before._codes_for(repository))]
        start = sum(len(block.codes) for block in blocks)
        if len(repository.edit_ids) - start >= LEAST_NEW:
            row_X = torch.arange(start, len(repository.edit_ids))
            codes = _coded(codebook, repository.visual, row_X)
            blocks.append(CodedBlock.of(codebook, codes))
        while len(blocks) > 1 and 2 * len(blocks[-1].codes) > len(blocks[-2].codes):
            joined = np.concatenate([blocks[-2].codes, blocks[-1].codes])
            blocks[-2:] = [CodedBlock.of(codebook, joined)]
        return cls(
            codebook=codebook,
            blocks=tuple(blocks),
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

    def _codes_for(self, repository: ExpertRepository) -> Codes:
        """Of all experts of another repository: what depends on an edit alone is known already."""
        codes = np.concatenate([block.codes for block in self.blocks])
        place_of = {edit_id: n for n, edit_id in enumerate(self.edit_ids[: self.num_experts])}
        known_N = torch.tensor([place_of.get(edit_id, -1) for edit_id in repository.edit_ids])
        chosen: Codes = codes[known_N.clamp(min=0).numpy()]
        row_X = (known_N < 0).nonzero().flatten()
        if len(row_X):
            chosen[row_X.numpy()] = _coded(self.codebook, repository.visual, row_X)
        return chosen

    def find(
        self, search: Search, repository: ExpertRepository, config: GeneratorConfig
    ) -> Tensor | None:
        """`shortlist.scan` of a repository, without the experts that decide nothing; None where a
        scan is as fast."""
        found = [torch.zeros(0, dtype=torch.int64)]
        if not len(search.asked_QR):
            return found[0]
        rest_U = self._scanned_rest(search, repository)
        found.append(rest_U)
        products_UQ = repository.visual[rest_U].float() @ search.asked_QR.T
        for image in search.image_Q.unique().tolist():
            is_view_Q = search.image_Q == image
            rest = rest_U, products_UQ[:, is_view_Q].amax(1)
            position_U = self._found(search.where(is_view_Q), rest, repository, config)
            if position_U is None:
                return None
            found.append(position_U)
        listed_U: Tensor = torch.cat(found).unique()
        return listed_U

    def _found(
        self,
        views: Search,
        rest: tuple[Tensor, Tensor],
        repository: ExpertRepository,
        config: GeneratorConfig,
    ) -> Tensor | None:
        """Positions of coded experts for the views of one image, some of them twice; `rest` are
        experts that are not coded, and their inner products."""
        least, keep, offset, length = (float(part_Q[0]) for part_Q in views[1:5])
        features, same = repository.visual, (config.same_image_ratio - DOUBT) * length

        def rivals(row_X: Tensor, products_X: Tensor) -> list[float]:
            """Of experts that answer, but for those of the very image."""
            is_rival_X = products_X < same
            if repository.held_N is not None:
                is_rival_X &= repository.held_N[row_X]
            return products_X[is_rival_X].tolist()

        similar = _FIRST_COSINE * float(views.asked_QR[0].norm()) * self.codebook.length
        level = min(keep, max(least, similar))
        compared = self._compared(views, level, features)
        if compared is None and level < keep:
            level = keep
            compared = self._compared(views, level, features)
        if compared is None:
            return None
        best = max([-math.inf, *rivals(*rest), *rivals(*compared)])
        if best < keep:  # none is kept but those of the very image
            return compared[0][compared[1] >= same]
        # The best is kept, unless a runner-up is as similar as this.
        rival = (VIEW_SHARE * best - offset) / RUNNER_UP_SHARE
        if max(rival, least) < level:
            compared = self._compared(views, max(rival, least), features)
            if compared is None:
                return None
        row_X, products_X = compared
        return row_X[products_X >= least]

    def _compared(
        self, views: Search, level: float, features: FeatureRows
    ) -> tuple[Tensor, Tensor] | None:
        """Rows whose sums say that they may reach an inner product with some view, rising, and the
        largest of theirs; None where there are too many."""
        parts, start, tasks = [], 0, []
        for block in self.blocks:
            parts += [(start, rows) for rows in block.lists]
            start += len(block.codes)
        for asked_R in views.asked_QR:
            length = max(float(asked_R.norm()), 1e-20)
            bound = self.codebook.slope * level / length - _MARGIN * self.codebook.spread
            (row,) = _filled_up(asked_R[None] / length)
            tasks += [(*part, row, bound) for part in parts]

        def reaching(task: tuple[int, RowList, Rows, float]) -> Tensor:
            first, rows, asked, least = task
            return rows.reaching(asked, least) + first

        row_X = torch.cat(in_threads(reaching, tasks)).unique()
        if SHARE * len(row_X) > start:
            return None
        return row_X, (features[row_X].float() @ views.asked_QR.T).amax(1)

    def _scanned_rest(self, search: Search, repository: ExpertRepository) -> Tensor:
        """Positions of experts that are not coded yet."""
        count, start, found = self.num_experts, 0, [torch.zeros(0, dtype=torch.int64)]
        for segment_NK in segments_of(repository.visual):
            rest_NK = segment_NK[max(0, count - start) :]
            if len(rest_NK):
                found.append(found_as_stored(search, rest_NK) + max(start, count))
            start += len(segment_NK)
        return torch.cat(found)


def _coded(codebook: Codebook, features: FeatureRows, row_X: Tensor) -> Codes:
    parts = row_X.split(_CODED_AT_ONCE)
    return np.concatenate([codebook.coded(features[part]) for part in parts])


def _sample(features: FeatureRows) -> Tensor:
    """Rows from all over the bank, in mixed order."""
    draw = torch.Generator().manual_seed(0)
    row_X = torch.randint(len(features), (_TRAINED_ROWS,), generator=draw).unique()
    return features[row_X[torch.randperm(len(row_X), generator=draw)]].float()


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
