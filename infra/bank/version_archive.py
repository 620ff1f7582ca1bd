"""Records of bank versions, kept when the versions themselves are cleaned up.

Lance keeps our record of a version in the version's own transaction, so it goes when the version
goes. Before that happens the records are filed here: `histories/<bank>/<through>-<token>.json`. A
file is written once and never changed; two processes that file at once leave two files that say
the same, and the next filing merges them. So nothing that was filed is ever lost.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError

RECORD_PREFIX = "liveedit."
"""Properties of ours; Lance's own are not filed."""

_SEGMENT_BYTES = 4 * 1024 * 1024
"""Smaller files are merged with newer records; larger ones stay as they are."""
_READ_TRIES = 5


@dataclass
class ArchivedRecords:
    """What has been filed."""

    through: int = 0
    """Every version up to this one was looked at; 0 when nothing was ever filed."""
    properties: dict[int, dict[str, str]] = field(default_factory=dict)
    """Of each version that has a record, its texts; rising."""


class VersionArchive:
    """Filed records of one bank."""

    def __init__(self, store: ObjectStore, bank: str) -> None:
        """Name the bank; nothing is read yet."""
        self._store = store
        self._prefix = f"histories/{bank}/"

    def through(self) -> int:
        """Every version up to this one is filed, or has no record; only names are read."""
        keys = self._store.list(self._prefix)
        numbers = (key.removeprefix(self._prefix).partition("-")[0] for key in keys)
        return max(map(int, numbers), default=0)

    def read(self) -> ArchivedRecords:
        """All that has been filed.

        Raises:
            IntegrityError: A file is damaged.
        """
        return _merged(self._segments())

    def add(self, through: int, properties: Mapping[int, Mapping[str, str]]) -> None:
        """File the records of more versions.

        Args:
            through: Every version up to this one is filed now, or never had a record.
            properties: Texts of versions, all keys of `RECORD_PREFIX` that they have.
        """
        small = {key: text for key, text in self._segments().items() if len(text) < _SEGMENT_BYTES}
        records = _merged(small)
        records.through = max(records.through, through)
        records.properties |= {version: dict(texts) for version, texts in properties.items()}
        content = {"through": records.through, "properties": records.properties}
        name = f"{records.through:012d}-{uuid.uuid4().hex[:12]}.json"
        self._store.put(self._prefix + name, json.dumps(content).encode())
        for key in small:
            self._store.delete(key)

    def _segments(self) -> dict[str, bytes]:
        """Files by key; a merger may replace some while they are read."""
        for _ in range(_READ_TRIES):
            keys = self._store.list(self._prefix)
            try:
                return {key: self._store.get(key) for key in keys}
            except IntegrityError as error:
                missing = error
        raise missing


def _merged(segments: Mapping[str, bytes]) -> ArchivedRecords:
    records = ArchivedRecords()
    for key, data in segments.items():
        try:
            content = json.loads(data)
            records.through = max(records.through, content["through"])
            for version, texts in content["properties"].items():
                records.properties[int(version)] = texts
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"the filed records {key!r} are damaged: {error!r}") from error
    records.properties = dict(sorted(records.properties.items()))
    return records
