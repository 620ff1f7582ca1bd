"""Objects as files of a folder; files and folders are forced to disk (fsync)."""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from liveedit_core.errors import InputError, StorageUnavailableError

TEMPORARY_PREFIX = ".tmp-"
"""Start of the names of unfinished files, also those left by a killed process; never objects."""


class MissingObjectError(Exception):
    """No object has this key; `ObjectStore` converts it."""


class ObjectEntry(NamedTuple):
    key: str
    num_bytes: int
    modified_at: datetime


def too_large(name: str, max_bytes: int) -> InputError:
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
    """Files below a folder; a write is a temporary file that is renamed when complete."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextlib.contextmanager
    def _temporary_file(self, path: Path, data: bytes) -> Iterator[Path]:
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
        with self._temporary_file(path, data) as temporary:
            temporary.replace(path)
        sync_folder(path.parent)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create a file by a hard link; False when it exists."""
        path = self._root / key
        with self._temporary_file(path, data) as temporary:
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                return False
        sync_folder(path.parent)
        return True

    def get(self, key: str, max_bytes: int | None) -> bytes:
        path = self._root / key
        with _disk_errors(path):
            if not _is_object(path):
                raise MissingObjectError
            with open(path, "rb", opener=_opened_itself) as file:
                data = file.read() if max_bytes is None else file.read(max_bytes + 1)
        if max_bytes is not None and len(data) > max_bytes:
            raise too_large(str(path), max_bytes)
        return data

    def exists(self, key: str) -> bool:
        path = self._root / key
        with _disk_errors(path):
            return _is_object(path)

    def entries(self, prefix: str, is_flat: bool) -> list[ObjectEntry]:
        folder = self._root / prefix.rpartition("/")[0]
        found = []
        for path in folder.glob("*") if is_flat else folder.rglob("*"):
            key = path.relative_to(self._root).as_posix()
            if path.name.startswith(TEMPORARY_PREFIX) or not key.startswith(prefix):
                continue
            with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                about = path.lstat()  # links are no objects: others may have put them there
                if stat.S_ISREG(about.st_mode):
                    changed_at = datetime.fromtimestamp(about.st_mtime, UTC)
                    found.append(ObjectEntry(key, about.st_size, changed_at))
        return found

    def delete(self, key: str) -> None:
        path = self._root / key
        with contextlib.suppress(MissingObjectError), _disk_errors(path):
            path.unlink()


def other_than_files(folder: Path, suffix: str) -> list[str]:
    """Names in a folder, with this ending, of what is never an object: folders, links, pipes."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        return [
            one.name
            for one in found
            if one.name.endswith(suffix) and not one.is_file(follow_symlinks=False)
        ]
    return []


def _is_object(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL character
        return False


def _opened_itself(path: str, flags: int) -> int:
    """Open a file that no link has replaced since it was looked at."""
    return os.open(path, flags | os.O_NOFOLLOW)


def sync_files(paths: Iterable[Path]) -> None:
    """Force files and the entries of their folders to disk; missing files are skipped."""
    folders = set()
    for path in paths:
        if path.is_file():
            _sync(path)
            folders.add(path.parent)
    for folder in folders:
        _sync(folder)


def sync_folder(folder: Path) -> None:
    """Force the entries of a folder to disk, where the file system can."""
    with contextlib.suppress(OSError):
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
