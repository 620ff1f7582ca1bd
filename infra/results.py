"""Per-probe results of a run: one row a probe, protocol and evaluated bank version."""

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa
from lance import LanceDataset

from infra.object_store import ObjectStore
from infra.tables import Table
from liveedit_core.metrics import ProbeResult
from liveedit_core.schema import ProbeKind

_SCHEMA = pa.schema(
    [
        pa.field("bank_version", pa.int64(), nullable=False),
        pa.field("num_edits", pa.int64(), nullable=False),
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("probe_index", pa.int64(), nullable=False),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("edit_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("answer_before", pa.string(), nullable=False),
        pa.field("answer_after", pa.string(), nullable=False),
        pa.field("kept", pa.list_(pa.string()), nullable=False),
        pa.field("weights", pa.list_(pa.float64()), nullable=False),
        pa.field("own_expert_kept", pa.bool_(), nullable=False),
    ]
)
_RESULT_COLUMNS = [name for name in _SCHEMA.names if name not in ("bank_version", "num_edits")]
_KEY_COLUMNS = ["case_id", "probe_index", "protocol"]


class ResultsTable:
    """The table `results/<run>`."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        """Open the table, made empty when there is none.

        Args:
            store: Where it lives.
            run: Name of the run.
        """
        self._table = Table.open_or_create(store, f"results/{run}", _SCHEMA)

    def append(self, results: Sequence[ProbeResult], *, bank_version: int, num_edits: int) -> int:
        """Write results down in one commit, those known already left out.

        Args:
            results: Of one evaluation of one bank version.
            bank_version: The version evaluated.
            num_edits: How many edits had been made.

        Returns:
            How many rows are new.
        """

        def attempt(base: LanceDataset) -> int:
            known = base.to_table(
                columns=_KEY_COLUMNS,
                filter=f"bank_version = {bank_version} AND num_edits = {num_edits}",
            )
            keys = set(zip(*(column.to_pylist() for column in known.columns), strict=True))
            new = {_key(result): result for result in results if _key(result) not in keys}
            if new:
                evaluation = {"bank_version": bank_version, "num_edits": num_edits}
                rows = [{**asdict(result), **evaluation} for result in new.values()]
                self._table.append(base, pa.Table.from_pylist(rows, schema=_SCHEMA))
            return len(new)

        return self._table.on_latest(attempt)

    def read(
        self, *, bank_version: int | None = None, num_edits: int | None = None
    ) -> list[ProbeResult]:
        """Results in the order of writing.

        Args:
            bank_version: Only those of this version.
            num_edits: Only those at this number of edits.
        """
        wanted = {"bank_version": bank_version, "num_edits": num_edits}
        terms = [f"{name} = {value}" for name, value in wanted.items() if value is not None]
        rows = self._table.latest().to_table(
            columns=_RESULT_COLUMNS, filter=" AND ".join(terms) or None
        )
        return [
            ProbeResult(
                **{
                    **row,
                    "kind": ProbeKind(row["kind"]),
                    "kept": tuple(row["kept"]),
                    "weights": tuple(row["weights"]),
                }
            )
            for row in rows.to_pylist()
        ]

    def to_arrow(self) -> pa.Table:
        """All rows and columns."""
        return self._table.latest().to_table()

    def checkpoints(self) -> list[tuple[int, int]]:
        """The evaluations that have results: (bank version, number of edits), sorted."""
        rows = self._table.latest().to_table(columns=["bank_version", "num_edits"])
        pairs = zip(*(column.to_pylist() for column in rows.columns), strict=True)
        return sorted(set(pairs))


def _key(result: ProbeResult) -> tuple[str, int, str]:
    return result.case_id, result.probe_index, result.protocol
