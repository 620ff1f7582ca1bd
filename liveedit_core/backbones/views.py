"""Views of a model: the same weights with one module replaced, or with one more hook.

A view copies the containers on the path to a module, never a parameter, so it costs microseconds
and may be made for each request: the model itself is never altered, and requests in other threads
see nothing of it.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from liveedit_core.errors import ShapeError

HiddenHook = Callable[[Tensor], Tensor | None]
"""Gets the output of a layer, [B, T, D]; what it returns, unless None, replaces that output."""


def with_part(model: Any, path: str, part: nn.Module | None) -> Any:
    """A view of a model in which the module at `path` (as in `get_submodule`) is `part`."""
    view = copy.copy(model)
    view._modules = dict(model._modules)
    # accelerate sets a `forward` bound to the original, which would bypass the replaced part. What
    # it does there (moving tensors between devices) the submodules do for themselves.
    vars(view).pop("forward", None)
    name, _, rest = path.partition(".")
    view._modules[name] = with_part(model._modules[name], rest, part) if rest else part
    return view


def with_hook(model: Any, path: str, hook: HiddenHook) -> Any:
    """A view of a model in which a hook gets, and may replace, the output of one module."""
    layer = copy.copy(model.get_submodule(path))
    own_hooks(layer)
    layer.register_forward_hook(partial(_call, hook))
    return with_part(model, path, layer)


def own_hooks(part: nn.Module) -> None:
    """Give a view hooks of its own; a shallow copy shares those of the original."""
    for name, value in vars(part).items():
        if isinstance(value, OrderedDict) and "_hooks" in name:
            setattr(part, name, OrderedDict(value))


def _call(hook: HiddenHook, module: nn.Module, arguments: Any, output: Any) -> Any:
    """A forward hook of torch, which passes on the hidden states alone."""
    hidden = getattr(output, "last_hidden_state", output)
    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    if not isinstance(hidden, Tensor):
        raise ShapeError(
            f"{type(module).__name__} returns {type(hidden).__name__}, expected hidden states "
            "[B, T, D]: the edit layer must be a decoder layer"
        )
    done = hook(hidden)
    if done is None:
        return None
    return (done, *output[1:]) if isinstance(output, tuple) else done


class _LayerLike(nn.Module):
    """Has what a decoder reads of its layers: the kind of attention."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name in ("attention_type", "layer_type"):
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))


class PassingLayer(_LayerLike):
    """Replaces a decoder layer and returns its input."""

    def forward(self, hidden_BTD: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return hidden_BTD


class WrappedLayer(_LayerLike):
    """A decoder layer inside another module; subclasses change its forward."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.layer = layer


class NoPositions(nn.Module):
    """Replaces learned position embeddings: hidden states at l_e contain theirs already."""

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        return torch.zeros(1)


def resumed_view(model: Any, decoder_path: str, first: int, last: int) -> Any:
    """A view that takes embeddings alone and runs the decoder layers `first` .. `last`; the other
    layers return their input, and all that comes before them is left out."""
    decoder = model.get_submodule(decoder_path)
    layers = [
        layer if first <= i <= last else PassingLayer(layer)
        for i, layer in enumerate(decoder.layers)
    ]
    view = with_part(model, f"{decoder_path}.layers", nn.ModuleList(layers))
    view = with_part(view, f"{decoder_path}.embed_tokens", nn.Identity())
    if hasattr(decoder, "embed_positions"):
        view = with_part(view, f"{decoder_path}.embed_positions", NoPositions())
    if getattr(decoder, "project_in", None) is not None:
        view = with_part(view, f"{decoder_path}.project_in", nn.Identity())
    part = view
    for name in decoder_path.split("."):
        part._modules = {n: m if n == name else None for n, m in part._modules.items()}
        own_hooks(part)
        part = part._modules[name]
    own_hooks(part)
    return view
