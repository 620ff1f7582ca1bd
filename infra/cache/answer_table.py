"""What the unedited backbone says, remembered between jobs: the table `answers/<backbone>-<layer>`.

Content-addressed like the state cache: a name says all that an answer depends on, so a row is never
wrong, only missing. The table may be deleted at any time; its answers are then computed again.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from infra.cache.content_table import ContentTable, WrittenRows
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError, StorageUnavailableError
from liveedit_core.evaluation.unedited_answers import UneditedAnswer, UneditedQuery, answer_id
from liveedit_core.state_identity import StateIdentity

_SCHEMA = pa.schema(
    [
        pa.field("answer_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int64()), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
    ]
)

_logger = logging.getLogger(__name__)


class AnswerTable:
    """An `AnswerCache` in a store, shared by every bank version and every job."""

    def __init__(self, store: ObjectStore, identity: StateIdentity) -> None:
        """Open the table, made empty when there is none.

        Args:
            store: Where it lives.
            identity: Of the rows that answers are computed from.
        """
        self._store = store
        self._identity = identity
        name = f"answers/{identity.backbone_digest[:16]}-{identity.edit_layer}"
        self._rows = ContentTable(store, name, _SCHEMA, key="answer_id")

    def __len__(self) -> int:
        """Answers held, as last read."""
        return len(self._rows)

    def read(self, questions: Sequence[UneditedQuery]) -> list[UneditedAnswer | None]:
        """See `AnswerCache.read`; a store that is away now only costs time."""
        names = [answer_id(self._identity, question) for question in questions]
        try:
            if any(name not in self._rows for name in names):
                self._rows.refresh()
            found = self._read(names)
        except (IntegrityError, StorageUnavailableError, ValueError) as error:
            _logger.warning("unedited answers are computed again: %s", error)
            found = {}
        return [found.get(name) for name in names]

    def _read(self, names: Sequence[str]) -> dict[str, UneditedAnswer]:
        held = [name for name in dict.fromkeys(names) if name in self._rows]
        if not held:
            return {}
        rows = self._rows.take(held).to_pylist()
        return {
            row["answer_id"]: UneditedAnswer(text=row["text"], token_ids=tuple(row["token_ids"]))
            for row in rows
        }

    def keep(self, answers: Mapping[UneditedQuery, UneditedAnswer]) -> None:
        """See `AnswerCache.keep`; a store that is away now only costs time."""
        # Questions that differ in a target that plays no part share a name.
        rows = dict(_row(self._identity, *pair) for pair in answers.items())
        table = pa.Table.from_pylist(list(rows.values()), schema=_SCHEMA)
        try:
            written = WrittenRows.write(
                self._rows.uri, table, self._store.table_options(), "answer_id"
            )
            self._rows.commit([written])
        except (IntegrityError, StorageUnavailableError) as error:
            _logger.warning("unedited answers were not written down: %s", error)


def _row(
    identity: StateIdentity, question: UneditedQuery, answer: UneditedAnswer
) -> tuple[str, dict[str, Any]]:
    name = answer_id(identity, question)
    token_ids = list(answer.token_ids)
    num_bytes = len(answer.text.encode()) + 8 * len(token_ids)
    row = {
        "answer_id": name,
        "text": answer.text,
        "token_ids": token_ids,
        "num_bytes": num_bytes,
    }
    return name, row
