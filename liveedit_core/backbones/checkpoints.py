"""Checkpoint folders of backbones: download, size in memory, digest."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from liveedit_core.errors import ConfigError, IntegrityError, StorageUnavailableError

WEIGHTS = "*.safetensors"
_FILES = (WEIGHTS, "*.json", "*.model", "*.txt", "*.jinja")
_BYTES: Mapping[str, float] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}
"""Bytes of a number by safetensors' names; other dtypes are loaded as they are stored."""
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def split_name(name: str) -> tuple[str, str]:
    """A name as (folder or owner/model, revision); the revision is "" where none is pinned."""
    if Path(name).is_dir():
        return name, ""
    repository, _, revision = name.partition("@")
    return repository, revision


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint; a repository of the hub ("owner/model", with or without
    "@revision") is fetched once.

    Raises:
        ConfigError: there is no such folder, repository or revision, or it may not be read.
        StorageUnavailableError: the hub cannot be reached and holds what is not here yet.
    """
    repository, revision = split_name(name)
    folder = Path(repository).expanduser()
    if folder.is_dir():
        return folder.absolute()
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise ConfigError(
            f"backbone {name!r}: no such folder, and not the name of a repository (owner/model)"
        )
    from huggingface_hub import errors, snapshot_download

    try:
        fetched = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(_FILES)
        )
    except errors.GatedRepoError as error:
        raise ConfigError(
            f"backbone {name!r}: the owner asks for consent first. Accept the terms at "
            f"https://huggingface.co/{repository}, then log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"backbone {name!r}: there is no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"backbone {name!r}: the hub has no such repository, or it is private: check the name, "
            "or log in with `hf auth login`"
        ) from error
    except errors.HFValidationError as error:
        raise ConfigError(f"backbone {name!r}: not the name of a repository: {error}") from error
    except (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError, OSError) as error:
        raise _unreachable(name, error) from error
    return Path(fetched)


def _unreachable(name: str, error: Exception) -> StorageUnavailableError:
    reason = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") == "1" else str(error)
    return StorageUnavailableError(
        f"backbone {name!r} is not on this machine and the hub cannot be reached "
        f"({reason.splitlines()[0][:200] if reason else type(error).__name__}). Fetch it where "
        f"there is a network (`hf download {split_name(name)[0]} --local-dir FOLDER`) and give "
        "that folder instead"
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointSize:
    """What loading a checkpoint takes."""

    num_parameters: int
    num_bytes: int
    """In the dtype asked for."""


def checkpoint_size(folder: Path, dtype: str) -> CheckpointSize:
    """Size of the weights in memory ("auto": in the stored dtype), from the headers of their files.

    Raises:
        ConfigError: the folder holds no safetensors.
        IntegrityError: a file is damaged.
    """
    files = sorted(folder.glob(WEIGHTS))
    if not files:
        raise ConfigError(
            f"backbone {str(folder)!r}: no safetensors in it. Weights in other formats (.bin, "
            ".pth) are pickles and are not read; save the model again with save_pretrained"
        )
    count, size = 0, 0.0
    for file in files:
        for tensor in _header(file).values():
            numel = math.prod(tensor["shape"])
            begin, end = tensor["data_offsets"]
            stored = _BYTES.get(tensor["dtype"], (end - begin) / max(numel, 1))
            is_float = tensor["dtype"] in ("F64", "F32", "F16", "BF16")
            wanted = stored if dtype == "auto" or not is_float else 4 if dtype == "float32" else 2
            count += numel
            size += numel * wanted
    return CheckpointSize(num_parameters=count, num_bytes=int(size))


def _header(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > 100_000_000:
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(stream.read(length))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{file}: not a readable safetensors file: {error}") from error
    header.pop("__metadata__", None)
    return header


def checkpoint_digest(folder: Path) -> str:
    """Identity of a checkpoint: sha256 over the names and contents of its files.

    The same for a folder and for a repository with the same files. The hub's cache names large
    files by their sha256; those are not read again.
    """
    digest = sha256()
    for file in sorted({file for pattern in _FILES for file in folder.glob(pattern)}):
        digest.update(f"{file.name}\n{_file_digest(file)}\n".encode())
    return digest.hexdigest()


def loaded_digest(folder: Path, dtype: str) -> str:
    """Identity of a loaded checkpoint: that of its files, unless the weights were converted to
    another dtype (as torch names it)."""
    digest = checkpoint_digest(folder)
    if dtype == _stored_dtype(folder):
        return digest
    return sha256(f"{digest} {dtype}".encode()).hexdigest()


def _stored_dtype(folder: Path) -> str:
    """dtype of most weights in the files."""
    counts: dict[str, int] = {}
    for file in folder.glob(WEIGHTS):
        for tensor in _header(file).values():
            name = _NAMES.get(tensor["dtype"], "")
            counts[name] = counts.get(name, 0) + math.prod(tensor["shape"])
    return max(counts, key=lambda name: counts[name], default="")


def lasting_name(name: str) -> str:
    """A name that keeps its meaning: an absolute folder, or a repository with its commit (which is
    known only where the repository was fetched; elsewhere the name stays as it is)."""
    repository, revision = split_name(name)
    if Path(repository).is_dir():
        return str(Path(repository).absolute())
    if repository.count("/") != 1:
        return name
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    return f"{repository}@{Path(file).parent.name}" if isinstance(file, str) else name


def _file_digest(file: Path) -> str:
    blob = file.resolve()
    if file.is_symlink() and blob.parent.name == "blobs" and len(blob.name) == 64:
        return blob.name
    digest = sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def free_memory_bytes(device: str) -> int | None:
    """Memory that a load may use: of the GPU, of this machine, or of both for "auto".

    A limit of the container counts; None where the system does not say.
    """
    import torch

    total = 0
    if device != "cpu" and torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if device in ("auto", f"cuda:{index}") or (device == "cuda" and index == 0):
                total += torch.cuda.mem_get_info(index)[0]
        if device != "auto":
            return total
    free = _free_machine_bytes()
    return None if free is None else total + free


def _free_machine_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        return None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        stats = Path("/sys/fs/cgroup/memory.stat").read_text().split()
        reclaimable = int(stats[stats.index("inactive_file") + 1])
        return min(free, limit - used + reclaimable)
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
