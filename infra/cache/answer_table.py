"""Answers of the unedited backbone, kept between jobs: the table `answers/<backbone>-<layer>`.

Content-addressed like the state cache; the table may be deleted at any time.
"""

import logging
from collections.abc import Mapping, Sequence

import pyarrow as pa

from infra.cache.content_table import ContentTable, WrittenRows
from infra.storage.object_store import ObjectStore
from infra.storage.tables import not_null
from liveedit_core.errors import IntegrityError, StorageUnavailableError
from liveedit_core.evaluation.unedited_answers import UneditedAnswer, UneditedQuery, answer_id
from liveedit_core.state_source import StateIdentity

_SCHEMA = not_null(
    answer_id=pa.string(), text=pa.string(), token_ids=pa.list_(pa.int64()), num_bytes=pa.int64()
)

_logger = logging.getLogger(__name__)


class AnswerTable:
    """An `AnswerCache` in a store, shared by all bank versions and jobs.

    A failure of the store is logged; the answers are then computed again.
    """

    def __init__(self, store: ObjectStore, identity: StateIdentity) -> None:
        self._identity = identity
        name = f"answers/{identity.backbone_digest[:16]}-{identity.edit_layer}"
        self._rows = ContentTable(store, name, _SCHEMA, key="answer_id")

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, queries: Sequence[UneditedQuery]) -> list[UneditedAnswer | None]:
        ids = [answer_id(self._identity, query) for query in queries]
        try:
            found = self._read(ids)
            if any(key not in found for key in ids):
                self._rows.refresh()
                found = self._read(ids)
        except (IntegrityError, StorageUnavailableError, ValueError) as error:
            _logger.warning("unedited answers are computed again: %s", error)
            found = {}
        return [found.get(key) for key in ids]

    def _read(self, ids: Sequence[str]) -> dict[str, UneditedAnswer]:
        return {
            row["answer_id"]: UneditedAnswer(text=row["text"], token_ids=tuple(row["token_ids"]))
            for row in self._rows.rows(ids).to_pylist()
        }

    def write(self, answers: Mapping[UneditedQuery, UneditedAnswer]) -> None:
        # Queries that differ only in an unused target share an id.
        answer_of = {answer_id(self._identity, key): answer for key, answer in answers.items()}
        rows = [
            {
                "answer_id": key,
                "text": answer.text,
                "token_ids": list(answer.token_ids),
                "num_bytes": len(answer.text.encode()) + 8 * len(answer.token_ids),
            }
            for key, answer in answer_of.items()
        ]
        table = pa.Table.from_pylist(rows, schema=_SCHEMA)
        try:
            self._rows.commit(WrittenRows.write(self._rows.table, table, "answer_id"))
        except (IntegrityError, StorageUnavailableError) as error:
            _logger.warning("unedited answers were not stored: %s", error)
