"""Objects as files of a folder, and what any kind of storage must be able to do.

Used by `ObjectStore` only.
"""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from infra.storage.durable import sync_folder
from liveedit_core.errors import InputError, StorageUnavailableError

TEMPORARY_PREFIX = ".tmp-"
"""File names that begin so are writes under way, or left by a killed process; never objects."""


class MissingObjectError(Exception):
    """No object has this key; turned into the error that fits by the caller."""


@dataclass(frozen=True, kw_only=True)
class ObjectEntry:
    """What a listing says of an object."""

    key: str
    num_bytes: int
    modified_at: datetime
    """By the clock of the storage."""


class Backend(Protocol):
    """What a kind of storage must do; keys are already checked."""

    def put(self, key: str, data: bytes) -> None: ...
    def put_if_absent(self, key: str, data: bytes) -> bool: ...
    def get(self, key: str, max_bytes: int | None) -> bytes: ...
    def exists(self, key: str) -> bool: ...
    def entries(self, prefix: str) -> list[ObjectEntry]: ...
    def delete(self, key: str) -> None: ...


def too_large(name: str, max_bytes: int) -> InputError:
    """The error of an object that is larger than the reader allows."""
    return InputError(f"{name!r} is larger than the limit of {max_bytes:,} bytes")


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise MissingObjectError from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise MissingObjectError from None
        raise StorageUnavailableError(f"{path}: {error.strerror or error}") from error


class DiskBackend:
    """Files below a folder; a write is a temporary file that gets its name when it is whole."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextlib.contextmanager
    def _whole_file(self, path: Path, data: bytes) -> Iterator[Path]:
        temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        except OSError as error:
            raise StorageUnavailableError(
                f"cannot write {path}: {error.strerror or error}"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def put(self, key: str, data: bytes) -> None:
        path = self._root / key
        with self._whole_file(path, data) as temporary:
            temporary.replace(path)
        sync_folder(path.parent)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._root / key
        with self._whole_file(path, data) as temporary:
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                return False
        sync_folder(path.parent)
        return True

    def get(self, key: str, max_bytes: int | None) -> bytes:
        path = self._root / key
        with _disk_errors(path):
            if not path.is_file():
                raise MissingObjectError
            with path.open("rb") as file:
                data = file.read() if max_bytes is None else file.read(max_bytes + 1)
        if max_bytes is not None and len(data) > max_bytes:
            raise too_large(str(path), max_bytes)
        return data

    def exists(self, key: str) -> bool:
        path = self._root / key
        with _disk_errors(path):
            return path.is_file()

    def entries(self, prefix: str) -> list[ObjectEntry]:
        folder = self._root / prefix.rpartition("/")[0]
        found = []
        for path in folder.rglob("*"):
            key = path.relative_to(self._root).as_posix()
            if path.name.startswith(TEMPORARY_PREFIX) or not key.startswith(prefix):
                continue
            with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                about = path.stat()
                if stat.S_ISREG(about.st_mode):
                    changed_at = datetime.fromtimestamp(about.st_mtime, UTC)
                    found.append(
                        ObjectEntry(key=key, num_bytes=about.st_size, modified_at=changed_at)
                    )
        return found

    def delete(self, key: str) -> None:
        path = self._root / key
        with contextlib.suppress(MissingObjectError), _disk_errors(path):
            path.unlink()
