"""What the edits of a bank taught, from the request log beside it; picklable."""

from collections.abc import Collection
from dataclasses import dataclass

from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.schema import Fact

MAX_KNOWN = 100_000
_known: dict[tuple[str, str], Fact] = {}
"""What this process has read, by store and edit: the fact of an edit never changes."""


@dataclass(frozen=True)
class LoggedFacts:
    """A `FactSource`; reads the log when it is asked, and knows nothing without one."""

    _store: ObjectStore

    def facts_of(self, edit_ids: Collection[str]) -> dict[str, Fact]:
        found = {
            edit_id: fact
            for edit_id in edit_ids
            if (fact := _known.get((self._store.root_uri, edit_id))) is not None
        }
        unknown = [edit_id for edit_id in edit_ids if edit_id not in found]
        if not unknown or not RequestLog.exists(self._store):
            return found
        if len(_known) + len(unknown) > MAX_KNOWN:
            _known.clear()
        for header in RequestLog(self._store).headers(edit_ids=unknown):
            fact = Fact(
                prompt=header.prompt,
                target=header.target,
                subject_id=header.subject_id,
                pixel_digest=header.pixel_digest,
            )
            found[header.edit_id] = _known[self._store.root_uri, header.edit_id] = fact
        return found

    def images_of(self, edit_ids: Collection[str]) -> dict[str, bytes]:
        if not RequestLog.exists(self._store):
            return {}
        found = RequestLog(self._store).find(edit_ids)
        images = {logged.request.edit_id: logged.request.image_bytes for logged in found}
        return {edit_id: image for edit_id, image in images.items() if image is not None}
