"""Backbones by name: `llava-hf/llava-1.5-7b-hf`, a pinned revision of it, or a local folder."""

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from liveedit_core.backbones.checkpoints import (
    checkpoint_folder,
    checkpoint_size,
    free_memory_bytes,
    loaded_digest,
)
from liveedit_core.backbones.families import (
    PromptFormat,
    family_of,
    first_edit_layer,
    paper_format,
    protocol_digest,
)
from liveedit_core.backbones.load_options import QUANTIZED, LoadOptions
from liveedit_core.backbones.prompt_encoder import load_prompt_encoder
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.devices import chosen_device, chosen_dtype
from liveedit_core.errors import ConfigError, IntegrityError
from liveedit_core.whole_files import write_whole

PROMPT_FILE = "liveedit_prompt.json"
"""Beside the weights of a checkpoint whose processor does not know its prompt format."""
_ROOM = 1.1
"""Memory needed per byte of weights: buffers and the activations of one batch come on top."""
_SHARE = {"int8": 0.55, "nf4": 0.35}
"""Of the bytes in 16 bits; embeddings, norms and head keep those."""


def load_backbone(
    name: str, options: LoadOptions | None = None, *, prompt_format: PromptFormat | None = None
) -> VisionLanguageBackbone:
    """Load a backbone of a known family from a folder or from "owner/model[@revision]".

    A `prompt_format` replaces that of the checkpoint.
    """
    options = options or LoadOptions()
    folder = checkpoint_folder(name)
    config = _read_config(name, folder)
    family_of(config)
    quantization = quantization_of(name, options)
    check_memory(name, folder, options)
    processor, model = (
        _read_processor(name, folder),
        _read_model(name, folder, options, quantization),
    )
    protocol = options.prompt_protocol
    if protocol == "paper":
        prompt_format = prompt_format or paper_format(config, processor.tokenizer)
    digest = loaded_digest(folder, options.dtype)
    return VisionLanguageBackbone(
        model,
        processor,
        edit_layer=chosen_layer(config, options),
        digest=protocol_digest(digest, protocol),
        prompt_format=prompt_format or stored_format(folder),
        prompt_encoder=load_prompt_encoder() if options.has_prompt_encoder else None,
        batch_size=options.batch_size,
    )


def quantization_of(name: str, options: LoadOptions) -> Any:
    """What transformers loads quantized weights by; None where they are not quantized."""
    if options.dtype not in QUANTIZED:
        return None
    if (device := chosen_device(options.device)).type != "cuda":
        raise ConfigError(
            f"backbone {name!r}: dtype {options.dtype!r} needs a GPU, and this model would be on "
            f"{device}. bitsandbytes multiplies 4- and 8-bit weights by CUDA kernels; on a CPU it "
            'would unpack them in every product, which is slower than dtype = "bfloat16" and was '
            "never compared with it"
        )
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"backbone {name!r}: dtype {options.dtype!r} needs the package bitsandbytes, which is "
            "not installed (pip install bitsandbytes)"
        )
    from transformers import BitsAndBytesConfig

    if options.dtype == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=chosen_dtype(options.dtype_in_memory, device),
    )


def chosen_layer(config: Any, options: LoadOptions) -> int:
    """l_e: that of the options, or two thirds of the depth (21 of 32, as in the paper)."""
    if options.edit_layer >= 0:
        return options.edit_layer
    depth = int(config.get_text_config(decoder=True).num_hidden_layers)
    return min(max(2 * depth // 3, first_edit_layer(config)), depth - 2)


def stored_format(folder: Path) -> PromptFormat | None:
    """The prompt format stored beside the weights, if there is one."""
    file = folder / PROMPT_FILE
    if not file.exists():
        return None
    try:
        return PromptFormat(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise IntegrityError(f"{file}: expected with_image and text_only: {error}") from error


def store_format(folder: Path, prompt_format: PromptFormat) -> None:
    """Store a prompt format beside the weights."""
    text = json.dumps(dataclasses.asdict(prompt_format), indent=2)
    write_whole(folder / PROMPT_FILE, text + "\n")


def check_memory(
    name: str, folder: Path, options: LoadOptions, *, free_bytes: int | None = None
) -> None:
    """Raise ConfigError if the weights do not fit into memory (by default that of the device)."""
    device = chosen_device(options.device)
    dtype = str(chosen_dtype(options.dtype_in_memory, device)).removeprefix("torch.")
    size = checkpoint_size(folder, dtype)
    place = "spread" if options.device == "spread" else str(device)
    free = free_memory_bytes(place) if free_bytes is None else free_bytes
    needed = size.num_bytes * _ROOM * _SHARE.get(options.dtype, 1.0)
    if free is not None and needed > free:
        cures = ['device = "spread"'] if place != "spread" else ["a larger machine"]
        if dtype == "float32":
            cures.append('dtype = "bfloat16"')
        raise ConfigError(
            f"backbone {name!r}: {size.num_parameters / 1e9:.2f} billion parameters as "
            f"{dtype} need {needed / 1e9:.2f} GB on {place}, "
            f"{free / 1e9:.2f} GB are free. Try {' or '.join(cures)}, or a smaller model"
        )


def _read_config(name: str, folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"backbone {name!r}: its config.json cannot be used: {_first_line(error)}"
        ) from error


def _read_processor(name: str, folder: Path) -> Any:
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ConfigError(
            f"backbone {name!r}: its processor cannot be loaded: {_first_line(error)}. Expected "
            "preprocessor_config.json and tokenizer files beside the weights; copy them from the "
            "original checkpoint (processor.save_pretrained)"
        ) from error
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise ConfigError(
            f"backbone {name!r}: found only a {type(processor).__name__}, no image processor. "
            "Expected preprocessor_config.json or processor_config.json beside the weights"
        )
    return processor


def _read_model(name: str, folder: Path, options: LoadOptions, quantization: Any) -> Any:
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = chosen_device(options.device)
    dtype = chosen_dtype(options.dtype_in_memory, device)
    place: dict[str, Any] = {"device_map": "auto"} if options.device == "spread" else {}
    if quantization is not None:  # such weights are put on their device once, while loading
        place = {"device_map": {"": device}, **place, "quantization_config": quantization}
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype, **place
        )
        return model if place else model.to(device)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(
            f"backbone {name!r}: its weights cannot be loaded: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
