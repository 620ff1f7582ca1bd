"""Checkpoint folders of backbones: download, size in memory, digest."""

import json
import math
import os
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, NamedTuple

from liveedit_core.errors import ConfigError, IntegrityError, StorageUnavailableError

WEIGHTS = "*.safetensors"
_FILES = (WEIGHTS, "*.json", "*.model", "*.txt", "*.jinja")
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""torch's dtypes by safetensors' names; only these are converted on loading."""


def split_name(name: str) -> tuple[str, str]:
    """A name as (folder or owner/model, revision); the revision is "" where none is pinned."""
    if Path(name).is_dir():
        return name, ""
    repository, _, revision = name.partition("@")
    return repository, revision


def checkpoint_folder(name: str) -> Path:
    """A checkpoint's folder; a hub repository ("owner/model[@revision]") is downloaded once."""
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


class CheckpointSize(NamedTuple):
    """What loading a checkpoint takes."""

    num_parameters: int
    num_bytes: int


def checkpoint_size(folder: Path, dtype: str) -> CheckpointSize:
    """Size of the weights in memory ("auto": in the stored dtype), from the file headers."""
    files = sorted(folder.glob(WEIGHTS))
    if not files:
        raise ConfigError(
            f"backbone {str(folder)!r}: no safetensors in it. Weights in other formats (.bin, "
            ".pth) are pickles and are not read; save the model again with save_pretrained"
        )
    count = size = 0
    for file in files:
        for tensor in _header(file).values():
            numel = math.prod(tensor["shape"])
            count += numel
            if dtype == "auto" or tensor["dtype"] not in _FLOATS:
                begin, end = tensor["data_offsets"]
                size += end - begin
            else:
                size += numel * (4 if dtype == "float32" else 2)
    return CheckpointSize(count, size)


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

    The hub's cache names large files by their sha256; those are not read again.
    """
    digest = sha256()
    for file in sorted({file for pattern in _FILES for file in folder.glob(pattern)}):
        digest.update(f"{file.name}\n{_file_digest(file)}\n".encode())
    return digest.hexdigest()


def loaded_digest(folder: Path, dtype: str) -> str:
    """Identity of a loaded checkpoint: that of its files, unless a `dtype` is named that is not the
    stored one."""
    digest = checkpoint_digest(folder)
    if dtype in ("auto", _stored_dtype(folder)):
        return digest
    return sha256(f"{digest} {dtype}".encode()).hexdigest()


def _stored_dtype(folder: Path) -> str:
    """The dtype of most weights in the files."""
    counts: dict[str, int] = {}
    for file in folder.glob(WEIGHTS):
        for tensor in _header(file).values():
            name = _FLOATS.get(tensor["dtype"], "")
            counts[name] = counts.get(name, 0) + math.prod(tensor["shape"])
    return max(counts, key=lambda name: counts[name], default="")


def lasting_name(name: str) -> str:
    """A name that keeps its meaning: an absolute folder, or a repository with its commit.

    The commit is known only where the repository was downloaded; elsewhere the name stays as it is.
    """
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
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def free_memory_bytes(device: str) -> int | None:
    """Free memory of the GPU, of this machine within its container's limit, or of both for
    "spread".

    None where the system does not say.
    """
    import torch

    total = 0
    if device != "cpu" and torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if device in ("spread", f"cuda:{index}") or (device == "cuda" and index == 0):
                total += torch.cuda.mem_get_info(index)[0]
        if device != "spread":
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
