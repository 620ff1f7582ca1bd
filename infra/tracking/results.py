"""Per-probe results of a run: one row a probe, protocol and evaluation of a bank version.

Results are appended as they come, so that a killed evaluation goes on where it was. A row that is
known already is never written again, whoever sends it how often.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
from lance import LanceDataset

from infra.storage.object_store import ObjectStore
from infra.storage.tables import Table
from liveedit_core.errors import IntegrityError
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.schema import ProbeKind

_SCHEMA = pa.schema(
    [
        pa.field("bank", pa.string(), nullable=False),
        pa.field("bank_version", pa.int64(), nullable=False),
        pa.field("num_edits", pa.int64(), nullable=False),
        pa.field("group_size", pa.int64(), nullable=False),
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("probe_index", pa.int64(), nullable=False),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("edit_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("is_exact", pa.bool_(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("answer_before", pa.string(), nullable=False),
        pa.field("answer_after", pa.string(), nullable=False),
        pa.field("kept", pa.list_(pa.string()), nullable=False),
        pa.field("weights", pa.list_(pa.float64()), nullable=False),
        pa.field("own_expert_kept", pa.bool_(), nullable=False),
        pa.field("own_rank", pa.int64(), nullable=False),
        pa.field("own_weight", pa.float64(), nullable=False),
    ]
)
_EVALUATION_COLUMNS = ["bank", "bank_version", "num_edits", "group_size"]
_RESULT_COLUMNS = [name for name in _SCHEMA.names if name not in _EVALUATION_COLUMNS]
_KEY_COLUMNS = ["case_id", "probe_index", "protocol"]

ResultKey = tuple[str, int, str]
"""Case, place of the probe in it, protocol."""


@dataclass(frozen=True, kw_only=True)
class EvaluationKey:
    """What was evaluated."""

    bank: str
    bank_version: int
    num_edits: int
    """How many edits a probe was asked against."""
    group_size: int = 0
    """0: each probe against the whole version. Otherwise the edits were taken in groups of so many,
    in their order, and each probe was asked against the group of its own edit."""

    def predicate(self) -> str:
        """The rows of this evaluation, in SQL."""
        bank = self.bank.replace("'", "''")
        return (
            f"bank = '{bank}' AND bank_version = {self.bank_version} "
            f"AND num_edits = {self.num_edits} AND group_size = {self.group_size}"
        )


def result_key(result: ProbeResult) -> ResultKey:
    """What tells the results of one evaluation apart."""
    return result.case_id, result.probe_index, result.protocol


class ResultsTable:
    """The table `results/<run>`."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        """Open the table, made empty when there is none.

        Args:
            store: Where it lives.
            run: Name of the run.

        Raises:
            IntegrityError: An older release wrote it, with other columns.
        """
        self.run = run
        self._table = Table.open_or_create(store, f"results/{run}", _SCHEMA)
        if self._table.schema.names != _SCHEMA.names:
            raise IntegrityError(
                f"table {self._table.uri}: expected columns {_SCHEMA.names}, found "
                f"{self._table.schema.names}; it was written by another release. Choose another "
                "run name, or delete the table and the run evaluates again"
            )
        self._seen: tuple[int, EvaluationKey, set[ResultKey]] | None = None

    def append(self, results: Sequence[ProbeResult], evaluation: EvaluationKey) -> int:
        """Write results down in one commit, those known already left out.

        Args:
            results: Of one evaluation of one bank version.
            evaluation: Which one.

        Returns:
            How many rows are new.
        """

        def attempt(base: LanceDataset) -> int:
            known = self._keys(base, evaluation)
            new = {result_key(result): result for result in results}
            new = {key: result for key, result in new.items() if key not in known}
            if new:
                rows = [{**asdict(result), **asdict(evaluation)} for result in new.values()]
                version = self._table.append(base, pa.Table.from_pylist(rows, schema=_SCHEMA))
                self._seen = (version, evaluation, known | set(new))
            return len(new)

        return self._table.on_latest(attempt)

    def _keys(self, base: LanceDataset, evaluation: EvaluationKey) -> set[ResultKey]:
        """Keys that a version of the table holds; read only when others have written."""
        if self._seen and self._seen[:2] == (base.version, evaluation):
            return self._seen[2]
        rows = base.to_table(columns=_KEY_COLUMNS, filter=evaluation.predicate())
        return set(zip(*(column.to_pylist() for column in rows.columns), strict=True))

    def read(self, evaluation: EvaluationKey | None = None) -> list[ProbeResult]:
        """Results in the order of writing.

        Args:
            evaluation: Only those of this one.
        """
        rows = self._table.latest().to_table(
            columns=_RESULT_COLUMNS, filter=evaluation.predicate() if evaluation else None
        )
        return list(_results_of(rows))

    def to_arrow(self) -> pa.Table:
        """All rows and columns."""
        return self._table.latest().to_table()

    def evaluations(self) -> list[EvaluationKey]:
        """The evaluations that have results, by bank, version and number of edits."""
        rows = self._table.latest().to_table(columns=_EVALUATION_COLUMNS)
        found = set(zip(*(column.to_pylist() for column in rows.columns), strict=True))
        return [
            EvaluationKey(**dict(zip(_EVALUATION_COLUMNS, key, strict=True)))
            for key in sorted(found)
        ]


def _results_of(rows: pa.Table) -> Iterable[ProbeResult]:
    for row in rows.to_pylist():
        row["kind"] = ProbeKind(row["kind"])
        row["kept"], row["weights"] = tuple(row["kept"]), tuple(row["weights"])
        yield ProbeResult(**row)
