"""Checkpoints of the authors' implementation, read into a generator and written from one.

Their file is a `torch.save` of a dict: `train_modules` holds five state dicts (`authors_names`),
beside it lie step, losses and optimizer state, which we leave alone. A pickle can run code, so it
is read with `weights_only=True`: tensors and plain values, nothing else.

Shapes are read off the tensors. Three numbers leave no trace in them and must be told: the edit
layer, the attention heads and the scale of the experts.
"""

import dataclasses
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liveedit_core.errors import ConfigError, InputError, NumericsError
from liveedit_core.method.authors_names import MODULES, from_authors, their_name, to_authors
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.generator import LiveEditGenerator

MAX_BYTES = 8 * 1024**3
"""A checkpoint for a 7B model with its optimizer state has about 1 GB."""

_SHAPE_FIELDS = {
    "hidden_size",
    "num_image_tokens",
    "edit_layer",
    "module_dim",
    "num_queries",
    "num_attention_heads",
    "rank",
    "expert_scale",
}


def read_authors_checkpoint(
    path: Path,
    *,
    edit_layer: int,
    num_attention_heads: int = 8,
    expert_scale: float = 5.0,
    max_bytes: int = MAX_BYTES,
) -> LiveEditGenerator:
    """The generator in one of their files; float32, eval mode, frozen, without a digest.

    Args:
        path: a `torch.save` file that holds `train_modules`.
        edit_layer: l_e, 0-based.
        num_attention_heads: H of every cross attention; theirs is 8.
        expert_scale: theirs is 5.
        max_bytes: a larger file is refused before it is read.

    Raises:
        InputError: the file is missing, too large, no such checkpoint, or its tensors do not fit.
        ConfigError: edit layer or heads are impossible for these tensors.
        NumericsError: a tensor holds NaN or infinity.
    """
    tensors = _flat_tensors(path, _load(path, max_bytes))
    config = infer_config(
        path,
        tensors,
        edit_layer=edit_layer,
        num_attention_heads=num_attention_heads,
        expert_scale=expert_scale,
    )
    generator = LiveEditGenerator(config)
    _check_fit(path, tensors, generator)
    generator.load_state_dict(from_authors(tensors))
    return generator.eval().requires_grad_(False)


def write_authors_checkpoint(generator: LiveEditGenerator, path: Path) -> None:
    """Write a generator as one of their files, whole or not at all.

    Raises:
        ConfigError: the generator uses a variant of ours that their layout cannot express.
    """
    variants = [
        f"{field.name} = {getattr(generator.config, field.name)!r} (theirs: {field.default!r})"
        for field in dataclasses.fields(GeneratorConfig)
        if field.name not in _SHAPE_FIELDS
        and getattr(generator.config, field.name) != field.default
    ]
    if variants:
        raise ConfigError(
            "the authors' layout holds the paper's generator only, this one differs: "
            + "; ".join(variants)
        )
    tensors = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save({"train_modules": to_authors(tensors)}, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def infer_config(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    edit_layer: int,
    num_attention_heads: int,
    expert_scale: float,
) -> GeneratorConfig:
    """The paper's config in the shapes of their tensors.

    Raises:
        InputError: a tensor that tells a shape is missing or has another number of axes.
        ConfigError: the told numbers are impossible for these shapes.
    """
    shapes = {
        name: _three_axes(path, tensors, name)
        for name in ("edit_extractor.eqe1", "moegen_c.phi", "inpt_extractor.vis_rep_prot")
    }
    _, num_image_tokens, hidden_size = shapes["inpt_extractor.vis_rep_prot"]
    _, num_queries, module_dim = shapes["edit_extractor.eqe1"]
    return GeneratorConfig(
        hidden_size=hidden_size,
        num_image_tokens=num_image_tokens,
        edit_layer=edit_layer,
        module_dim=module_dim,
        num_queries=num_queries,
        num_attention_heads=num_attention_heads,
        rank=shapes["moegen_c.phi"][1],
        expert_scale=expert_scale,
    )


def _load(path: Path, max_bytes: int) -> Any:
    """Tensors and plain values of a file; NumPy scalars, as losses often are, count as plain."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if size > max_bytes:
        raise InputError(f"{path}: {size:,} bytes, more than the limit of {max_bytes:,}")
    scalar = np.float64(0).__reduce__()[0]
    plain: list[Any] = [
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        type(np.dtype("float64")),
    ]
    try:
        with torch.serialization.safe_globals(plain):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than tensors and plain values, or is no torch.save file; it is "
            f"not read any further, because a pickle can run code ({_first_line(error)})"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"{path}: damaged, or no torch.save file: {_first_line(error)}") from error


def _flat_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """`<module>.<name>` -> float32 tensor, of exactly the five modules."""
    modules = content.get("train_modules") if isinstance(content, dict) else None
    if not isinstance(modules, dict) or set(modules) != set(MODULES):
        found = sorted(map(str, modules)) if isinstance(modules, dict) else "none"
        raise InputError(
            f"{path}: expected a dict `train_modules` of {', '.join(MODULES)}; found {found}"
        )
    tensors: dict[str, Tensor] = {}
    for module, state in modules.items():
        if not isinstance(state, dict):
            raise InputError(f"{path}: {module} is {type(state).__name__}, not a state dict")
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise InputError(f"{path}: {module}.{name} is no tensor of floating point numbers")
            if not torch.isfinite(tensor).all():
                raise NumericsError(f"{path}: {module}.{name} holds NaN or infinity")
            tensors[f"{module}.{name}"] = tensor.float()
    return tensors


def _check_fit(path: Path, tensors: Mapping[str, Tensor], generator: LiveEditGenerator) -> None:
    """Say in their names what is missing, unknown or of another shape."""
    expected = {their_name(name): value.shape for name, value in generator.state_dict().items()}
    faults = [f"{name} is missing" for name in sorted(set(expected) - set(tensors))]
    faults += [f"{name} is unknown" for name in sorted(set(tensors) - set(expected))]
    faults += [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if faults:
        more = f" and {len(faults) - 5} more faults" if len(faults) > 5 else ""
        raise InputError(f"{path}: {'; '.join(faults[:5])}{more}")


def _three_axes(path: Path, tensors: Mapping[str, Tensor], name: str) -> tuple[int, int, int]:
    shape = tuple(tensors[name].shape) if name in tensors else ()
    if len(shape) != 3:
        found = f"has shape {shape}" if shape else "is missing"
        raise InputError(f"{path}: {name} {found}; expected three axes, the first of length 1")
    return shape[0], shape[1], shape[2]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
