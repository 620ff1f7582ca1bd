"""A bank version as tensors, within a memory limit.

Routing compares an input with all experts, so their features are in memory. It keeps few of them,
so their matrices may stay in the store until they are needed.
"""

import functools

import lance
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infra.bank.policy import RESIDENT_BYTES, MatrixPlace
from infra.storage.tables import Table, storage_errors
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.repository import ExpertRepository

_FEATURES = ("visual_feature", "prompt_feature")
_MATRICES = ("expert_down", "expert_up")
_BATCH_BYTES = 1 << 20
"""Small, as the allocator keeps what Lance's threads free; larger ones are not faster."""
_BUFFER_BYTES = 8 << 20


class StoredColumn:
    """One factor of all experts of a pinned version, read when it is indexed; picklable."""

    def __init__(
        self,
        table: Table,
        version: int,
        column: str,
        places_N: npt.NDArray[np.int64],
        shape: tuple[int, ...],
    ) -> None:
        """Expert n of `shape` (N, R, D) is row `places_N[n]` of the version."""
        self._table = table
        self._version = version
        self._column = column
        self._places_N = places_N
        self.shape = shape

    @functools.cached_property
    def _dataset(self) -> lance.LanceDataset:
        return self._table.at(self._version)

    def __getstate__(self) -> dict[str, object]:
        """Everything but the open table, which is opened again in the other process."""
        return {name: value for name, value in self.__dict__.items() if name != "_dataset"}

    def __getitem__(self, index_U: Tensor) -> Tensor:
        """Read experts by position, int64 in [0, N); returns float32 [U, R, D] in that order."""
        if not len(index_U):
            return torch.empty(0, *self.shape[1:])
        places_V, inverse_U = np.unique(self._places_N[index_U.numpy()], return_inverse=True)
        with storage_errors(self._table.uri):
            rows = self._dataset.take(places_V.tolist(), columns=[self._column])
        values = rows.column(self._column).combine_chunks().flatten()
        flat = values.to_numpy(zero_copy_only=False).reshape(len(places_V), *self.shape[1:])
        return torch.from_numpy(flat[inverse_U])


def read_repository(
    table: Table, version: int | None, config: GeneratorConfig, *, matrices: MatrixPlace = "auto"
) -> ExpertRepository:
    """The experts of a version, sorted by sequence; `config` must fit the bank."""
    dataset = table.at(version)
    with storage_errors(table.uri):
        keys = dataset.to_table(columns=["edit_id", "sequence"])
        places_N = np.argsort(keys.column("sequence").to_numpy(), kind="stable")
        edit_ids = keys.column("edit_id").take(places_N).to_pylist()
        shape = (len(edit_ids), config.rank, config.hidden_size)
        is_resident = matrices == "resident" or (
            matrices == "auto" and len(_MATRICES) * 4 * int(np.prod(shape)) <= RESIDENT_BYTES
        )
        widths = dict.fromkeys(_FEATURES, config.feature_size)
        if is_resident:
            widths |= dict.fromkeys(_MATRICES, config.rank * config.hidden_size)
        arrays = _read_arrays(dataset, places_N, widths)
    down, up = (
        torch.from_numpy(arrays[name].reshape(shape))
        if is_resident
        else StoredColumn(table, int(dataset.version), name, places_N, shape)
        for name in _MATRICES
    )
    return ExpertRepository(
        edit_ids=tuple(edit_ids),
        visual_features_NK=torch.from_numpy(arrays["visual_feature"]),
        prompt_features_NK=torch.from_numpy(arrays["prompt_feature"]),
        down=down,
        up=up,
    )


def _read_arrays(
    dataset: lance.LanceDataset, places_N: npt.NDArray[np.int64], widths: dict[str, int]
) -> dict[str, npt.NDArray[np.float32]]:
    """Fixed-size-list columns as arrays; element n is row `places_N[n]`."""
    count = len(places_N)
    arrays = {name: np.empty((count, width), np.float32) for name, width in widths.items()}
    target_N = np.empty_like(places_N)
    target_N[places_N] = np.arange(count)
    row_bytes = 4 * sum(widths.values())
    start = 0
    for batch in dataset.scanner(
        columns=list(widths),
        batch_size=max(_BATCH_BYTES // row_bytes, 1),
        batch_readahead=1,
        fragment_readahead=1,
        io_buffer_size=_BUFFER_BYTES,
        scan_in_order=True,
    ).to_batches():
        rows = target_N[start : start + batch.num_rows]
        for name, width in widths.items():
            values = batch.column(name).flatten().to_numpy(zero_copy_only=False)
            arrays[name][rows] = values.reshape(batch.num_rows, width)
        start += batch.num_rows
    return arrays
