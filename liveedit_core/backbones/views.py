"""Views of a model: the same weights with one module exchanged, or with a hook of ours alone.

A view copies the containers on the way to a module, never a parameter, so it costs microseconds and
may be made for each request: the model itself is never altered, and requests in other threads see
nothing of it.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from liveedit_core.errors import ShapeError

RowsHook = Callable[[Tensor], Tensor | None]
"""Sees the rows that a layer gives, [B, T, D]; what it returns, unless None, takes their place."""


def with_part(model: Any, path: str, part: nn.Module | None) -> Any:
    """A view of a model in which the module at a path is another one.

    Args:
        model: any module; is not altered.
        path: names joined by dots, as in `nn.Module.get_submodule`.
        part: what stands there in the view.
    """
    view = copy.copy(model)
    view._modules = dict(model._modules)
    # accelerate sets a forward that is bound to the original and would pass the exchanged part by;
    # what it does there (moving tensors between devices) the modules below do for themselves.
    vars(view).pop("forward", None)
    name, _, rest = path.partition(".")
    view._modules[name] = with_part(model._modules[name], rest, part) if rest else part
    return view


def with_hook(model: Any, path: str, hook: RowsHook) -> Any:
    """A view of a model in which a hook sees, and may exchange, what one layer gives."""
    layer = copy.copy(model.get_submodule(path))
    for name in ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"):
        setattr(layer, name, OrderedDict(getattr(layer, name)))
    layer.register_forward_hook(_Exchange(hook))
    return with_part(model, path, layer)


class _Exchange:
    """A hook on rows as a forward hook of torch."""

    def __init__(self, hook: RowsHook) -> None:
        self._hook = hook

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        rows_BTD = getattr(output, "last_hidden_state", output)
        rows_BTD = rows_BTD[0] if isinstance(rows_BTD, tuple) else rows_BTD
        if not isinstance(rows_BTD, Tensor):
            raise ShapeError(
                f"{type(module).__name__} gives {type(rows_BTD).__name__}, expected rows "
                "[B, T, D]: the edit layer must be a decoder layer"
            )
        done = self._hook(rows_BTD)
        if done is None:
            return None
        return (done, *output[1:]) if isinstance(output, tuple) else done


class PassingLayer(nn.Module):
    """Stands where a decoder layer was and gives the rows that it gets.

    Args:
        layer: whose kind of attention a decoder may ask for.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name in ("attention_type", "layer_type"):
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def forward(self, hidden_BTD: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """The same rows."""
        return hidden_BTD


class NoPositions(nn.Module):
    """Stands where learned position embeddings were: rows at l_e have theirs already."""

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        """Nothing to add."""
        return torch.zeros(1)
