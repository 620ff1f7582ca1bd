"""What the edits of a bank taught, from the request log beside it; picklable."""

from collections.abc import Collection
from dataclasses import dataclass

from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.schema import Fact


@dataclass(frozen=True)
class LoggedFacts:
    """A `FactSource`; reads the log when it is asked, and knows nothing without one."""

    _store: ObjectStore

    def facts_of(self, edit_ids: Collection[str]) -> dict[str, Fact]:
        if not RequestLog.exists(self._store):
            return {}
        return {
            header.edit_id: Fact(
                prompt=header.prompt,
                target=header.target,
                subject_id=header.subject_id,
                pixel_digest=header.pixel_digest,
            )
            for header in RequestLog(self._store).headers(edit_ids=edit_ids)
        }

    def images_of(self, edit_ids: Collection[str]) -> dict[str, bytes]:
        if not RequestLog.exists(self._store):
            return {}
        found = RequestLog(self._store).find(edit_ids)
        images = {logged.request.edit_id: logged.request.image_bytes for logged in found}
        return {edit_id: image for edit_id, image in images.items() if image is not None}
