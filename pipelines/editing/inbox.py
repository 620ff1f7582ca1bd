"""The inbox of the continuous mode: JSONL files that arrive in a folder or under an S3 prefix.

    inbox/facts.jsonl  ->  request log  ->  inbox_done/facts-<digest>.jsonl
                           (all lines)      inbox_done/facts-<digest>.receipt.json
    inbox/photos/1.png      ------------->  inbox_done/photos/1.png

A file leaves the inbox when all its lines are logged or stored as rejects. It takes the images of
its accepted lines along; another file that names them finds them there. Reading a file again after
a failure changes nothing: the log recognizes every edit, and the copy is named by its content. A
file that fails three times moves to `inbox_failed/`, with a receipt that says why. On disk, write a
file elsewhere and rename it into the inbox.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from infra.requests.request_log import RequestLog
from infra.storage.disk import TEMPORARY_PREFIX, ObjectEntry, other_than_files
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import (
    InputError,
    IntegrityError,
    LiveEditError,
    StorageUnavailableError,
)
from liveedit_core.inputs.datasets import check_known_good, load_requests
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import EditRequest
from pipelines.editing.intake import Intake, Source, log_requests
from pipelines.job.cases import fetcher
from workers.failures import is_of_no_input, retried

_SUFFIX = ".jsonl"
MAX_TRIES = 3


class InboxFileError(LiveEditError):
    """A file of the inbox could not be logged; it is tried again later."""


class Inbox:
    """Files that wait, oldest first; a file is logged as a whole or not at all."""

    def __init__(
        self,
        uri: str,
        *,
        limits: InputLimits,
        settle_s: float = 1.0,
        max_file_bytes: int = 268_435_456,
        store_uri: str = "",
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Read nothing yet.

        A file on disk that changed within `settle_s` is not read yet; a file above `max_file_bytes`
        stays in the inbox, as do folders, links and pipes, with a message to `say`.
        """
        self._store = ObjectStore(uri)
        self._done = ObjectStore(f"{self._store.root_uri}_done")
        self._limits = limits
        self._store_uri = store_uri
        self._is_on_disk = self.uri.startswith("file:")
        self._folder = Path(unquote(urlsplit(self.uri).path))
        self._settle = timedelta(seconds=settle_s if self._is_on_disk else 0.0)
        self._max_file_bytes = max_file_bytes
        self._say = say
        self._failed = ObjectStore(f"{self._store.root_uri}_failed")
        self._reported: set[str] = set()
        self._num_tries: Counter[ObjectEntry] = Counter()

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
            is_name = entry.key.endswith(_SUFFIX) and not entry.key.startswith(TEMPORARY_PREFIX)
            if not is_name or self._num_tries[entry] >= MAX_TRIES:
                continue
            if entry.num_bytes > self._max_file_bytes:
                self._leave(
                    entry.key,
                    f"has {entry.num_bytes:,} bytes, more than follow.max_file_bytes "
                    f"({self._max_file_bytes:,})",
                    "split it",
                )
            elif not self._is_on_disk or entry.modified_at <= settled_at:
                files.append(entry)
        for name in other_than_files(self._folder, _SUFFIX) if self._is_on_disk else ():
            self._leave(name, "is a folder, a link or a pipe", "put the file itself here")
        return files

    def _leave(self, key: str, what: str, hint: str) -> None:
        """Say once why something is not read."""
        if key not in self._reported:
            self._reported.add(key)
            self._say(f"{self.uri}/{key} {what}; it stays in the inbox: {hint}")

    def take(self, entry: ObjectEntry, request_log: RequestLog) -> Intake | None:
        """As `log_file`. InboxFileError for a file that is at fault itself, until it has failed so
        often that it is put aside, for which None is returned."""
        try:
            return self.log_file(entry, request_log)
        except Exception as error:
            if is_of_no_input(error):
                raise
            check_known_good()
            len(request_log)  # raises if it is the log that is at fault
            self._num_tries[entry] += 1
            if self._num_tries[entry] < MAX_TRIES:
                raise InboxFileError(
                    f"{self.uri}/{entry.key} could not be read "
                    f"({self._num_tries[entry]} of {MAX_TRIES} tries): {error}"
                ) from error
            self._put_aside(entry, error)
        return None

    def _put_aside(self, entry: ObjectEntry, error: Exception) -> None:
        """Move a file away, or leave it if it cannot be read at all; either way with a receipt."""
        try:
            data = self._content(entry)
        except StorageUnavailableError as unreadable:
            if is_of_no_input(unreadable):
                raise
            data = None
        moment = entry.modified_at.isoformat()
        digest = hashlib.sha256(moment.encode() if data is None else data).hexdigest()
        copy = f"{entry.key.removesuffix(_SUFFIX)}-{digest[:12]}"
        receipt = {
            "file": entry.key,
            "arrived_at": moment,
            "put_aside_at": datetime.now(UTC).isoformat(),
            "num_tries": MAX_TRIES,
            "error_type": type(error).__name__,
            "message": str(error),
        }
        if data is not None:
            retried(lambda: self._failed.put(f"{copy}{_SUFFIX}", data))
        text = json.dumps(receipt, indent=2).encode()
        retried(lambda: self._failed.put(f"{copy}.receipt.json", text))
        if data is not None and self._content(entry) == data:
            retried(lambda: self._store.delete(entry.key))
        self._say(
            f"{self.uri}/{entry.key} failed {MAX_TRIES} times ({error}); put aside: "
            f"{self._failed.root_uri}/{copy}.receipt.json"
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
                store_uri=self._store_uri,
                images_at=self._folder if self._is_on_disk else self.uri,
                moved_to=self._done.root_uri,
            )
            name = f"{self.uri}/{entry.key}"
            moment = entry.modified_at.isoformat()
            shown: set[str] = set()
            noted = _noting_images(items, shown)
            source = Source(name=name, digest=digest, items=noted, moment=moment)
            intake = log_requests(source, request_log)
        for uri in sorted(shown):  # before the file: whoever reads it again finds them
            self._move_image(uri)
        self._move(entry, data, digest, intake)
        return intake

    def _move_image(self, uri: str) -> None:
        """Move an image out of the inbox if it lies there; what has its name there already is kept
        under another one."""
        start = f"{self.uri if not self._is_on_disk else self._folder.resolve().as_uri()}/"
        key = uri.removeprefix(start)
        key = unquote(key) if self._is_on_disk else key
        data = None if not uri.startswith(start) or key.endswith(_SUFFIX) else self._object(key)
        if data is None:
            return
        if retried(lambda: self._done.exists(key)):
            before, path = retried(lambda: self._done.get(key)), PurePosixPath(key)
            if before != data:
                digest = hashlib.sha256(before).hexdigest()
                kept = path.with_stem(f"{path.stem}-{digest[:12]}")
                retried(lambda: self._done.put(str(kept), before))
        retried(lambda: self._done.put(key, data))
        if self._object(key) == data:
            retried(lambda: self._store.delete(key))

    def _content(self, entry: ObjectEntry) -> bytes | None:
        return self._object(entry.key)

    def _object(self, key: str) -> bytes | None:
        try:
            return retried(lambda: self._store.get(key))
        except (IntegrityError, InputError):  # gone, or no name of an object
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


def _noting_images(
    items: Iterable[EditRequest | Rejected], uris: set[str]
) -> Iterator[EditRequest | Rejected]:
    """The items; where the images of the accepted ones lie is added to `uris`."""
    for item in items:
        if isinstance(item, EditRequest):
            uris.add(item.image_uri)
        yield item
