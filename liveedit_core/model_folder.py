"""Experts of an edited model in a folder: `experts.safetensors` and `edits.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from liveedit_core.errors import ConfigError, IntegrityError, RepositoryMismatchError, ShapeError
from liveedit_core.method.config import DEFAULT_BUDGET, checked_budget
from liveedit_core.method.editor import Editor
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Fact

EXPERTS_FILE = "experts.safetensors"
EDITS_FILE = "edits.json"
_TENSORS = {
    "visual_features_NK": "visual",
    "prompt_features_NK": "prompt",
    "ranks_N": "ranks_N",
    "down_LD": "down",
    "up_LD": "up",
}
"""Names in the file, and the fields of a repository."""
_TRAFFIC = "traffic_MR"
"""Only in the file of a repository that has it."""


def save_model(folder: Path, editor: Editor, facts: Mapping[str, Fact]) -> None:
    """Write experts and facts, with the digests of backbone and generator."""
    folder.mkdir(parents=True, exist_ok=True)
    repository = editor.repository.compact()
    tensors = {name: getattr(repository, name).contiguous() for name in _TENSORS}
    if repository.traffic_MR is not None:
        tensors[_TRAFFIC] = repository.traffic_MR.contiguous()
    save_file(tensors, folder / EXPERTS_FILE)
    content = {
        "backbone_digest": editor.backbone.digest,
        "generator_digest": editor.generator.digest,
        "false_activation": repository.false_activation,
        "edit_ids": tuple(repository.edit_ids),
        "facts": {key: asdict(facts[key]) for key in repository.edit_ids if key in facts},
    }
    (folder / EDITS_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_model(
    folder: Path, backbone_digest: str, generator: LiveEditGenerator
) -> tuple[ExpertRepository, dict[str, Fact]]:
    """Read experts that were written for this backbone and generator, and their facts."""
    try:
        content = json.loads((folder / EDITS_FILE).read_text(encoding="utf-8"))
        found = {name: content[name] for name in ("backbone_digest", "generator_digest")}
        facts = {edit_id: Fact(**fact) for edit_id, fact in content["facts"].items()}
        edit_ids = tuple(content["edit_ids"])
        budget = checked_budget(content.get("false_activation", DEFAULT_BUDGET))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise IntegrityError(f"{folder / EDITS_FILE}: {error}") from error
    digests = {"backbone_digest": backbone_digest, "generator_digest": generator.digest}
    for name, expected in digests.items():
        if found[name] != expected:
            raise RepositoryMismatchError(
                f"{folder}: its experts were made for {name} {found[name]}, got {expected}; "
                "they cannot be used here"
            )
    try:
        tensors = _with_ranks(load_file(folder / EXPERTS_FILE))
        fields: dict[str, Any] = {field: tensors[name] for name, field in _TENSORS.items()}
        fields["traffic_MR"] = tensors.get(_TRAFFIC)
        return ExpertRepository(edit_ids=edit_ids, false_activation=budget, **fields), facts
    except (OSError, KeyError, SafetensorError, ShapeError) as error:
        raise IntegrityError(f"{folder / EXPERTS_FILE}: {error}") from error


def _with_ranks(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file; older ones hold experts of one rank as `down_NRD` and `up_NRD`."""
    if "ranks_N" in tensors:
        return tensors
    num_experts, rank, _ = tensors["down_NRD"].shape
    slots = {f"{name}_LD": tensors[f"{name}_NRD"].flatten(0, 1) for name in ("down", "up")}
    return {**tensors, **slots, "ranks_N": torch.full((num_experts,), rank)}
