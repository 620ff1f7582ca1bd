"""Where the images that a file names may lie: below its folder, the store and named roots.

Whoever writes a request is not whoever runs the job: a request must not read any image of the host,
nor learn which files exist. So links are not followed, and a place outside the roots is refused
before it is looked at.
"""

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from liveedit_core.errors import LiveEditError
from liveedit_core.inputs.images import check_image_bytes
from liveedit_core.inputs.rejects import RefusedInputError, RejectType

Fetch = Callable[[str], bytes]
"""Returns the bytes behind an object-store URI. An error that is retryable, or that `ends_job`,
stops the reading of the whole file; any other exception means that this image is not available."""

_S3 = "s3://"
_MISSING = (RejectType.IMAGE_NOT_FOUND, RejectType.IMAGE_UNREACHABLE)


class ImageRoots:
    """Reads images by the names that one file gives them."""

    def __init__(
        self,
        folder: Path | str,
        more: Sequence[str] = (),
        fetch: Fetch | None = None,
        moved_to: str = "",
    ) -> None:
        """`folder` is where relative names start, a path or an `s3://` URI, as `more` are. What is
        missing there is looked for under `moved_to`, a URI or ""."""
        self._remote_folder = f"{str(folder).rstrip('/')}/" if _is_remote(folder) else ""
        self._folder = Path() if self._remote_folder else Path(folder).resolve()
        roots = [folder, *more, *([moved_to] if moved_to else [])]
        self._from_to = (self._remote_folder or f"{self._folder.as_uri()}/", moved_to)
        self._remote = [f"{str(root).rstrip('/')}/" for root in roots if _is_remote(root)]
        self._local = [_local_path(str(root)) for root in roots if not _is_remote(root)]
        self._fetch = fetch

    def uri_of(self, name: str) -> str:
        """The whole URI of an image; RefusedInputError if it lies outside the roots."""
        if self._remote_folder and "://" not in name:
            name = f"{self._remote_folder}{name}"
        if "://" in name and not name.startswith((_S3, "file://")):
            raise RefusedInputError(
                "only a path, file:// or s3:// is read", RejectType.IMAGE_UNREACHABLE
            )
        if not _is_remote(name):
            root, parts = self._below(name)
            return root.joinpath(*parts).as_uri()
        if self._fetch is None:
            raise RefusedInputError(
                "no object store is set up to read s3:// from", RejectType.IMAGE_UNREACHABLE
            )
        is_plain = not {"", ".", ".."} & set(name.removeprefix(_S3).split("/"))
        if not (is_plain and name.startswith(tuple(self._remote))):
            raise _outside()
        return name

    def read(self, uri: str, *, max_bytes: int) -> bytes:
        """The encoded bytes of an image, by its `uri_of`."""
        start, moved_to = self._from_to
        try:
            image_bytes = self._read(uri, max_bytes)
        except RefusedInputError as error:
            if not (moved_to and uri.startswith(start) and error.error_type in _MISSING):
                raise
            try:
                image_bytes = self._read(f"{moved_to}/{uri.removeprefix(start)}", max_bytes)
            except RefusedInputError:
                raise error from None
        check_image_bytes(image_bytes, max_bytes=max_bytes)
        return image_bytes

    def _read(self, uri: str, max_bytes: int) -> bytes:
        return self._fetched(uri) if _is_remote(uri) else self._read_file(uri, max_bytes)

    def _fetched(self, uri: str) -> bytes:
        assert self._fetch is not None
        try:
            return self._fetch(uri)
        except RefusedInputError:
            raise
        except Exception as error:
            if isinstance(error, LiveEditError) and (error.retryable or error.ends_job):
                raise
            # Whatever else the caller's store raises: this line is refused, the stream goes on.
            raise RefusedInputError(
                f"cannot be fetched ({error})", RejectType.IMAGE_UNREACHABLE
            ) from error

    def _below(self, name: str) -> tuple[Path, tuple[str, ...]]:
        """The root that a file lies in, resolved, and the parts of the path from there."""
        path = _local_path(name) if "://" in name else Path(os.path.normpath(self._folder / name))
        for root in self._local:
            for form in (root, root.resolve()):
                if path.is_relative_to(form) and path != form:
                    return root.resolve(), path.relative_to(form).parts
        raise _outside()

    def _read_file(self, uri: str, max_bytes: int) -> bytes:
        root, parts = self._below(uri)
        try:
            return _read_below(root, parts, max_bytes + 1)
        except FileNotFoundError:
            raise RefusedInputError(
                f"{root.joinpath(*parts)} does not exist (a path is relative to the folder of the "
                "file that names it)",
                RejectType.IMAGE_NOT_FOUND,
            ) from None
        except OSError as error:
            raise RefusedInputError(
                f"{root.joinpath(*parts)} cannot be read ({error.strerror})",
                RejectType.IMAGE_UNREADABLE,
            ) from error


def _read_below(root: Path, parts: Sequence[str], num_bytes: int) -> bytes:
    """The first bytes of a regular file; no part of its path below `root` may be a link."""
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            _check_no_link(part, folder)
            inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        mode = _check_no_link(parts[-1], folder)
        # Checked before opening: a named pipe would block, and a device would never end.
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise RefusedInputError(
                f"is {what}; expected an image file", RejectType.IMAGE_NOT_A_FILE
            )
        file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    with open(file, "rb") as opened:
        return opened.read(num_bytes)


def _check_no_link(name: str, folder: int) -> int:
    mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        raise RefusedInputError(
            f"leads through the symbolic link {name!r}; links are not followed: name the folder it "
            "leads to in limits.image_roots, and the image by its own path",
            RejectType.IMAGE_NOT_A_FILE,
        )
    return mode


def _is_remote(place: Path | str) -> bool:
    return isinstance(place, str) and place.startswith(_S3)


def _local_path(name: str) -> Path:
    """The path of a `file://` URI or a path; links in it are as they are."""
    if name.startswith("file://"):
        try:
            parts = urlsplit(name)
        except ValueError as error:
            raise RefusedInputError(
                f"is no valid address ({error}): write file:///folder/name, or a path",
                RejectType.IMAGE_UNREACHABLE,
            ) from error
        if parts.netloc not in ("", "localhost"):
            raise RefusedInputError(
                "file:// of another host is not read", RejectType.IMAGE_UNREACHABLE
            )
        name = url2pathname(parts.path)
    return Path(os.path.abspath(name))


def _outside() -> RefusedInputError:
    return RefusedInputError(
        "lies outside the places that images are read from (the folder of the file, the store, and "
        "limits.image_roots): copy it there, or add its folder to limits.image_roots",
        RejectType.IMAGE_OUTSIDE_ROOTS,
    )
