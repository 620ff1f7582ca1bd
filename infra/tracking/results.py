"""Per-probe results of a run: one row per probe, protocol and evaluation of a bank version.

Results are appended as they come, so that a killed evaluation resumes. A row that is stored already
is never written again.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
from lance import LanceDataset

from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table, not_null, read_rows, storage_errors
from infra.storage.upkeep import merge_small, renew_indices
from liveedit_core.errors import IntegrityError, StorageUnavailableError
from liveedit_core.evaluation.comparable import ComparableGroup
from liveedit_core.evaluation.probes import ProbeResult, ResultKey
from liveedit_core.schema import ProbeKind

_EVALUATION_TYPES = {
    "bank": pa.string(),
    "bank_version": pa.int64(),
    "num_edits": pa.int64(),
    "group_size": pa.int64(),
}
_KEY_TYPES = {"case_id": pa.string(), "probe_index": pa.int64(), "protocol": pa.string()}
_RESULT_TYPES = {
    **_KEY_TYPES,
    "edit_id": pa.string(),
    "kind": pa.string(),
    "score": pa.float64(),
    "is_exact": pa.bool_(),
    "target": pa.string(),
    "answer_before": pa.string(),
    "answer_after": pa.string(),
    "kept": pa.list_(pa.string()),
    "weights": pa.list_(pa.float64()),
    "own_expert_kept": pa.bool_(),
    "own_rank": pa.int64(),
    "own_weight": pa.float64(),
}
_MERGE_EVERY = 64
"""Commits between two merges of files."""
_FRAGMENT_BYTES = 64 * 1024 * 1024
_IN_USE = timedelta(minutes=10)
_SCHEMA = not_null(**_EVALUATION_TYPES, **_RESULT_TYPES)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationKey:
    """Which bank version was evaluated, and against how many of its edits."""

    bank: str
    bank_version: int
    num_edits: int
    group_size: int = 0
    """0: each probe against the whole version. Otherwise against the group of its own edit, where
    edits are taken in order, `group_size` at a time; below 0, groups of minus this number, against
    the edits of the group up to and including its own."""

    def predicate(self) -> str:
        """SQL filter for the rows of this evaluation."""
        bank = self.bank.replace("'", "''")
        return (
            f"bank = '{bank}' AND bank_version = {self.bank_version} "
            f"AND num_edits = {self.num_edits} AND group_size = {self.group_size}"
        )


class ResultsTable:
    """The table `results/<run>`, created when missing; IntegrityError if its columns are others."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        self.run = run
        self._store = store
        self._table = Table.open_or_create(store, f"results/{run}", _SCHEMA)
        if self._table.schema.names != _SCHEMA.names:
            raise IntegrityError(
                f"table {self._table.uri}: expected columns {_SCHEMA.names}, found "
                f"{self._table.schema.names}; it was written by another release. Choose another "
                "run name, or delete the table and the run evaluates again"
            )
        self._num_appends = 0
        self._seen: tuple[int, EvaluationKey, set[ResultKey]] | None = None

    def append(self, results: Sequence[ProbeResult], evaluation: EvaluationKey) -> int:
        """Store results in one commit, skipping stored ones; returns the number of new rows."""

        def attempt(base: LanceDataset) -> int:
            known = self._keys(base, evaluation)
            new = {result.key: result for result in results}
            new = {key: result for key, result in new.items() if key not in known}
            if new:
                rows = [{**asdict(result), **asdict(evaluation)} for result in new.values()]
                version = self._table.append(base, pa.Table.from_pylist(rows, schema=_SCHEMA))
                known.update(new)
                self._seen = (version, evaluation, known)
            return len(new)

        num_new = self._table.on_latest(attempt)
        self._num_appends += 1
        if self._num_appends % _MERGE_EVERY == 0:
            self.compact()
        return num_new

    def compact(self) -> None:
        """Merge the files of many commits, renew the index of bank versions, and delete versions of
        the table that nobody reads any more; if that fails, the next call does it."""
        try:
            renew_indices(self._table, ["bank_version"])
            merge_small(self._table, _FRAGMENT_BYTES)
            with storage_errors(self._table.uri):
                self._table.latest().cleanup_old_versions(older_than=_IN_USE)
        except (StorageUnavailableError, IntegrityError) as error:
            _logger.warning("the files of %s are not merged: %s", self._table.uri, error)

    def _keys(self, base: LanceDataset, evaluation: EvaluationKey) -> set[ResultKey]:
        """Keys in a version of the table; read only when another process has written."""
        if self._seen and self._seen[:2] == (base.version, evaluation):
            return self._seen[2]
        rows = read_rows(base, list(_KEY_TYPES), filter=evaluation.predicate())
        return set(zip(*(column.to_pylist() for column in rows.columns), strict=True))

    def read(self, evaluation: EvaluationKey | None = None) -> list[ProbeResult]:
        """Results in the order of writing, of one evaluation or of all."""
        rows = read_rows(
            self._table.latest(),
            list(_RESULT_TYPES),
            filter=evaluation.predicate() if evaluation else None,
        )
        return [_result(row) for row in rows.to_pylist()]

    def set_comparable_group(self, evaluation: EvaluationKey, group: ComparableGroup) -> None:
        """Store how the results of an evaluation are measured."""
        self._store.put(self._group_key(evaluation), json.dumps(asdict(group)).encode())

    def comparable_group(self, evaluation: EvaluationKey) -> ComparableGroup | None:
        """How they are measured; None for results of earlier releases."""
        key = self._group_key(evaluation)
        if not self._store.exists(key):
            return None
        try:
            return ComparableGroup(**json.loads(self._store.get(key)))
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"{key} is damaged: {error!r}") from error

    def _group_key(self, evaluation: EvaluationKey) -> str:
        name = "-".join(str(value) for value in asdict(evaluation).values())
        return f"comparable_groups/{self.run}/{name}.json"

    def evaluations(self) -> list[EvaluationKey]:
        """The evaluations that have results, sorted by bank, version and number of edits."""
        rows = read_rows(self._table.latest(), list(_EVALUATION_TYPES))
        found = set(zip(*(column.to_pylist() for column in rows.columns), strict=True))
        return [
            EvaluationKey(**dict(zip(_EVALUATION_TYPES, key, strict=True))) for key in sorted(found)
        ]


def _result(row: dict[str, Any]) -> ProbeResult:
    kept, weights = tuple(row.pop("kept")), tuple(row.pop("weights"))
    return ProbeResult(**{**row, "kind": ProbeKind(row["kind"])}, kept=kept, weights=weights)
