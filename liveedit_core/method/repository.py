"""The expert repository: N experts as stacked tensors.

Routing needs every feature but only the matrices of the few experts that an input keeps (Eq. 6).
So features are in memory, while matrices may stay in storage and be read when they are indexed.

Each expert has a rank of its own. A factor holds the rank slots of all experts one after the other,
[L, D] with L the sum of the ranks, so that an expert costs its own rank only.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from liveedit_core.errors import ShapeError
from liveedit_core.method.config import DEFAULT_BUDGET, GeneratorConfig
from liveedit_core.method.expert import Expert
from liveedit_core.method.routing import has_image
from liveedit_core.schema import FactSource


class StoredSlots(Protocol):
    """One factor of N experts, read when it is indexed."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index_U: Tensor) -> Tensor:
        """The slots of the experts at some positions, in that order, [L, D] float32."""


Slots = Tensor | StoredSlots
"""All slots in memory, [L, D], or stored ones."""


class GrowingRows(Protocol):
    """Features of N experts in several segments (`growing.SegmentedRows`)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index_U: Tensor) -> Tensor:
        """The rows of the experts at some positions, in that order, [U, K]."""

    def segments(self) -> Iterable[Tensor]:
        """All rows, in order."""


FeatureRows = Tensor | GrowingRows


def segments_of(rows: FeatureRows) -> Iterable[Tensor]:
    """All rows, in order, one tensor or several."""
    return [rows] if isinstance(rows, Tensor) else rows.segments()


def dense(rows: FeatureRows) -> Tensor:
    """All rows in one tensor."""
    return rows if isinstance(rows, Tensor) else torch.cat(list(rows.segments()))


def device_of_rows(rows: FeatureRows) -> torch.device:
    return next(iter(segments_of(rows))).device


def hashes_of(edit_ids: Iterable[str]) -> Tensor:
    """The order of edits in which a bank's sample is drawn, that of their sha256, int64 [N]."""
    numbers = (int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") for key in edit_ids)
    return torch.tensor([number - 2**63 for number in numbers], dtype=torch.int64)


def slot_index(ranks_N: Tensor, index_U: Tensor) -> Tensor:
    """Where the slots of some experts lie among those of all N, int64 [sum of their ranks]."""
    ranks_U = ranks_N[index_U]
    first_U = ranks_N.cumsum(0)[index_U] - ranks_U
    before_U = ranks_U.cumsum(0) - ranks_U
    return torch.arange(int(ranks_U.sum())) + (first_U - before_U).repeat_interleave(ranks_U)


@dataclass(frozen=True, kw_only=True)
class ExpertRepository:
    """Immutable stack of experts; their order does not affect any result."""

    edit_ids: Sequence[str]
    """Of each row; those that are not held included."""
    visual: FeatureRows
    """Visual features, [N, K]."""
    prompt: FeatureRows
    """Prompt features, [N, K]."""
    ranks_N: Tensor
    """int64: slots of each expert."""
    down: Slots
    up: Slots
    held_N: Tensor | None = None
    """bool: which experts answer; None: all of them."""
    is_textual_N: Tensor | None = None
    """bool: which experts are of edits without an image; None: none of them."""
    hashes_N: Tensor | None = None
    """`hashes_of` the edits, if they are known."""
    false_activation: float = DEFAULT_BUDGET
    """Share of questions about other images that may keep an expert (`calibration`)."""
    traffic_MR: Tensor | None = None
    """Unit vectors (`VisualKey.unit`) of unlabelled images of the user's traffic, float32, by which
    the visual filter is calibrated; None: by the experts' own images."""
    saved_parts: tuple[str, ...] = ()
    """Files of a saved model that hold its first rows (`model_folder`)."""
    forms: Mapping[int, Tensor] = field(default_factory=dict)
    """By position, of the experts that have any: `Expert.forms_FX`."""
    fact_source: FactSource | None = None
    """Where it is known what the experts taught, such as the request log beside a bank."""

    def __post_init__(self) -> None:
        sizes = {name: len(self.edit_ids) for name in _PER_EXPERT + _FACTORS}
        for name in _FACTORS:
            if isinstance(getattr(self, name), Tensor):
                sizes[name] = int(self.ranks_N.sum())
        for name, size in sizes.items():
            if len(getattr(self, name)) != size:
                raise ShapeError(
                    f"repository: {len(self.edit_ids)} edits of {int(self.ranks_N.sum())} slots, "
                    f"but {name} has {len(getattr(self, name))} rows"
                )

    def __len__(self) -> int:
        """Experts that answer."""
        return len(self.edit_ids) if self.held_N is None else int(self.held_N.sum())

    @property
    def held_positions(self) -> Tensor:
        """Of the experts that answer, int64, rising."""
        if self.held_N is None:
            return torch.arange(len(self.edit_ids))
        return self.held_N.nonzero().flatten()

    @property
    def held_ids(self) -> tuple[str, ...]:
        """The edits that answer."""
        if self.held_N is None:
            return tuple(self.edit_ids)
        return tuple(self.edit_ids[place] for place in self.held_positions.tolist())

    @property
    def textual_positions(self) -> Tensor:
        """Of the textual experts that answer, int64, rising."""
        if self.is_textual_N is None:
            return torch.zeros(0, dtype=torch.int64)
        held_N = self.is_textual_N if self.held_N is None else self.is_textual_N & self.held_N
        return held_N.nonzero().flatten()

    def to(self, device: torch.device) -> Self:
        """Features and matrices on a device; what is looked up (ranks, flags) stays on the CPU, and
        stored matrices come from storage as they are read."""
        if device_of_rows(self.visual) == device:
            return self
        traffic_MR = self.traffic_MR
        return replace(
            self,
            visual=dense(self.visual).to(device),
            prompt=dense(self.prompt).to(device),
            down=_slots_on(self.down, device),
            up=_slots_on(self.up, device),
            traffic_MR=None if traffic_MR is None else traffic_MR.to(device),
            forms={place: forms_FX.to(device) for place, forms_FX in self.forms.items()},
        )

    def compact(self) -> Self:
        """The experts that answer alone."""
        return self if self.held_N is None else self.take(self.held_positions.tolist())

    @property
    def visual_features_NK(self) -> Tensor:
        """All of them in one tensor."""
        return dense(self.visual)

    @property
    def prompt_features_NK(self) -> Tensor:
        """All of them in one tensor."""
        return dense(self.prompt)

    @property
    def down_LD(self) -> Tensor:
        """All of them in memory; reads stored ones."""
        return _in_memory(self.down)

    @property
    def up_LD(self) -> Tensor:
        """All of them in memory; reads stored ones."""
        return _in_memory(self.up)

    def matrices(self, index_U: Tensor) -> tuple[Tensor, Tensor]:
        """Down and up slots of the experts at some positions, two [L, D]; reads no others."""
        down, up = (read_slots(factor, self.ranks_N, index_U) for factor in (self.down, self.up))
        return down, up

    @classmethod
    def empty(cls, config: GeneratorConfig) -> Self:
        """A repository without experts."""
        return cls(
            edit_ids=(),
            visual=torch.zeros(0, config.visual_width),
            prompt=torch.zeros(0, config.feature_size),
            ranks_N=torch.zeros(0, dtype=torch.int64),
            down=torch.zeros(0, config.hidden_size),
            up=torch.zeros(0, config.hidden_size),
        )

    @classmethod
    def from_experts(cls, config: GeneratorConfig, experts: Sequence[Expert]) -> Self:
        """Stack experts."""
        if not experts:
            return cls.empty(config)
        visual = torch.stack([e.visual_feature_QM.flatten() for e in experts])
        return cls(
            edit_ids=tuple(expert.edit_id for expert in experts),
            visual=visual,
            is_textual_N=textual_rows(visual),
            prompt=torch.stack([e.prompt_feature_QM.flatten() for e in experts]),
            ranks_N=torch.tensor([expert.rank for expert in experts]),
            down=torch.cat([expert.down_RD for expert in experts]),
            up=torch.cat([expert.up_RD for expert in experts]),
            forms={n: e.forms_FX for n, e in enumerate(experts) if len(e.forms_FX)},
        )

    def with_experts(self, config: GeneratorConfig, experts: Sequence[Expert]) -> Self:
        """This repository plus some experts."""
        return self.joined(type(self).from_experts(config, experts))

    def joined(self, more: "ExpertRepository") -> Self:
        """The experts of this repository and of another one that answer."""
        one, other = self.compact(), more.compact()
        both: dict[str, Any] = {
            name: torch.cat([dense(getattr(one, name)), dense(getattr(other, name))])
            for name in _PER_EXPERT
        }
        flags = [
            part.ranks_N.new_zeros(len(part.ranks_N), dtype=torch.bool)
            if part.is_textual_N is None
            else part.is_textual_N
            for part in (one, other)
        ]
        both["is_textual_N"] = torch.cat(flags) if any(map(torch.any, flags)) else None
        return replace(
            one,
            edit_ids=(*one.edit_ids, *other.edit_ids),
            hashes_N=None,
            saved_parts=(),
            down=_concatenate((one.down, one.ranks_N), (other.down, other.ranks_N)),
            up=_concatenate((one.up, one.ranks_N), (other.up, other.ranks_N)),
            forms={**one.forms, **{len(one.edit_ids) + n: f for n, f in other.forms.items()}},
            **both,
        )

    def without(self, edit_ids: Collection[str]) -> Self:
        """This repository without some edits; unknown ids are ignored."""
        removed = set(edit_ids)
        held = self.held_positions.tolist()
        return self.take([place for place in held if self.edit_ids[place] not in removed])

    def take(self, index: Sequence[int]) -> Self:
        """The experts at some positions, in that order; all of them answer."""
        chosen = torch.tensor(list(index), dtype=torch.int64)
        columns: dict[str, Any] = {name: getattr(self, name)[chosen] for name in _PER_EXPERT}
        if self.is_textual_N is not None:
            columns["is_textual_N"] = self.is_textual_N[chosen]
        return replace(
            self,
            edit_ids=tuple(self.edit_ids[i] for i in index),
            held_N=None,
            hashes_N=None,
            saved_parts=(),
            down=_select(self.down, self.ranks_N, chosen),
            up=_select(self.up, self.ranks_N, chosen),
            forms={n: self.forms[old] for n, old in enumerate(index) if old in self.forms},
            **columns,
        )


def textual_rows(visual: FeatureRows) -> Tensor | None:
    """Which experts have no image (`routing.has_image`), bool [N] on the CPU; None: none."""
    is_textual_N = torch.cat([~has_image(part).cpu() for part in segments_of(visual)])
    return is_textual_N if is_textual_N.any() else None


_PER_EXPERT = ("visual", "prompt", "ranks_N")
_FACTORS = ("down", "up")


def _in_memory(slots: Slots) -> Tensor:
    return slots if isinstance(slots, Tensor) else slots[torch.arange(len(slots))]


@dataclass(frozen=True)
class _SlotsOn:
    """Stored slots that go to a device when they are read."""

    stored: StoredSlots
    device: torch.device

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index_U: Tensor) -> Tensor:
        return self.stored[index_U].to(self.device, non_blocking=True)


def _slots_on(slots: Slots, device: torch.device) -> Slots:
    if isinstance(slots, Tensor):
        return slots.to(device)
    stored = slots.stored if isinstance(slots, _SlotsOn) else slots
    return _SlotsOn(stored, device)


def read_slots(slots: Slots, ranks_N: Tensor, index_U: Tensor) -> Tensor:
    """The slots of the experts at some positions, in that order."""
    return slots[slot_index(ranks_N, index_U) if isinstance(slots, Tensor) else index_U]


def _select(slots: Slots, ranks_N: Tensor, index_U: Tensor) -> Slots:
    """The same; stored ones stay in storage."""
    if isinstance(slots, Tensor):
        return read_slots(slots, ranks_N, index_U)
    return _Rows.of(slots, ranks_N).take(index_U)


def _concatenate(*parts: tuple[Slots, Tensor]) -> Slots:
    """Two stacks with their ranks in sequence; stored ones stay in storage."""
    resident = [slots for slots, _ in parts if isinstance(slots, Tensor)]
    if len(resident) == len(parts):
        return torch.cat(resident)
    first, second = (_Rows.of(*part) for part in parts)
    return first.joined(second)


def stacked_slots(parts: Iterable[tuple[Slots, Tensor]]) -> Slots:
    """Stacks, each with the ranks of its experts, one after the other; nothing is copied."""
    first, *others = (_Rows.of(*part) for part in parts)
    for part in others:
        first = first.joined(part)
    return first


@dataclass(frozen=True)
class _Rows:
    """Some experts of some stacks, read when they are indexed.

    However often it is selected from and joined, a stack is held once, and only if it is used.
    """

    stacks: tuple[tuple[Slots, Tensor], ...]
    """With the ranks of their experts; none of them is a `_Rows`."""
    stack_N: Tensor
    """int64: the stack of each expert."""
    place_N: Tensor
    """int64: its position there."""

    @classmethod
    def of(cls, slots: Slots, ranks_N: Tensor) -> "_Rows":
        """All experts of one stack."""
        if isinstance(slots, _Rows):
            return slots
        place_N = torch.arange(len(ranks_N))
        return cls(((slots, ranks_N),), torch.zeros_like(place_N), place_N)

    def take(self, index_U: Tensor) -> "_Rows":
        used, stack_U = self.stack_N[index_U].unique(return_inverse=True)
        stacks = tuple(self.stacks[n] for n in used.tolist())
        return _Rows(stacks or self.stacks[:1], stack_U, self.place_N[index_U])

    def joined(self, more: "_Rows") -> "_Rows":
        stacks = {id(slots): (slots, ranks_N) for slots, ranks_N in (*self.stacks, *more.stacks)}
        number_of = {key: n for n, key in enumerate(stacks)}
        numbers = torch.tensor([number_of[id(slots)] for slots, _ in more.stacks])
        return _Rows(
            tuple(stacks.values()),
            torch.cat([self.stack_N, numbers[more.stack_N]]),
            torch.cat([self.place_N, more.place_N]),
        )

    def __len__(self) -> int:
        return len(self.place_N)

    def __getitem__(self, index_U: Tensor) -> Tensor:
        stack_U, place_U = self.stack_N[index_U], self.place_N[index_U]
        read, order, ranks = [], [], []
        for number in stack_U.unique().tolist() or [0]:
            slots, ranks_N = self.stacks[number]
            here = (stack_U == number).nonzero().flatten()
            read.append(read_slots(slots, ranks_N, place_U[here]))
            order.append(here)
            ranks.append(ranks_N[place_U[here]])
        return torch.cat(read)[slot_index(torch.cat(ranks), torch.cat(order).argsort())]
