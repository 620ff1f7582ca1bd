"""On which device models and tensors are, and how values move between devices.

Hidden states, features, experts and routing stay on the device of the model that made them.
Positions, ranks and flags, which are looked up, are on the CPU.
"""

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from liveedit_core.errors import ConfigError

CPU = torch.device("cpu")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's `mallopt`."""
_LARGEST_KEPT, _MOST_KEPT = 32 * 1024 * 1024, 64 * 1024 * 1024
_T = TypeVar("_T")


def chosen_device(name: str) -> torch.device:
    """The device of a model by its name in a recipe; "auto" and "spread" begin on the first GPU
    that this process sees, if it sees one."""
    if name in ("auto", "spread"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f'device {name!r}: torch finds no GPU in this process. Use device = "auto" or "cpu"; '
            "for an actor, check that num_gpus is above 0 and that `nvidia-smi` works on its node"
        )
    return torch.device(name)


def chosen_dtype(name: str, device: torch.device, *, is_packed: bool = False) -> torch.dtype:
    """The dtype in which a model computes; "auto" is bfloat16 on GPUs that have it and, for packed
    layers, on CPUs that do; else float32, which plain layers compute faster on most CPUs."""
    if name != "auto":
        return getattr(torch, name)  # type: ignore[no-any-return]
    has_bfloat16 = has_native_bfloat16(device) and (is_packed or device.type == "cuda")
    return torch.bfloat16 if has_bfloat16 else torch.float32


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies matrices in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def keep_freed_memory() -> None:
    """Let glibc keep some memory that this process frees: activations of a small model are then not
    paged in anew by each layer, which took a tenth of an edit."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)


def device_of(module: nn.Module) -> torch.device:
    """Of a module with at least one parameter."""
    return next(module.parameters()).device


def moved(value: _T, device: torch.device) -> _T:
    """The same value with all tensors in it on a device, those in dataclasses and collections too;
    itself where they are there already. From a GPU they come through pinned memory, all at once."""
    copies: list[Tensor] = []
    done = _moved(value, device, copies)
    for source in {tensor.device for tensor in copies}:
        torch.cuda.current_stream(source).synchronize()
    return done  # type: ignore[no-any-return]


def _moved(value: Any, device: torch.device, copies: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return _tensor(value, device, copies)
    if isinstance(value, tuple | list):
        items = [_moved(item, device, copies) for item in value]
        if all(item is old for item, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, Mapping):
        return {key: _moved(item, device, copies) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.init]
        new = {name: _moved(getattr(value, name), device, copies) for name in names}
        changed = {name: item for name, item in new.items() if item is not getattr(value, name)}
        return replace(value, **changed) if changed else value
    return value


def _tensor(tensor: Tensor, device: torch.device, copies: list[Tensor]) -> Tensor:
    if tensor.device == device:
        return tensor
    if device.type != "cpu" or tensor.device.type != "cuda":
        return tensor.to(device, non_blocking=True)
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor.detach(), non_blocking=True)
    copies.append(tensor)
    return host
