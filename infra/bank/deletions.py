"""Versions that a clean-up is deleting.

A clean-up announces the versions, then reads the tags; who tags a version writes the tag, then
reads the announcements. So one of the two sees the other: the version stays, or the tag is taken
back.
"""

import contextlib
import json
import uuid
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import ConfigError, IntegrityError

_ENDED = timedelta(days=1)
"""After this long an announcement is that of a process that died."""


class Deletions:
    """Objects `deletions/<bank>/<token>.json`, one for each clean-up that runs."""

    def __init__(self, store: ObjectStore, bank: str) -> None:
        self._store = store
        self._prefix = f"deletions/{bank}/"

    @contextlib.contextmanager
    def announced(self, versions: Collection[int]) -> Iterator[None]:
        """Announce the deletion of versions. The announcement of a clean-up that fails stays, as
        its requests may still be carried out; a later clean-up removes it."""
        key = f"{self._prefix}{uuid.uuid4().hex}.json"
        self._store.put(key, json.dumps(sorted(versions)).encode())
        yield
        limit = datetime.now(UTC) - _ENDED
        old = (one.key for one in self._store.entries(self._prefix) if one.modified_at < limit)
        for ended in (key, *old):
            self._store.delete(ended)

    def versions(self) -> set[int]:
        """All that are announced."""
        found: set[int] = set()
        for key in self._store.list(self._prefix):
            with contextlib.suppress(IntegrityError):  # that clean-up has ended meanwhile
                found.update(_versions_in(self._store.get(key), key))
        return found


def _versions_in(data: bytes, key: str) -> list[int]:
    try:
        return [int(version) for version in json.loads(data)]
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{key} is damaged ({error!r}): where no clean-up runs, delete it"
        ) from error
