"""Reads and writes checkpoints of the authors' implementation.

Their file is a `torch.save` of a dict whose `train_modules` holds five state dicts; step, losses
and optimizer state beside it are ignored. Shapes are inferred from the tensors. Three numbers
cannot be: the edit layer, the number of attention heads and the scale of the experts.
"""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liveedit_core.errors import ConfigError, InputError, NumericsError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.generator import LiveEditGenerator

MODULES = ("edit_extractor", "inpt_extractor", "moegen_c", "moegen_r", "instant_reps_norm")
OUR_NAMES = {
    "inpt_extractor": "input_extractor",
    "moegen_c": "down_generator",
    "moegen_r": "up_generator",
    "instant_reps_norm": "hidden_norm",
    "eqe1": "phi",
    "eqe2": "psi",
    "vis_rep_prot": "sentinel",
    "ca_query_info_ext1": "phi_prompt_attention",
    "ca_vision_info_ext": "phi_image_attention",
    "ca_query_info_ext2": "psi_attention",
    "layer_norm1": "visual_norm",
    "layer_norm2": "prompt_norm",
    "phi": "query",
    "ca_lora": "attention",
    "layer_norm": "norm",
    "q_mlp": "q_proj",
    "k_mlp": "k_proj",
    "v_mlp": "v_proj",
}
"""Ours for theirs, for each part of a dotted name; other parts are equal."""
THEIR_NAMES = {ours: theirs for theirs, ours in OUR_NAMES.items()}

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
    "prompt_protocol",
}


def read_authors_checkpoint(
    path: Path,
    *,
    edit_layer: int,
    num_attention_heads: int = 8,
    expert_scale: float = 5.0,
    max_bytes: int = MAX_BYTES,
) -> LiveEditGenerator:
    """The generator in one of their files: float32, eval mode, frozen, without a digest."""
    tensors = _flat_tensors(path, _load(path, max_bytes))
    shapes = []
    for name in ("inpt_extractor.vis_rep_prot", "edit_extractor.eqe1", "moegen_c.phi"):
        shape = tuple(tensors[name].shape) if name in tensors else ()
        if len(shape) != 3:
            found = f"has shape {shape}" if shape else "is missing"
            raise InputError(f"{path}: {name} {found}; expected three axes, the first of length 1")
        shapes.append(shape)
    (_, num_image_tokens, hidden_size), (_, num_queries, module_dim), (_, rank, _) = shapes
    generator = LiveEditGenerator(
        GeneratorConfig(
            hidden_size=hidden_size,
            num_image_tokens=num_image_tokens,
            edit_layer=edit_layer,
            module_dim=module_dim,
            num_queries=num_queries,
            num_attention_heads=num_attention_heads,
            rank=rank,
            expert_scale=expert_scale,
        )
    )
    _check_fit(path, tensors, generator)
    generator.load_state_dict({our_name(name): tensor for name, tensor in tensors.items()})
    return generator.eval().requires_grad_(False)


def write_authors_checkpoint(generator: LiveEditGenerator, path: Path) -> None:
    """Write a generator as one of their files, atomically; refuses variants of ours."""
    variants = [
        f"{name} = {value!r} (theirs: {GeneratorConfig.model_fields[name].default!r})"
        for name, value in generator.config
        if name not in _SHAPE_FIELDS and value != GeneratorConfig.model_fields[name].default
    ]
    if variants:
        raise ConfigError(
            "the authors' format holds the paper's generator only, this one differs: "
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


def _load(path: Path, max_bytes: int) -> Any:
    """Tensors and plain values of a file, as a pickle can run code; losses are NumPy scalars."""
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
            f"{path}: holds more than tensors and plain values, or is not a torch.save file; it "
            f"is not read, because a pickle can run code ({_first_line(error)})"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = _first_line(error)
        raise InputError(f"{path}: damaged, or not a torch.save file: {reason}") from error


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
                raise InputError(f"{path}: {module}.{name} is not a floating-point tensor")
            if not torch.isfinite(tensor).all():
                raise NumericsError(f"{path}: {module}.{name} holds NaN or infinity")
            tensors[f"{module}.{name}"] = tensor.float()
    return tensors


def _check_fit(path: Path, tensors: dict[str, Tensor], generator: LiveEditGenerator) -> None:
    """Raises InputError for missing, unknown and misshapen tensors, under the authors' names."""
    expected = {their_name(name): value.shape for name, value in generator.state_dict().items()}
    errors = [f"{name} is missing" for name in sorted(set(expected) - set(tensors))]
    errors += [f"{name} is unknown" for name in sorted(set(tensors) - set(expected))]
    errors += [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if errors:
        more = f" and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise InputError(f"{path}: {'; '.join(errors[:5])}{more}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def our_name(name: str) -> str:
    """Our name of one of their tensors, `<module>.<name in its state dict>`."""
    return ".".join(OUR_NAMES.get(part, part) for part in name.split("."))


def their_name(name: str) -> str:
    """Their name of one of our tensors: the inverse of `our_name`."""
    return ".".join(THEIR_NAMES.get(part, part) for part in name.split("."))


def to_authors(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Our tensors as their five state dicts."""
    modules: dict[str, dict[str, Tensor]] = {module: {} for module in MODULES}
    for name, tensor in tensors.items():
        module, _, rest = their_name(name).partition(".")
        modules[module][rest] = tensor
    return modules
