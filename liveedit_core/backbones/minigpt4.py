"""MiniGPT-4 as a checkpoint folder that transformers knows: BLIP-2 with Llama.

    image tower, Q-Former, query tokens   <- a BLIP-2 folder (MiniGPT-4 keeps BLIP-2's, frozen)
    language_projection                   <- llama_proj of the published MiniGPT-4 file
    language_model                        <- a Llama folder (Vicuna)

MiniGPT-4 (Zhu et al., 2023) publishes the projection alone, as a `torch.save` of {"model": {...}}.
Files are copied one by one, so a 7B model needs the memory of its largest file. The vocabulary
grows by one token, the placeholder of image tokens.
"""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from liveedit_core.backbones.families import PromptFormat
from liveedit_core.backbones.loading import store_format
from liveedit_core.errors import ConfigError, InputError
from liveedit_core.whole_files import whole_file, write_whole

PROMPT_FORMAT = PromptFormat(
    with_image="###Human: <Img>{image}</Img> {prompt} ###Assistant: ",
    text_only="###Human: {prompt} ###Assistant: ",
)
"""The wording that MiniGPT-4 was tuned with."""
IMAGE_TOKEN = "<image>"
MAX_BYTES = 2 * 1024**3
"""The published file has 38 MB for a 7B model."""
_FROM_BLIP2 = ("vision_model.", "qformer.", "query_tokens")
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
_PROJECTION = {f"llama_proj.{part}": f"language_projection.{part}" for part in ("weight", "bias")}


def convert_minigpt4(checkpoint: Path, blip2: Path, llama: Path, target: Path) -> Path:
    """Write a checkpoint folder from the published file and the folders of its two models."""
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoTokenizer,
        Blip2Config,
        Blip2Processor,
    )

    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target}: expected a new or empty folder")
    projection = read_projection(checkpoint)
    try:
        source = AutoConfig.from_pretrained(blip2, local_files_only=True)
        text = AutoConfig.from_pretrained(llama, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(llama, local_files_only=True)
        images = AutoImageProcessor.from_pretrained(blip2, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{blip2} or {llama} cannot be read: {error}") from error
    if source.model_type != "blip-2" or text.model_type != "llama":
        raise ConfigError(
            f"expected folders of BLIP-2 and Llama, got {source.model_type} and {text.model_type}"
        )
    wanted = (text.hidden_size, source.qformer_config.hidden_size)
    found = tuple(projection["language_projection.weight"].shape)
    if found != wanted:
        raise InputError(
            f"{checkpoint}: llama_proj maps {found[1:]} to {found[:1]}, these folders need "
            f"{wanted[1]} to {wanted[0]}: another Llama or BLIP-2 than it was made for"
        )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    text.vocab_size = max(len(tokenizer), text.vocab_size)
    target.mkdir(parents=True, exist_ok=True)
    Blip2Config(
        vision_config=source.vision_config,
        qformer_config=source.qformer_config,
        text_config=text,
        num_query_tokens=source.num_query_tokens,
        image_token_index=tokenizer.get_vocab()[IMAGE_TOKEN],
        architectures=["Blip2ForConditionalGeneration"],
    ).save_pretrained(target)
    processor = Blip2Processor(images, tokenizer, num_query_tokens=source.num_query_tokens)
    processor.save_pretrained(target)
    _write_weights(_parts(projection, blip2, llama, text.vocab_size), target)
    store_format(target, PROMPT_FORMAT)
    return target


def read_projection(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of the published file, by their names in BLIP-2's layout."""
    try:
        if checkpoint.stat().st_size > MAX_BYTES:
            raise InputError(
                f"{checkpoint}: more than {MAX_BYTES:,} bytes; expected the projection"
            )
        content: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{checkpoint}: not a torch.save file of plain tensors: {str(error)[:200]}"
        ) from error
    tensors = content.get("model", content) if isinstance(content, dict) else {}
    if set(tensors) != set(_PROJECTION):
        raise InputError(
            f"{checkpoint}: expected llama_proj.weight and llama_proj.bias (MiniGPT-4 keeps all "
            f"else frozen), got {', '.join(sorted(map(str, tensors))[:6]) or 'no tensors'}"
        )
    return {_PROJECTION[name]: tensor.contiguous() for name, tensor in tensors.items()}


def _parts(
    projection: dict[str, Tensor], blip2: Path, llama: Path, vocab_size: int
) -> Iterator[dict[str, Tensor]]:
    """All tensors of the new checkpoint, file by file."""
    yield projection
    for tensors in _files(blip2):
        yield {name: value for name, value in tensors.items() if name.startswith(_FROM_BLIP2)}
    for tensors in _files(llama):
        yield {
            f"language_model.{name}": _grown(value, vocab_size) if name in _VOCABULARY else value
            for name, value in tensors.items()
            if not name.endswith("rotary_emb.inv_freq")
        }


def _files(folder: Path) -> Iterator[dict[str, Tensor]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(
            f"{folder}: no safetensors in it; load the model once and save it with save_pretrained"
        )
    for file in files:
        with safe_open(file, framework="pt") as opened:
            yield {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def _grown(rows_VD: Tensor, vocab_size: int) -> Tensor:
    """With a row for each new token: the mean of the others, which is seldom the argmax."""
    missing = vocab_size - len(rows_VD)
    mean_D = rows_VD.float().mean(0).to(rows_VD.dtype)
    return torch.cat([rows_VD, mean_D.expand(missing, -1)]).contiguous()


def _write_weights(parts: Iterator[dict[str, Tensor]], target: Path) -> None:
    """The weight files and their index."""
    places: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(part for part in parts if part):
        file = f"model-{number:05}.safetensors"
        with whole_file(target / file) as partial:
            save_file(tensors, partial, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=1)
    write_whole(target / "model.safetensors.index.json", text + "\n")
