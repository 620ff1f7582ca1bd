"""A bank version in memory, ready to answer."""

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.hops import Hop, hops_of
from liveedit_core.method.editor import Editor, Routing
from liveedit_core.method.fused_rows import KeptExpert, KeptExperts
from liveedit_core.method.routing import RoutingBatch
from liveedit_core.schema import Fact
from liveedit_core.states import LayerStates

UNEDITED = "unedited"


class ExpertCache:
    """Matrices of the experts that were kept last, bounded in bytes; shared by all versions.

    Versions of one bank share experts: an edit's is always the same there, but for one that was
    lost and written again with forms, or without, whose rank tells.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[str, str, int], tuple[Tensor, Tensor]] = OrderedDict()
        self.num_bytes = 0

    def matrices(self, bank: str, editor: Editor, places: Sequence[int]) -> list[KeptExpert]:
        """The experts at some positions of a repository, without weights; reads missing ones."""
        repository = editor.repository
        keys = [
            (bank, repository.edit_ids[place], int(repository.ranks_N[place])) for place in places
        ]
        with self._lock:
            missing = [n for n, key in enumerate(keys) if key not in self._found]
            if missing:
                index = torch.tensor([places[n] for n in missing])
                ranks = repository.ranks_N[index].tolist()
                down_LD, up_LD = repository.matrices(index)
                parts = zip(missing, down_LD.split(ranks), up_LD.split(ranks), strict=True)
                for n, down_RD, up_RD in parts:
                    self._found[keys[n]] = (down_RD.clone(), up_RD.clone())
                    self.num_bytes += _num_bytes(self._found[keys[n]])
            experts = []
            for key in keys:
                self._found.move_to_end(key)
                down_RD, up_RD = self._found[key]
                experts.append(KeptExpert(edit_id=key[1], weight=0.0, down_RD=down_RD, up_RD=up_RD))
            while self.num_bytes > self._max_bytes:
                self.num_bytes -= _num_bytes(self._found.popitem(last=False)[1])
        return experts


def _num_bytes(matrices: tuple[Tensor, Tensor]) -> int:
    return sum(part.numel() * part.element_size() for part in matrices)


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedVersion:
    """One version; immutable. Requests hold it, so it is freed after the last of them."""

    name: str
    """"v12", or "unedited"."""
    bank: str = ""
    """URI of the bank; "" for the unedited model."""
    bank_name: str = ""
    bank_version: int = 0
    registered: int = 0
    """Version of liveedit-bank in the registry; 0 if it is not registered, or not asked for."""
    num_edits: int = 0
    committed_at: datetime | None = None
    generator_digest: str = ""
    editor: Editor | None = None
    """None for the unedited model."""
    experts: ExpertCache = field(default_factory=lambda: ExpertCache(1 << 28))
    loaded_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def is_routed(self, state: LayerStates) -> bool:
        """Whether an input may keep an expert."""
        return self.num_edits > 0 and self.editor is not None and self.editor.is_routed(state)

    def route(self, states: Sequence[LayerStates]) -> list[tuple[Routing, KeptExperts]]:
        """What each input that `is_routed` keeps."""
        editor = self.editor
        assert editor is not None
        batch = editor.route(states)
        routed = []
        for row, routing in enumerate(editor.explain(batch)):
            kept = batch.kept_BN[row].nonzero().flatten()
            places = batch.position_N[kept.cpu()].tolist()
            weights = [self._weight(batch, row, column) for column in kept.tolist()]
            experts = self.experts.matrices(self.bank, editor, places) if places else []
            weighted = tuple(
                KeptExpert(edit_id=e.edit_id, weight=w, down_RD=e.down_RD, up_RD=e.up_RD)
                for e, w in zip(experts, weights, strict=True)
            )
            routed.append((routing, KeptExperts(generator=editor.generator, experts=weighted)))
        return routed

    @staticmethod
    def _weight(batch: RoutingBatch, row: int, column: int) -> float | Tensor:
        if column not in batch.form_shares:
            return float(batch.weights_BN[row, column])
        return batch.form_shares[column].by_slot(batch.weights_BN[:, column])[row]

    def hops(self, items: Sequence[BackboneInput]) -> dict[int, Hop]:
        """What is asked in place of some questions, by index."""
        if self.editor is None or not self.num_edits:
            return {}
        return hops_of(self.editor, items, self.facts)

    def facts(self, edit_ids: Collection[str]) -> Mapping[str, Fact]:
        """What some edits taught, as far as the request log knows."""
        source = self.editor.repository.fact_source if self.editor else None
        return source.facts_of(edit_ids) if source and edit_ids else {}


def unedited() -> ServedVersion:
    """The frozen model."""
    return ServedVersion(name=UNEDITED)
