"""Objects below one root URI: a folder on disk or a prefix in an S3 bucket, with one behaviour.

Everything that is not a table goes through here. S3 endpoint, region and credentials come from the
standard AWS environment; a pickled store carries its endpoint but never credentials.
"""

import functools
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from infra.storage import s3
from infra.storage.disk import TEMPORARY_PREFIX, DiskBackend, MissingObjectError, ObjectEntry
from liveedit_core.errors import InputError, IntegrityError, StorageUnavailableError

_PROBE_WRITERS = 4
_MAX_PROBES = 5


class UnsafeStoreError(StorageUnavailableError):
    """The store does not create objects exclusively; nothing may be committed there."""

    retryable = False


class Backend(Protocol):
    """What a kind of storage must do, on checked keys; `MissingObjectError` for a missing one."""

    def put(self, key: str, data: bytes) -> None: ...
    def put_if_absent(self, key: str, data: bytes) -> bool: ...
    def get(self, key: str, max_bytes: int | None) -> bytes: ...
    def exists(self, key: str) -> bool: ...
    def entries(self, prefix: str, is_flat: bool) -> list[ObjectEntry]: ...
    def delete(self, key: str) -> None: ...


class ObjectStore:
    """Objects by key; picklable, holds no credentials."""

    def __init__(self, root_uri: str | Path, endpoint: str = "", timeout_s: float = 0.0) -> None:
        """The root is `file:///folder`, a plain path, or `s3://bucket/prefix`.

        Endpoint "" is that of the AWS environment; timeout 0 is LIVEEDIT_S3_TIMEOUT_S, or 30 s.
        """
        self.root_uri = _normalized_root(root_uri)
        self._given_endpoint = endpoint
        self._timeout_s = timeout_s or s3.request_timeout_s()

    def __reduce__(self) -> tuple[type["ObjectStore"], tuple[str, str, float]]:
        """Pickle the endpoint too, so that a node with another environment uses the same server."""
        return ObjectStore, (self.root_uri, self._endpoint, self._timeout_s)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStore) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash(self.__reduce__())

    @property
    def _endpoint(self) -> str:
        return self._given_endpoint or s3.default_endpoint()

    @functools.cached_property
    def _backend(self) -> Backend:
        parts = urlsplit(self.root_uri)
        if parts.scheme == "s3":
            return self._s3_backend(parts.netloc, parts.path.strip("/"))
        return DiskBackend(Path(unquote(parts.path)))

    def _s3_backend(self, bucket: str, prefix: str) -> Backend:
        return s3.S3Backend(bucket, prefix, self._given_endpoint, self._timeout_s)

    def put(self, key: str, data: bytes) -> None:
        self._backend.put(_checked(key), data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create an object exclusively; returns whether this call created it.

        False too when the response of an S3 server was lost and the retry found its own object;
        callers that must know put a token into `data`.
        """
        return self._backend.put_if_absent(_checked(key), data)

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """Read an object; IntegrityError if missing, InputError if larger than `max_bytes`."""
        try:
            return self._backend.get(_checked(key), max_bytes)
        except MissingObjectError:
            raise IntegrityError(f"object {key!r} is missing in {self.root_uri}") from None

    def exists(self, key: str) -> bool:
        return self._backend.exists(_checked(key))

    def list(self, prefix: str = "") -> list[str]:
        """All keys that begin with the prefix, sorted."""
        return sorted(entry.key for entry in self._backend.entries(prefix, False))

    def entries(self, prefix: str = "", *, is_flat: bool = False) -> Sequence[ObjectEntry]:
        """All objects whose keys begin with the prefix, oldest first, then by key; with `is_flat`
        only those without a further "/", and folders are not listed."""
        found = self._backend.entries(prefix, is_flat)
        return sorted(found, key=lambda entry: (entry.modified_at, entry.key))

    def delete(self, key: str) -> None:
        """Delete an object; a missing one is fine."""
        self._backend.delete(_checked(key))

    def fetch(self, uri: str, max_bytes: int) -> bytes:
        """Read an object by its URI, `s3://bucket/key` of any bucket, or `file:///path`."""
        scheme, _, rest = uri.partition("://")
        host, _, path = rest.partition("/")
        is_s3 = scheme == "s3" and host != ""
        is_file = scheme == "file" and host in ("", "localhost")
        key = (unquote(path) if is_file else path).lstrip("/")
        if not key or not (is_s3 or is_file):
            raise InputError(
                f"cannot fetch {uri[:200]!r}: give s3://bucket/key or file:///path "
                "(http and https are not fetched; copy the image into the store first)"
            )
        backend = self._s3_backend(host, "") if is_s3 else DiskBackend(Path("/"))
        try:
            return backend.get(key, max_bytes)
        except MissingObjectError:
            raise InputError(f"{uri[:200]!r} does not exist or is not a file") from None

    def check_exclusive_create(self) -> None:
        """Prove that conditional creation is exclusive here, as some S3 servers ignore it."""
        for _ in range(_MAX_PROBES):
            if self._probe_once():
                return
        raise StorageUnavailableError(
            f"{self.root_uri}: {_MAX_PROBES} times the response to the successful conditional PUT "
            "was lost; whether the store creates objects exclusively is not proven"
        )

    def _probe_once(self) -> bool:
        """Let several writers create one object; False when the successful response was lost."""
        key = f"probes/exclusive-{uuid.uuid4().hex}"
        contents = [f"contender {index}".encode() for index in range(_PROBE_WRITERS)]
        try:
            with ThreadPoolExecutor(_PROBE_WRITERS) as pool:
                created = list(pool.map(lambda data: self.put_if_absent(key, data), contents))
            created_late = self.put_if_absent(key, b"late")
            stored = self.get(key)
        finally:
            self.delete(key)
        winners = [data for data, is_new in zip(contents, created, strict=True) if is_new]
        if not winners and not created_late and stored in contents:
            return False
        if created_late or winners != [stored]:
            raise UnsafeStoreError(
                f"{self.root_uri} does not create objects exclusively: of {_PROBE_WRITERS + 1} "
                f"conditional PUTs (If-None-Match: *) of one key {len(winners) + created_late} "
                "succeeded, one should have. Concurrent writers would lose data; use another "
                "server or a newer version of it"
            )
        return True

    def table_uri(self, name: str) -> str:
        root = urlsplit(self.root_uri)
        base = self.root_uri if root.scheme == "s3" else unquote(root.path)
        return f"{base}/{_checked(name)}"

    def table_options(self) -> dict[str, str]:
        if not self.root_uri.startswith("s3://"):
            return {}
        return s3.table_options(self._endpoint, self._timeout_s)


def _normalized_root(root_uri: str | Path) -> str:
    text = str(root_uri)
    try:
        text.encode()  # a name of other bytes would be that of another folder in a URI
        parts = urlsplit(text if "://" in text else Path(text).absolute().as_uri())
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            return Path(unquote(parts.path)).as_uri()
    except ValueError as error:
        raise InputError(f"store root {text!r} is not a place: {error}") from error
    if parts.scheme == "s3" and parts.netloc and not parts.query and not parts.fragment:
        return text.rstrip("/")
    raise InputError(f"store root {text!r}: expected file:///folder, a path or s3://bucket/prefix")


def _checked(key: str) -> str:
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(TEMPORARY_PREFIX) for part in parts):
        raise InputError(f"key {key!r} is not a relative path of plain names")
    return key
