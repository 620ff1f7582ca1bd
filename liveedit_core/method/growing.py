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

from liveedit_core.method.expert import Expert
from liveedit_core.method.repository import ExpertRepository, Slots, dense, hashes_of, read_slots

SEGMENT_ROWS = 4096


class SegmentedRows:
    """The first `num_rows` rows of a matrix in segments; the segments may be longer."""

    def __init__(self, first: Tensor, others: Sequence[Tensor], num_rows: int) -> None:
        self._first = first
        self._others = others
        self._num_rows = num_rows

    def __len__(self) -> int:
        return self._num_rows

    @property
    def shape(self) -> tuple[int, int]:
        return self._num_rows, self._first.shape[1]

    def segments(self) -> Iterator[Tensor]:
        """All rows, in order."""
        left = self._num_rows
        for segment in (self._first, *self._others):
            yield segment[: min(left, len(segment))]
            left -= min(left, len(segment))

    def __getitem__(self, index_U: Tensor) -> Tensor:
        rows = self._first.new_empty(len(index_U), self._first.shape[1])
        later = index_U - len(self._first)
        is_first = later < 0
        rows[is_first] = self._first[index_U[is_first]]
        number = later.div(SEGMENT_ROWS, rounding_mode="floor")
        for segment in number[~is_first].unique().tolist():
            here = number == segment
            rows[here] = self._others[segment][later[here] % SEGMENT_ROWS]
        return rows


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

    def __init__(self, first: Tensor) -> None:
        self._first = first
        self._others: list[Tensor] = []

    def append(self, row_K: Tensor, size: int) -> None:
        place = (size - len(self._first)) % SEGMENT_ROWS
        if not place:
            self._others.append(self._first.new_empty(SEGMENT_ROWS, self._first.shape[1]))
        self._others[-1][place] = row_K

    def snapshot(self, size: int) -> SegmentedRows:
        return SegmentedRows(self._first, tuple(self._others), size)


class GrowingRepository:
    """For one writer; repositories that it hands out may be read by any thread."""

    def __init__(self, first: ExpertRepository) -> None:
        first = first.compact()
        self._first = first
        self._ids = list(first.edit_ids)
        self._place_of = {edit_id: n for n, edit_id in enumerate(self._ids)}
        self._visual = _Rows(dense(first.visual))
        self._prompt = _Rows(dense(first.prompt))
        self._ranks = _Column(first.ranks_N)
        self._hashes = _Column(hashes_of(self._ids))
        self._down: list[Tensor] = []
        self._up: list[Tensor] = []
        self._held = _Column(torch.ones(len(self._ids), dtype=torch.bool))
        self.num_held = len(self._ids)

    def __len__(self) -> int:
        """Experts, held or not."""
        return len(self._ids)

    def __contains__(self, edit_id: str) -> bool:
        """Whether there is an expert of this edit, held or not."""
        return edit_id in self._place_of

    def is_held(self, edit_id: str) -> bool:
        place = self._place_of.get(edit_id)
        return place is not None and bool(self._held.view()[place])

    def place_if_held(self, edit_id: str) -> int | None:
        """Position of an edit that answers."""
        return self._place_of[edit_id] if self.is_held(edit_id) else None

    def add(self, experts: Iterable[Expert]) -> None:
        """Hold experts of new edits."""
        for expert in experts:
            size = len(self._ids)
            self._visual.append(expert.visual_feature_QM.flatten(), size)
            self._prompt.append(expert.prompt_feature_QM.flatten(), size)
            self._ranks.append(expert.rank)
            self._hashes.append(int(hashes_of([expert.edit_id])))
            self._held.append(True)
            self._down.append(expert.down_RD)
            self._up.append(expert.up_RD)
            self._place_of[expert.edit_id] = size
            self._ids.append(expert.edit_id)
            self.num_held += 1

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
        self.num_held = int(held_N.sum())

    def compact(self, *, kept: Iterable[str]) -> None:
        """Drop the experts that are not held, but for those of `kept`, once they are the most."""
        kept = [edit_id for edit_id in kept if not self.is_held(edit_id)]
        num_dropped = len(self) - self.num_held - len(kept)
        if num_dropped > max(SEGMENT_ROWS, self.num_held):
            held = self._held.view().nonzero().flatten().tolist()
            places = [*held, *(self._place_of[edit_id] for edit_id in kept)]
            self.__init__(self.snapshot().take(places))  # type: ignore[misc]
            self.hold(held=(), dropped=kept)

    def snapshot(self) -> ExpertRepository:
        """The experts as they are now."""
        size, first = len(self._ids), self._first
        held_N = self._held.view()
        return replace(
            first,
            edit_ids=_Prefix(self._ids, size),
            visual=self._visual.snapshot(size),
            prompt=self._prompt.snapshot(size),
            ranks_N=self._ranks.view(),
            down=GrownSlots(first.down, first.ranks_N, self._down, size),
            up=GrownSlots(first.up, first.ranks_N, self._up, size),
            hashes_N=self._hashes.view(),
            held_N=None if self.num_held == size else held_N,
        )
