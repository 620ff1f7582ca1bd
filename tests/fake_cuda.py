"""Tensors that say they are on a GPU and compute on the CPU: placement is tested without one.

torch's `FakeTensorMode` tells that a CPU tensor meets a CUDA tensor, but holds no values, and
routing branches on values. `FakeCuda` keeps them: inside `fake_gpu()`, whatever is made on or moved
to "cuda" becomes one, every operation on it is computed by the tensor within, and an operation that
mixes both devices raises `MixedDevicesError`, where CUDA would. As on a GPU, NumPy and pickle
refuse it.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda:0")
_TO = {Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.copy_, Tensor.type, torch.Tensor.type_as}
_INDEXING = {Tensor.__getitem__, torch.select, Tensor.index_select}
_TO_HOST: set[Any] = {Tensor.numpy, Tensor.__array__, Tensor.__reduce_ex__}
_DEVICE = Tensor.device.__get__


class MixedDevicesError(RuntimeError):
    """A tensor on the CPU meets one on the GPU."""


class FakeCuda(Tensor):
    """A tensor on the CPU (`on_cpu`) that says it is on the GPU; autograd is that of `on_cpu`."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> "FakeCuda":
        made = Tensor._make_wrapper_subclass(cls, on_cpu.shape, dtype=on_cpu.dtype, device=CUDA)
        made.on_cpu = on_cpu
        if getattr(on_cpu, "_is_param", False):
            made._is_param = True
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _computed(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise NotImplementedError(f"{func} reached a FakeCuda below torch's functions")

    def __deepcopy__(self, memo: Any) -> "FakeCuda":
        on_cpu = self.on_cpu.detach().clone().requires_grad_(self.on_cpu.requires_grad)
        copied = FakeCuda(on_cpu)
        if getattr(self, "_is_param", False):
            copied._is_param = True
        return copied

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FakeCuda({self.on_cpu!r})"


class _Mode(TorchFunctionMode):
    """Sees what makes tensors on "cuda", and what moves them there."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    if getattr(func, "__name__", "") == "__deepcopy__":  # whose memo may be large
        return func(*args, **kwargs)
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    leaves, _ = tree_flatten((args, kwargs))
    fakes = [leaf for leaf in leaves if isinstance(leaf, FakeCuda)]
    asked = _asked_device(func, leaves)
    if not fakes and asked is None:
        return func(*args, **kwargs)
    with torch._C.DisableTorchFunction():
        if func is _DEVICE:
            return CUDA
        if func is torch._has_compatible_shallow_copy_type:
            return False  # so that a module that moves gets new parameters
        if func in _TO_HOST:
            raise TypeError(f"{func.__name__}: this tensor is on the GPU")
        _check(func, args, kwargs, leaves, fakes)
        args, kwargs = tree_map(_inner, args), tree_map(_inner, kwargs)
        done = func(*args, **kwargs)
    is_fake = asked.type == "cuda" if asked is not None else bool(fakes)
    if func in (Tensor.copy_, Tensor.__setitem__) or getattr(func, "__name__", "").endswith("_"):
        is_fake = bool(fakes) and fakes[0] is _first(args, leaves)
    return tree_map(_fake, done) if is_fake else done


def _first(args: Any, leaves: list[Any]) -> Any:
    return next((leaf for leaf in leaves if isinstance(leaf, Tensor)), None)


def _asked_device(func: Callable[..., Any], leaves: list[Any]) -> torch.device | None:
    """The device that a call names; with `cpu` and `cuda` by their own name."""
    if func is Tensor.cpu:
        return torch.device("cpu")
    if func is Tensor.cuda:
        return CUDA
    for leaf in leaves:
        if isinstance(leaf, torch.device):
            return leaf
        if isinstance(leaf, str) and leaf.partition(":")[0] in ("cuda", "cpu"):
            return torch.device(leaf)
    return None


def _check(
    func: Callable[..., Any], args: Any, kwargs: Any, leaves: list[Any], fakes: list[Any]
) -> None:
    if func in _TO or not fakes:
        return
    plain = [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, FakeCuda) and x.dim()]
    if func in _INDEXING or func is Tensor.__setitem__:
        if not isinstance(args[0], FakeCuda):
            raise MixedDevicesError(
                f"{func.__name__}: an index on the GPU into a tensor on the CPU"
            )
        if func is not Tensor.__setitem__ or not isinstance(args[2], Tensor) or args[2].dim() == 0:
            return  # an index on the CPU is fine
        plain = [x for x in plain if x is args[2]]
    if plain:
        name = getattr(func, "__name__", str(func))
        raise MixedDevicesError(f"{name}: {tuple(plain[0].shape)} on the CPU meets the GPU")


def _inner(leaf: Any) -> Any:
    if isinstance(leaf, FakeCuda):
        return leaf.on_cpu
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return "cpu" if isinstance(leaf, str) and leaf.partition(":")[0] == "cuda" else leaf


def _fake(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return CUDA
    return FakeCuda(leaf) if isinstance(leaf, Tensor) else leaf


@contextlib.contextmanager
def fake_gpu(*, has_bfloat16: bool = True) -> Iterator[None]:
    """A process that sees one GPU."""
    torch._C._ensureCUDADeviceGuardSet()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    cuda = mock.patch.multiple(
        torch.cuda,
        is_available=lambda: True,
        is_bf16_supported=lambda **_: has_bfloat16,
        current_stream=lambda *_: mock.Mock(),
        mem_get_info=lambda *_: (2**40, 2**40),
        device_count=lambda: 0,  # of which torch would save random states
        _lazy_init=lambda: None,
    )
    try:
        with cuda, _Mode():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
