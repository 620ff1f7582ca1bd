"""The inbox of the continuous mode: JSONL files that arrive in a folder or under an S3 prefix.

    inbox/facts.jsonl  ->  request log  ->  inbox_done/facts-<digest>.jsonl
                           (all lines)      inbox_done/facts-<digest>.receipt.json

A file leaves the inbox when all its lines are logged or stored as rejects. Reading a file again
after a failure changes nothing: the log recognizes every edit, and the copy is named by its
content. On disk, write a file elsewhere and rename it into the inbox.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from infra.requests.request_log import RequestLog
from infra.storage.disk import ObjectEntry
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError
from liveedit_core.inputs.datasets import load_requests
from liveedit_core.inputs.limits import InputLimits
from pipelines.editing.intake import Intake, Source, log_requests
from pipelines.job.cases import fetcher
from workers.failures import retried

_SUFFIX = ".jsonl"


class Inbox:
    """Files that wait, oldest first; a file is logged as a whole or not at all."""

    def __init__(
        self,
        uri: str,
        *,
        limits: InputLimits,
        settle_s: float = 1.0,
        max_file_bytes: int = 268_435_456,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Read nothing yet.

        A file on disk that changed within `settle_s` is not read yet; a file above `max_file_bytes`
        stays in the inbox, with a message to `say`.
        """
        self._store = ObjectStore(uri)
        self._done = ObjectStore(f"{self._store.root_uri}_done")
        self._limits = limits
        self._is_on_disk = self.uri.startswith("file:")
        self._settle = timedelta(seconds=settle_s if self._is_on_disk else 0.0)
        self._max_file_bytes = max_file_bytes
        self._say = say
        self._reported: set[str] = set()

    @property
    def uri(self) -> str:
        """Where files arrive."""
        return self._store.root_uri

    def waiting(self) -> Sequence[ObjectEntry]:
        """Files that can be read now, in order of arrival.

        The order decides which of two targets for one image and prompt is the newer one. S3 knows
        arrival to the second; within one second, the name decides.
        """
        settled_at = datetime.now(UTC) - self._settle
        files = []
        for entry in self._store.entries(is_flat=True):
            if not entry.key.endswith(_SUFFIX):
                continue
            if entry.num_bytes > self._max_file_bytes:
                self._report_once(entry)
            elif not self._is_on_disk or entry.modified_at <= settled_at:
                files.append(entry)
        return files

    def _report_once(self, entry: ObjectEntry) -> None:
        if entry.key not in self._reported:
            self._reported.add(entry.key)
            self._say(
                f"{self.uri}/{entry.key} has {entry.num_bytes:,} bytes, more than "
                f"follow.max_file_bytes ({self._max_file_bytes:,}); it stays in the inbox: split it"
            )

    def log_file(self, entry: ObjectEntry, request_log: RequestLog) -> Intake | None:
        """Log all lines of a file, then move it out of the inbox; None if the file is gone."""
        data = self._content(entry)
        if data is None:
            return None
        digest = hashlib.sha256(data).hexdigest()
        with tempfile.TemporaryDirectory(prefix="liveedit-inbox-") as folder:
            copy = Path(folder) / "copy.jsonl"
            copy.write_bytes(data)
            items = load_requests(
                copy,
                limits=self._limits,
                fetch=fetcher(self._store, self._limits.max_image_bytes),
                images_at=Path(unquote(urlsplit(self.uri).path)) if self._is_on_disk else self.uri,
            )
            name = f"{self.uri}/{entry.key}"
            moment = entry.modified_at.isoformat()
            source = Source(name=name, digest=digest, items=items, moment=moment)
            intake = log_requests(source, request_log)
        self._move(entry, data, digest, intake)
        return intake

    def _content(self, entry: ObjectEntry) -> bytes | None:
        try:
            return retried(lambda: self._store.get(entry.key))
        except IntegrityError:
            return None

    def _move(self, entry: ObjectEntry, data: bytes, digest: str, intake: Intake) -> None:
        copy = f"{entry.key.removesuffix(_SUFFIX)}-{digest[:12]}"
        receipt = json.dumps(
            {
                "file": entry.key,
                "sha256": digest,
                "arrived_at": entry.modified_at.isoformat(),
                "taken_at": datetime.now(UTC).isoformat(),
                "num_accepted": intake.num_accepted,
                "num_new": intake.num_new,
                "num_duplicates": intake.num_duplicates,
                "refused": [
                    {
                        "line": item.line_number,
                        "error_type": item.error_type,
                        "message": item.message,
                    }
                    for item in intake.rejected
                ],
            },
            indent=2,
        )
        retried(lambda: self._done.put(f"{copy}{_SUFFIX}", data))
        retried(lambda: self._done.put(f"{copy}.receipt.json", receipt.encode()))
        # If lines were added meanwhile, the file stays and is read again.
        if self._content(entry) == data:
            retried(lambda: self._store.delete(entry.key))
