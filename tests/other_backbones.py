"""Checkpoint folders of tiny families, cases as a file, and a training run on them in seconds."""

import json
from pathlib import Path

import torch
from torch import Tensor

from liveedit_core.schema import Case
from tests.tiny_backbone import case
from tests.tiny_families import EDIT_LAYER, model_and_processor, tiny_llama
from tests.unit.family_parts import WIDTH

TINY = (
    "states.dtype=float32",
    "data.num_pairs=2",
    "model.module_dim=16",
    "model.num_queries=2",
    "model.num_attention_heads=2",
    "model.rank=2",
    "model.relative_residual=0.4",
    "prompt.steps=1",
    "prompt.batch_size=3",
    "experts.steps=2",
    "experts.batch_size=3",
    "joint.steps=3",
    "joint.batch_size=3",
    "checkpoint.every_steps=2",
    "checkpoint.is_half=false",
    "validation.every_steps=2",
    "validation.num_cases=2",
    "validation.bank_edits=2",
    f"backbone.edit_layer={EDIT_LAYER}",
)
"""Settings of a run over all phases but the visual key, which a family without a pyramid lacks."""


def saved_family(name: str, folder: Path) -> str:
    """A checkpoint as save_pretrained writes it; returns the folder as a backbone's name."""
    model, processor = model_and_processor(name)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def save_projection(file: Path, width: int = WIDTH, **more: Tensor) -> dict[str, Tensor]:
    """A file as MiniGPT-4's authors publish it, from the Q-Former to a Llama of some width."""
    torch.manual_seed(3)
    tensors = {
        "llama_proj.weight": torch.randn(width, WIDTH),
        "llama_proj.bias": torch.randn(width),
    }
    torch.save({"model": tensors | more}, file)
    return tensors


def minigpt4_parts(folder: Path) -> tuple[Path, Path, Path]:
    """MiniGPT-4's file, and the folders of the BLIP-2 and the Llama that it belongs to."""
    file, blip2, llama = folder / "projection.pth", folder / "blip2", folder / "llama"
    saved_family("blip-2", blip2)
    model, tokenizer = tiny_llama()
    model.save_pretrained(llama, max_shard_size="40KB")
    tokenizer.save_pretrained(llama)
    save_projection(file)
    return file, blip2, llama


def cases_file(folder: Path, count: int = 6) -> Path:
    """Cases as a user writes them: without the swapped questions that training makes itself."""
    folder.mkdir(parents=True, exist_ok=True)

    def stored(image: bytes | None, name: str) -> dict[str, str]:
        if image is None:
            return {}
        (folder / name).write_bytes(image)
        return {"image": name}

    def line(number: int, one: Case) -> str:
        edit = {"prompt": one.edit.prompt, "target": one.edit.target}
        edit |= stored(one.edit.image_bytes, f"{number}.png")
        probes = [
            {"kind": probe.kind.value, "prompt": probe.prompt, "target": probe.target or "unknown"}
            | stored(probe.image_bytes, f"{number}-{probe.kind.value}.png")
            for probe in one.probes
            if "_swap_" not in probe.kind.value
        ]
        return json.dumps({"edit": edit, "probes": probes})

    path = folder / "cases.jsonl"
    path.write_text("\n".join(line(number, case(number)) for number in range(count)) + "\n")
    return path
