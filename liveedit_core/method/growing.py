"""Experts of a model that learns: one more edit, or one less, costs the same in a bank of any size.

    rows of the first repository | rows added later, in segments
    held                         : which rows answer

A row never moves, and none is written twice. So a repository that was handed out stays as it was,
while more rows are added behind it; one that is not held answers no more, and can be held again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.method.expert import Expert
from liveedit_core.method.repository import (
    ExpertRepository,
    FeatureRows,
    Slots,
    hashes_of,
    read_slots,
    segments_of,
)
from liveedit_core.method.routing import has_image

SEGMENT_ROWS = 4096


class SegmentedRows:
    """The first `num_rows` rows of some matrices, one after the other; zeros fill up rows that are
    stored without the zeros at their end."""

    def __init__(self, segments: Sequence[Tensor], num_rows: int, *, width: int = 0) -> None:
        self._segments = segments
        self._num_rows = num_rows
        self.width = width or segments[0].shape[1]
        sizes = torch.tensor([0, *map(len, segments[:-1])])
        self._starts = sizes.cumsum(0)

    def __len__(self) -> int:
        return self._num_rows

    def stored_segments(self) -> Iterator[Tensor]:
        """All rows, in order, as they are stored."""
        for segment, start in zip(self._segments, self._starts.tolist(), strict=True):
            yield segment[: max(0, self._num_rows - start)]

    def segments(self) -> Iterator[Tensor]:
        """All rows, in order."""
        for rows in self.stored_segments():
            missing = self.width - rows.shape[1]
            yield functional.pad(rows, (0, missing)) if missing else rows

    def __getitem__(self, index_U: Tensor) -> Tensor:
        rows_UK = self._segments[0].new_zeros(len(index_U), self.width)
        number_U = torch.bucketize(index_U, self._starts, right=True) - 1
        for number in number_U.unique().tolist():
            is_here_U = number_U == number
            places = index_U[is_here_U] - self._starts[number]
            segment = self._segments[number]
            rows_UK[is_here_U, : segment.shape[1]] = segment[places]
        return rows_UK


class GrownSlots:
    """One factor: the first repository's, then that of each added expert."""

    def __init__(self, first: Slots, ranks_N: Tensor, added: Sequence[Tensor], size: int) -> None:
        self._first = first
        self._ranks_N = ranks_N
        self._added = added
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index_U: Tensor) -> Tensor:
        count = len(self._ranks_N)
        first = index_U[index_U < count]
        ranks = self._ranks_N[first].tolist()
        stored = iter(read_slots(self._first, self._ranks_N, first).split(ranks) if ranks else ())
        parts = [next(stored) if n < count else self._added[n - count] for n in index_U.tolist()]
        return torch.cat(parts) if parts else read_slots(self._first, self._ranks_N, first)


class _Prefix(Sequence[str]):
    """The beginning of a list that only grows."""

    def __init__(self, items: list[str], size: int) -> None:
        self._items = items
        self._size = size

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self._items[: self._size][index]
        if not -self._size <= index < self._size:
            raise IndexError(index)
        return self._items[index % self._size]


class _Column:
    """One number a row, in a tensor that is copied into a larger one when it is full."""

    def __init__(self, values_N: Tensor) -> None:
        self._values = values_N.clone()
        self.size = len(values_N)

    def view(self) -> Tensor:
        return self._values[: self.size]

    def append(self, value: int) -> None:
        if self.size == len(self._values):
            larger = self._values.new_zeros(max(2 * self.size, 64))
            larger[: self.size] = self.view()
            self._values = larger
        self._values[self.size] = value
        self.size += 1


class _Rows:
    """A matrix that grows by segments."""

    def __init__(self, first: FeatureRows) -> None:
        if isinstance(first, SegmentedRows):
            self._segments, self._width = list(first.stored_segments()), first.width
        else:
            self._segments = list(segments_of(first))
            self._width = self._segments[0].shape[1]
        self.size = len(first)
        self._room = 0

    def append(self, row_K: Tensor) -> None:
        if not self._room:
            self._room = SEGMENT_ROWS
            self._segments.append(self._segments[0].new_empty(SEGMENT_ROWS, self._width))
        self._segments[-1][SEGMENT_ROWS - self._room] = row_K
        self._room -= 1
        self.size += 1

    def snapshot(self) -> SegmentedRows:
        return SegmentedRows(tuple(self._segments), self.size, width=self._width)


class GrowingRepository:
    """For one writer; repositories that it hands out may be read by any thread."""

    def __init__(self, first: ExpertRepository) -> None:
        self._first = first
        self.saved_parts = first.saved_parts
        self._ids = list(first.edit_ids)
        is_held_N = torch.ones(len(self._ids), dtype=torch.bool)
        self._held = _Column(is_held_N if first.held_N is None else first.held_N)
        self._num_held = len(first)
        held = set(first.held_positions.tolist())
        order = sorted(range(len(self._ids)), key=held.__contains__)
        self._place_of = {self._ids[n]: n for n in order}  # of two experts of an edit, that held
        self._visual = _Rows(first.visual)
        self._prompt = _Rows(first.prompt)
        self._ranks = _Column(first.ranks_N)
        no_flags_N = torch.zeros(len(self._ids), dtype=torch.bool)
        self._has_textual = first.is_textual_N is not None
        self._is_textual = _Column(no_flags_N if first.is_textual_N is None else first.is_textual_N)
        self._hashes = _Column(hashes_of(self._ids) if first.hashes_N is None else first.hashes_N)
        self._down: list[Tensor] = []
        self._up: list[Tensor] = []
        self._forms = dict(first.forms)

    def __len__(self) -> int:
        """Rows, held or not."""
        return len(self._ids)

    def __contains__(self, edit_id: str) -> bool:
        """Whether there is an expert of this edit, held or not."""
        return edit_id in self._place_of

    def is_held(self, edit_id: str) -> bool:
        return self.place_if_held(edit_id) is not None

    def place_if_held(self, edit_id: str) -> int | None:
        """Position of an edit that answers."""
        place = self._place_of.get(edit_id)
        return place if place is not None and self._held.view()[place] else None

    def add(self, experts: Iterable[Expert]) -> None:
        """Hold experts of edits that are not held; an older one of the same edit is left behind."""
        for expert in experts:
            features = expert.visual_feature_QM.flatten(), expert.prompt_feature_QM.flatten()
            if len(expert.forms_FX):
                self._forms[len(self)] = expert.forms_FX
            self._append(expert.edit_id, *features, expert.down_RD, expert.up_RD)

    def _append(
        self, edit_id: str, visual_K: Tensor, prompt_K: Tensor, down_RD: Tensor, up_RD: Tensor
    ) -> None:
        is_textual = not bool(has_image(visual_K))
        self._is_textual.append(is_textual)
        self._has_textual |= is_textual
        self._visual.append(visual_K)
        self._prompt.append(prompt_K)
        self._ranks.append(len(down_RD))
        self._hashes.append(int(hashes_of([edit_id])))
        self._down.append(down_RD)
        self._up.append(up_RD)
        self._held.append(True)
        self._num_held += 1
        self._place_of[edit_id] = len(self._ids)
        self._ids.append(edit_id)

    def hold(self, *, held: Iterable[str], dropped: Iterable[str]) -> None:
        """Let some edits answer and others not; all experts stay."""
        held, dropped = list(held), list(dropped)
        if not (held or dropped):
            return
        held_N = self._held.view().clone()  # those handed out stay as they are
        for edit_ids, is_held in ((dropped, False), (held, True)):
            for edit_id in edit_ids:
                held_N[self._place_of[edit_id]] = is_held
        self._held = _Column(held_N)
        self._num_held = int(held_N.sum())

    def is_sparse(self, num_kept: int) -> bool:
        """Whether most rows neither answer nor are among `num_kept` others."""
        num_left = self._num_held + num_kept
        return len(self) - num_left > max(SEGMENT_ROWS, num_left)

    def compact(self, kept: Iterable[str]) -> "GrowingRepository":
        """Without the experts that are not held, but for those of `kept`."""
        kept = [edit_id for edit_id in kept if not self.is_held(edit_id)]
        held = self._held.view().nonzero().flatten().tolist()
        places = [*held, *(self._place_of[edit_id] for edit_id in kept)]
        count, now = len(self._first.edit_ids), self.snapshot()
        other = GrowingRepository(self._first.take([n for n in places if n < count]))
        for n in (n for n in places if n >= count):
            row = torch.tensor([n])
            visual_K, prompt_K = now.visual[row].flatten(), now.prompt[row].flatten()
            matrices = self._down[n - count], self._up[n - count]
            if n in self._forms:
                other._forms[len(other)] = self._forms[n]
            other._append(self._ids[n], visual_K, prompt_K, *matrices)
        other.hold(held=(), dropped=kept)
        return other

    def snapshot(self) -> ExpertRepository:
        """The experts as they are now."""
        size, first = len(self._ids), self._first
        return replace(
            first,
            edit_ids=_Prefix(self._ids, size),
            visual=self._visual.snapshot(),
            prompt=self._prompt.snapshot(),
            ranks_N=self._ranks.view(),
            down=GrownSlots(first.down, first.ranks_N, self._down, size),
            up=GrownSlots(first.up, first.ranks_N, self._up, size),
            forms=self._forms,
            hashes_N=self._hashes.view(),
            is_textual_N=self._is_textual.view() if self._has_textual else None,
            held_N=None if self._num_held == size else self._held.view(),
            saved_parts=self.saved_parts,
        )
