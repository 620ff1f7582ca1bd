"""A bank version as tensors, within a memory limit.

Routing compares an input with all experts, so their features are in memory. It keeps few of them,
so their matrices may stay in the store until they are needed.
"""

import functools
from collections.abc import Sequence

import lance
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
from torch import Tensor

from infra.bank.policy import RESIDENT_BYTES, MatrixPlace
from infra.storage.tables import Table, read_errors, read_rows, take_rows
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.growing import SegmentedRows
from liveedit_core.method.repository import ExpertRepository, slot_index, textual_rows

_MATRICES = ("expert_down", "expert_up")
_BATCH_BYTES = 1 << 20
"""Small, as the allocator keeps what Lance's threads free; larger ones are not faster."""
_BUFFER_BYTES = 8 << 20
_Columns = dict[str, tuple[Tensor | None, int]]
"""Vectors of one width to be read, `ranks_N` of each expert, or one. A width of 0 stands for that
of the longest vector; shorter ones are filled up with zeros."""


class StoredColumn:
    """One factor of all experts of a pinned version, read when it is indexed; picklable."""

    def __init__(
        self,
        table: Table,
        version: int,
        column: str,
        places_N: npt.NDArray[np.int64],
        ranks_N: Tensor,
        hidden_size: int,
    ) -> None:
        """Expert n, of rank `ranks_N[n]`, is row `places_N[n]` of the version."""
        self._table = table
        self._version = version
        self._column = column
        self._places_N = places_N
        self._ranks_N = ranks_N
        self._hidden_size = hidden_size

    def __len__(self) -> int:
        """N."""
        return len(self._places_N)

    @functools.cached_property
    def _dataset(self) -> lance.LanceDataset:
        return self._table.at(self._version)

    def __getstate__(self) -> dict[str, object]:
        """Everything but the open table, which is opened again in the other process."""
        return {name: value for name, value in self.__dict__.items() if name != "_dataset"}

    def __getitem__(self, index_U: Tensor) -> Tensor:
        """Read experts by position, int64 in [0, N); returns float32 [L, D] in that order."""
        if not len(index_U):
            return torch.empty(0, self._hidden_size)
        places_V, first_V, inverse_U = np.unique(
            self._places_N[index_U.numpy()], return_index=True, return_inverse=True
        )
        rows = take_rows(self._dataset, places_V.tolist(), [self._column])
        values = rows.column(self._column).combine_chunks().flatten()
        flat = values.to_numpy(zero_copy_only=False).reshape(-1, self._hidden_size)
        ranks_V = self._ranks_N[index_U[first_V]]
        slots_L = slot_index(ranks_V, torch.from_numpy(inverse_U)).numpy()
        return torch.from_numpy(flat[slots_L])


def read_repository(
    table: Table, version: int | None, config: GeneratorConfig, *, matrices: MatrixPlace = "auto"
) -> ExpertRepository:
    """The experts of a version, sorted by sequence; `config` must fit the bank."""
    dataset = table.at(version)
    with read_errors(table.uri):
        has_ranks = "rank" in dataset.schema.names
        keys = read_rows(dataset, ["edit_id", "sequence", *["rank"] * has_ranks])
        places_N = np.argsort(keys.column("sequence").to_numpy(), kind="stable")
        edit_ids = keys.column("edit_id").take(places_N).to_pylist()
        ranks_N = torch.full((len(edit_ids),), config.rank)
        if has_ranks:
            ranks_N = torch.from_numpy(keys.column("rank").to_numpy()[places_N].astype(np.int64))
        num_bytes = len(_MATRICES) * 4 * int(ranks_N.sum()) * config.hidden_size
        is_resident = matrices == "resident" or (matrices == "auto" and num_bytes <= RESIDENT_BYTES)
        columns: _Columns = {
            "visual_feature": (None, config.visual_width),
            "prompt_feature": (None, 0),
        }
        if is_resident:
            columns |= dict.fromkeys(_MATRICES, (ranks_N, config.hidden_size))
        arrays = _read_arrays(dataset, places_N, columns)
        forms = _read_forms(dataset, edit_ids, config) if "forms" in dataset.schema.names else {}
    down, up = (
        torch.from_numpy(arrays[name])
        if is_resident
        else StoredColumn(table, int(dataset.version), name, places_N, ranks_N, config.hidden_size)
        for name in _MATRICES
    )
    visual = torch.from_numpy(arrays["visual_feature"])
    prompt_NX = torch.from_numpy(arrays["prompt_feature"])
    return ExpertRepository(
        edit_ids=tuple(edit_ids),
        visual=visual,
        prompt=SegmentedRows([prompt_NX], len(edit_ids), width=config.feature_size),
        ranks_N=ranks_N,
        down=down,
        up=up,
        is_textual_N=textual_rows(visual),
        forms=forms,
    )


def _read_forms(
    dataset: lance.LanceDataset, edit_ids: Sequence[str], config: GeneratorConfig
) -> dict[int, Tensor]:
    """By position, of the experts that have any."""
    place_of = {edit_id: place for place, edit_id in enumerate(edit_ids)}
    forms = {}
    for batch in dataset.scanner(columns=["edit_id", "forms"]).to_batches():
        rows = batch.filter(pc.greater(pc.list_value_length(batch.column("forms")), 0))
        found = rows.column("forms")
        values_X = torch.tensor(found.flatten().to_numpy())
        parts = values_X.split(pc.list_value_length(found).to_pylist())
        for edit_id, part_X in zip(rows.column("edit_id").to_pylist(), parts, strict=True):
            forms[place_of[edit_id]] = part_X.reshape(-1, 2 + config.text_size)
    return forms


def _read_arrays(
    dataset: lance.LanceDataset,
    places_N: npt.NDArray[np.int64],
    columns: _Columns,
) -> dict[str, npt.NDArray[np.float32]]:
    """Columns of vectors as arrays; element n is row `places_N[n]` of the version."""
    arrays = {
        name: np.empty(
            (len(places_N) if ranks_N is None else int(ranks_N.sum()), width), np.float32
        )
        for name, (ranks_N, width) in columns.items()
    }
    target_N = torch.empty(len(places_N), dtype=torch.int64)
    target_N[torch.from_numpy(places_N)] = torch.arange(len(places_N))
    row_bytes = sum(array.nbytes for array in arrays.values()) // max(len(places_N), 1)
    start = 0
    for batch in dataset.scanner(
        columns=list(columns),
        batch_size=max(_BATCH_BYTES // max(row_bytes, 1), 1),
        batch_readahead=1,
        fragment_readahead=1,
        io_buffer_size=_BUFFER_BYTES,
        scan_in_order=True,
    ).to_batches():
        target = target_N[start : start + batch.num_rows]
        for name, (ranks_N, width) in columns.items():
            values = batch.column(name).flatten().to_numpy(zero_copy_only=False)
            if width:
                rows = values.reshape(-1, width)
            else:
                rows = _filled_up(values, batch.column(name).value_lengths().to_numpy())
                missing = rows.shape[1] - arrays[name].shape[1]
                if missing > 0:
                    arrays[name] = np.pad(arrays[name], ((0, 0), (0, missing)))
            places = target if ranks_N is None else slot_index(ranks_N, target)
            arrays[name][places.numpy(), : rows.shape[1]] = rows
        start += batch.num_rows
    return arrays


def _filled_up(
    values: npt.NDArray[np.float32], size_X: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Vectors of some sizes, one after the other, as the rows of a matrix."""
    longest = int(size_X.max(initial=0))
    if (size_X == longest).all():
        return values.reshape(len(size_X), longest)
    rows = np.zeros((len(size_X), longest), np.float32)
    rows[np.arange(longest) < size_X[:, None]] = values
    return rows
