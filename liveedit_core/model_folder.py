"""Experts of an edited model in a folder: parts that are written once, and `edits.json` about them.

    edits.json                  digests, budget, parts in order, edits that do not answer
    experts-<number>.safetensors, facts-<number>.json    the rows of one part, and what they taught

Saving again adds a part with the new rows. All is written anew when rows of the folder are not
those of the model, or when most of them do not answer. `edits.json` is replaced last and whole, so
a folder is that of the last save that ended. Tensors are mapped, not read.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from liveedit_core.errors import ConfigError, IntegrityError, RepositoryMismatchError, ShapeError
from liveedit_core.method.config import DEFAULT_BUDGET, checked_budget
from liveedit_core.method.editor import Editor
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.growing import SegmentedRows
from liveedit_core.method.repository import ExpertRepository, stacked_slots
from liveedit_core.schema import Fact

EDITS_FILE = "edits.json"
_TENSORS = {
    "visual_features_NK": "visual",
    "prompt_features_NK": "prompt",
    "ranks_N": "ranks_N",
    "down_LD": "down",
    "up_LD": "up",
}
"""Names in a file, and the fields of a repository."""
_TRAFFIC_FILE = "traffic.safetensors"
_TRAFFIC = "traffic_MR"


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Rows that were added by one save."""

    experts: str
    """File name."""
    facts: str
    num_edits: int
    num_bytes: int
    """Of the file of experts."""
    ids_sha256: str


@dataclass(frozen=True, kw_only=True)
class _Content:
    """`edits.json`."""

    backbone_digest: str
    generator_digest: str
    parts: tuple[_Part, ...]
    false_activation: float = DEFAULT_BUDGET
    has_traffic: bool = False
    not_held: tuple[str, ...] = field(default=())


def save_model(folder: Path, editor: Editor, facts: Mapping[str, Fact]) -> None:
    """Write experts and facts, with the digests of backbone and generator."""
    folder.mkdir(parents=True, exist_ok=True)
    repository = editor.repository
    is_sparse = 2 * len(repository) < len(repository.edit_ids)
    parts = () if is_sparse else _parts_of(folder, editor)
    if not parts:
        repository = repository.compact()
    start = sum(part.num_edits for part in parts)
    if start < len(repository.edit_ids) or not parts:
        parts = (*parts, _written(folder, repository, start, facts))
    if repository.traffic_MR is not None:
        _write(folder / _TRAFFIC_FILE, save({_TRAFFIC: repository.traffic_MR.contiguous()}))
    content = _Content(
        backbone_digest=editor.backbone.digest,
        generator_digest=editor.generator.digest,
        false_activation=repository.false_activation,
        has_traffic=repository.traffic_MR is not None,
        parts=parts,
        not_held=_not_held(repository),
    )
    _write(folder / EDITS_FILE, (json.dumps(asdict(content), indent=1) + "\n").encode())
    names = {name for part in parts for name in (part.experts, part.facts)}
    for file in [*folder.glob("experts-*.safetensors"), *folder.glob("facts-*.json")]:
        if file.name not in names:
            file.unlink()


def _parts_of(folder: Path, editor: Editor) -> tuple[_Part, ...]:
    """The parts of a folder, if they hold the first rows of the model."""
    try:
        content = _read_content(folder)
    except IntegrityError:
        return ()
    edit_ids, start = editor.repository.edit_ids, 0
    for part in content.parts:
        if _sha256(edit_ids[start : start + part.num_edits]) != part.ids_sha256:
            return ()
        start += part.num_edits
    made_by = editor.backbone.digest, editor.generator.digest
    return content.parts if made_by == (content.backbone_digest, content.generator_digest) else ()


def _written(
    folder: Path, repository: ExpertRepository, start: int, facts: Mapping[str, Fact]
) -> _Part:
    rows = range(start, len(repository.edit_ids))
    new = repository.take(rows)
    numbers = [int(file.stem.split("-")[1]) for file in folder.glob("experts-*.safetensors")]
    number = max(numbers, default=0) + 1
    tensors = {name: getattr(new, name).contiguous() for name in _TENSORS}
    data = save(tensors)
    part = _Part(
        experts=f"experts-{number:06}.safetensors",
        facts=f"facts-{number:06}.json",
        num_edits=len(new),
        num_bytes=len(data),
        ids_sha256=_sha256(new.edit_ids),
    )
    known = {key: asdict(facts[key]) for key in new.edit_ids if key in facts}
    _write(folder / part.experts, data)
    _write(
        folder / part.facts,
        json.dumps({"edit_ids": list(new.edit_ids), "facts": known}, indent=1).encode(),
    )
    return part


def _not_held(repository: ExpertRepository) -> tuple[str, ...]:
    if repository.held_N is None:
        return ()
    return tuple(repository.edit_ids[n] for n in (~repository.held_N).nonzero().flatten().tolist())


def _sha256(edit_ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(edit_ids).encode()).hexdigest()


def _write(file: Path, data: bytes) -> None:
    """Whole or not at all."""
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)


def read_model(
    folder: Path, backbone_digest: str, generator: LiveEditGenerator
) -> tuple[ExpertRepository, dict[str, Fact]]:
    """The experts that were written for this backbone and generator, and their facts."""
    content = _read_content(folder)
    digests = {"backbone_digest": backbone_digest, "generator_digest": generator.digest}
    for name, expected in digests.items():
        if getattr(content, name) != expected:
            raise RepositoryMismatchError(
                f"{folder}: its experts were made for {name} {getattr(content, name)}, got "
                f"{expected}; they cannot be used here"
            )
    edit_ids: list[str] = []
    facts: dict[str, Fact] = {}
    columns: dict[str, list[Tensor]] = {name: [] for name in _TENSORS}
    for part in content.parts:
        edit_ids += _read_facts(folder / part.facts, part, facts)
        tensors = _mapped(folder / part.experts, part)
        if missing := _TENSORS.keys() - tensors.keys():
            raise IntegrityError(f"{folder / part.experts}: lacks {', '.join(sorted(missing))}")
        for name, column in columns.items():
            column.append(tensors[name])
    repository = _repository(folder, content, edit_ids, columns)
    held = set(repository.held_ids)
    return repository, {key: fact for key, fact in facts.items() if key in held}


def _repository(
    folder: Path,
    content: _Content,
    edit_ids: Sequence[str],
    columns: Mapping[str, Sequence[Tensor]],
) -> ExpertRepository:
    size, ranks = len(edit_ids), columns["ranks_N"]
    gone = set(content.not_held)
    try:
        repository = ExpertRepository(
            edit_ids=tuple(edit_ids),
            visual=SegmentedRows(columns["visual_features_NK"], size),
            prompt=SegmentedRows(columns["prompt_features_NK"], size),
            ranks_N=torch.cat(list(ranks)),
            down=stacked_slots(zip(columns["down_LD"], ranks, strict=True)),
            up=stacked_slots(zip(columns["up_LD"], ranks, strict=True)),
            held_N=torch.tensor([key not in gone for key in edit_ids]) if gone else None,
            false_activation=content.false_activation,
        )
    except ShapeError as error:
        raise IntegrityError(f"{folder}: {error}") from error
    if not content.has_traffic:
        return repository
    return replace(repository, traffic_MR=_mapped(folder / _TRAFFIC_FILE)[_TRAFFIC])


def _read_content(folder: Path) -> _Content:
    file = folder / EDITS_FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if "parts" not in found:
            return _of_first_release(folder, found)
        parts = tuple(_Part(**part) for part in found.pop("parts"))
        not_held = tuple(found.pop("not_held"))
        checked_budget(found["false_activation"])
        return _Content(parts=parts, not_held=not_held, **found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise IntegrityError(f"{file}: {error}") from error


def _of_first_release(folder: Path, found: Mapping[str, Any]) -> _Content:
    """It wrote one file of experts, all of one rank, and the facts into `edits.json`."""
    part = _Part(
        experts="experts.safetensors",
        facts=EDITS_FILE,
        num_edits=len(found["edit_ids"]),
        num_bytes=(folder / "experts.safetensors").stat().st_size,
        ids_sha256=_sha256(found["edit_ids"]),
    )
    return _Content(
        backbone_digest=found["backbone_digest"],
        generator_digest=found["generator_digest"],
        parts=(part,),
        false_activation=checked_budget(found.get("false_activation", DEFAULT_BUDGET)),
    )


def _read_facts(file: Path, part: _Part, facts: dict[str, Fact]) -> list[str]:
    """Ids of the edits of a part; their facts are added."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        edit_ids: list[str] = found["edit_ids"]
        facts |= {edit_id: Fact(**fact) for edit_id, fact in found["facts"].items()}
        if _sha256(edit_ids) != part.ids_sha256:
            raise ValueError("these are other edits than edits.json names")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{file}: {error}") from error
    return edit_ids


def _mapped(file: Path, part: _Part | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, read where they are used."""
    dtypes = {"F32": np.float32, "I64": np.int64}
    try:
        num_bytes = file.stat().st_size
        if part is not None and num_bytes != part.num_bytes:
            raise ValueError(f"{num_bytes:,} bytes, edits.json names {part.num_bytes:,}")
        with file.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
            if start > num_bytes:
                raise ValueError("no safetensors file")
            header: dict[str, Any] = json.loads(stream.read(start - 8))
        mapped = np.memmap(file, np.uint8, mode="c")
        tensors = {}
        header.pop("__metadata__", None)
        for name, about in header.items():
            first, last = about["data_offsets"]
            array = mapped[start + first : start + last].view(dtypes[about["dtype"]])
            tensors[name] = torch.from_numpy(array.reshape(about["shape"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{file}: {error}") from error
    if "down_NRD" in tensors:  # of the first release
        num_experts, rank, _ = tensors["down_NRD"].shape
        tensors["ranks_N"] = torch.full((num_experts,), rank)
        tensors |= {f"{name}_LD": tensors[f"{name}_NRD"].flatten(0, 1) for name in ("down", "up")}
    return tensors
