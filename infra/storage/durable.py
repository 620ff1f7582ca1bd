"""Bytes that survive a power cut: files are forced to disk before what refers to them is.

Lance writes data, deletions and manifests of a table on disk through the page cache. Without this a
version could be there after a power cut, and the rows that it names could not.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lance.fragment import FragmentMetadata

_NEWEST_NAME = 2**64 - 1
"""Lance names manifests by this number minus their version, so that the newest is listed first."""


def sync(paths: Iterable[Path]) -> None:
    """Force files, and the entries of their folders, to disk.

    Args:
        paths: Files; those that are not there are passed over.

    Raises:
        OSError: The disk did not take them.
    """
    folders = set()
    for path in paths:
        if path.is_file():
            _sync_one(path)
            folders.add(path.parent)
    for folder in folders:
        _sync_one(folder)


def sync_fragments(table_uri: str, fragments: Iterable["FragmentMetadata"]) -> None:
    """Before a commit: the data that the new version will name, of a table on disk."""
    if "://" not in table_uri:
        data = Path(table_uri) / "data"
        sync(data / file.path for fragment in fragments for file in fragment.files)


def sync_version(table_uri: str, version: int) -> None:
    """After a commit: the manifest of the new version, of a table on disk."""
    if "://" not in table_uri:
        folder = Path(table_uri) / "_versions"
        names = (f"{_NEWEST_NAME - version:020d}.manifest", f"{version}.manifest")
        sync(folder / name for name in names)


def sync_folder(folder: Path) -> None:
    """Force the entries of a folder to disk, where its file system can."""
    with contextlib.suppress(OSError):
        _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
