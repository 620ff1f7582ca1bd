"""Experts of an edited model in a folder: parts that are written once, and `edits.json` about them.

    edits.json               its own sha256, digests, budget, parts in order, positions of edits
                             that do not answer and of textual ones
    experts-<name>.safetensors, facts-<name>.json    the rows of one part, and what they taught
    traffic-<name>.safetensors                       images of the traffic, if there are any

A model that was read from a folder, or saved to it last, is saved again by a part with its new
rows; all others are written anew. `edits.json` is replaced last and whole: a folder is that of the
last save that ended. Tensors are mapped, not read.
"""

import contextlib
import fcntl
import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from liveedit_core.errors import IntegrityError, RepositoryMismatchError
from liveedit_core.method.config import DEFAULT_BUDGET, checked_budget
from liveedit_core.method.editor import Editor
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.growing import SegmentedRows
from liveedit_core.method.repository import ExpertRepository, stacked_slots
from liveedit_core.schema import Fact
from liveedit_core.whole_files import write_whole

EDITS_FILE = "edits.json"
MAX_PARTS = 64
"""A model of so many parts is written anew."""
_TENSORS = ("visual_features_NK", "prompt_features_NK", "ranks_N", "down_LD", "up_LD")
"""In a file of experts, under their names in a repository."""
_FORMS, _COUNTS = "forms_FX", "num_forms_N"
"""In a file of experts with forms: all of them, and how many each expert has."""
_TRAFFIC = "traffic_MR"
_FIRST_RELEASE = "experts.safetensors"
"""The one file of experts of folders of the first release; their facts are in `edits.json`."""
_ALTERED = "is altered, its sha256 differs: restore it from a copy, or teach its edits again"
_DTYPES = {"F32": np.float32, "I64": np.int64}


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Rows that were added by one save."""

    experts: str
    """File name; never used twice."""
    facts: str
    num_edits: int
    num_bytes: int
    """Of the file of experts."""
    ids_sha256: str
    experts_sha256: str = ""
    facts_sha256: str = ""
    """"" in folders of earlier releases, for both."""


@dataclass(frozen=True, kw_only=True)
class _Content:
    """`edits.json`."""

    backbone_digest: str
    generator_digest: str
    parts: tuple[_Part, ...]
    false_activation: float
    traffic: str = ""
    """File name; "" without."""
    not_held: tuple[int, ...] = ()
    textual: tuple[int, ...] = ()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder, and let one process at a time save to it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def can_append(folder: Path, editor: Editor) -> bool:
    """Whether the parts of a folder are the first rows of a model, most of which answer."""
    repository = editor.repository
    if 2 * len(repository) < len(repository.edit_ids) or not repository.saved_parts:
        return False
    try:
        content = _read_content(folder)
    except IntegrityError:
        return False
    names = tuple(part.experts for part in content.parts)
    return names == repository.saved_parts and len(names) < MAX_PARTS


def save_model(folder: Path, editor: Editor, facts: Mapping[str, Fact]) -> tuple[str, ...]:
    """Write experts and facts, with the digests of backbone and generator; the `saved_parts` that
    the model consists of from then on."""
    repository = editor.repository
    parts = _read_content(folder).parts if can_append(folder, editor) else ()
    start = sum(part.num_edits for part in parts)
    if start < len(repository.edit_ids) or not parts:
        parts = (*parts, _written(folder, repository, start, facts))
    traffic = ""
    if repository.traffic_MR is not None:
        data = save({_TRAFFIC: repository.traffic_MR.contiguous()})
        traffic = f"traffic-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
        write_whole(folder / traffic, data)
    held_N = repository.held_N
    content = _Content(
        backbone_digest=editor.backbone.digest,
        generator_digest=editor.generator.digest,
        parts=parts,
        false_activation=repository.false_activation,
        traffic=traffic,
        not_held=() if held_N is None else _places(~held_N),
        textual=() if repository.is_textual_N is None else _places(repository.is_textual_N),
    )
    about = asdict(content)
    about["sha256"] = _digest(about)
    write_whole(folder / EDITS_FILE, (json.dumps(about, indent=1) + "\n").encode())
    named = {EDITS_FILE, traffic, *(name for part in parts for name in (part.experts, part.facts))}
    for pattern in ("experts-*", "facts-*", "traffic-*", _FIRST_RELEASE):
        for file in folder.glob(pattern):
            if file.name not in named:
                file.unlink()
    return tuple(part.experts for part in parts)


def _places(flags_N: Tensor) -> tuple[int, ...]:
    return tuple(flags_N.nonzero().flatten().tolist())


def _written(
    folder: Path, repository: ExpertRepository, start: int, facts: Mapping[str, Fact]
) -> _Part:
    """A part with the rows from `start` on."""
    new = repository.take(range(start, len(repository.edit_ids)))
    tensors = {name: getattr(new, name).contiguous() for name in _TENSORS}
    if new.forms:
        each = [new.forms.get(n) for n in range(len(new.edit_ids))]
        tensors[_FORMS] = torch.cat([forms_FX for forms_FX in each if forms_FX is not None])
        tensors[_COUNTS] = torch.tensor([0 if part is None else len(part) for part in each])
    data = save(tensors)
    known = {key: asdict(facts[key]) for key in new.edit_ids if key in facts}
    about = json.dumps({"edit_ids": list(new.edit_ids), "facts": known}, indent=1).encode()
    name = uuid.uuid4().hex
    part = _Part(
        experts=f"experts-{name}.safetensors",
        facts=f"facts-{name}.json",
        num_edits=len(new),
        num_bytes=len(data),
        ids_sha256=_sha256(new.edit_ids),
        experts_sha256=hashlib.sha256(data).hexdigest(),
        facts_sha256=hashlib.sha256(about).hexdigest(),
    )
    write_whole(folder / part.experts, data)
    write_whole(folder / part.facts, about)
    return part


def _digest(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _sha256(edit_ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(edit_ids).encode()).hexdigest()


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
    with _damage_of(folder / EDITS_FILE):
        return _assembled(folder, content)


def _assembled(folder: Path, content: _Content) -> tuple[ExpertRepository, dict[str, Fact]]:
    """The rows of all parts."""
    edit_ids: list[str] = []
    facts: dict[str, Fact] = {}
    parts = []
    for part in content.parts:
        edit_ids += _read_facts(folder / part.facts, part, facts)
        parts.append(_read_part(folder / part.experts, part))
    columns = {name: [part[name] for part in parts] for name in _TENSORS}
    is_held_N = torch.ones(len(edit_ids), dtype=torch.bool)
    is_held_N[list(content.not_held)] = False
    is_textual_N = torch.zeros_like(is_held_N)
    is_textual_N[list(content.textual)] = True
    repository = ExpertRepository(
        edit_ids=tuple(edit_ids),
        visual=SegmentedRows(columns["visual_features_NK"], len(edit_ids)),
        prompt=SegmentedRows(columns["prompt_features_NK"], len(edit_ids)),
        ranks_N=torch.cat(columns["ranks_N"]),
        down=stacked_slots(zip(columns["down_LD"], columns["ranks_N"], strict=True)),
        up=stacked_slots(zip(columns["up_LD"], columns["ranks_N"], strict=True)),
        forms=dict(_forms_of(parts)),
        held_N=None if is_held_N.all() else is_held_N,
        is_textual_N=is_textual_N if content.textual else None,
        false_activation=content.false_activation,
        traffic_MR=_read_traffic(folder, content.traffic),
        saved_parts=tuple(p.experts for p in content.parts if p.experts != _FIRST_RELEASE),
    )
    held = set(repository.held_ids)
    return repository, {key: fact for key, fact in facts.items() if key in held}


@contextlib.contextmanager
def _damage_of(file: Path) -> Iterator[None]:
    """Whatever is raised while a file is read is damage of it."""
    try:
        yield
    except (IntegrityError, RepositoryMismatchError):
        raise
    except Exception as error:
        raise IntegrityError(f"{file}: {error}") from error


def _read_content(folder: Path) -> _Content:
    file = folder / EDITS_FILE
    with _damage_of(file):
        found = json.loads(file.read_text(encoding="utf-8"))
        sha256 = found.pop("sha256", "")  # folders of earlier releases lack it
        if sha256 and sha256 != _digest(found):
            raise ValueError(_ALTERED)
        budget = checked_budget(found.pop("false_activation", DEFAULT_BUDGET))
        if "parts" not in found:
            return _of_first_release(folder, found, budget)
        parts = tuple(_Part(**part) for part in found.pop("parts"))
        not_held, textual = tuple(found.pop("not_held")), tuple(found.pop("textual", ()))
        size = sum(part.num_edits for part in parts)
        if not parts or any(place not in range(size) for place in not_held + textual):
            raise ValueError("it names no parts, or positions that they do not have")
        return _Content(
            parts=parts, not_held=not_held, textual=textual, false_activation=budget, **found
        )


def _of_first_release(folder: Path, found: Mapping[str, Any], budget: float) -> _Content:
    file = folder / _FIRST_RELEASE
    part = _Part(
        experts=_FIRST_RELEASE,
        facts=EDITS_FILE,
        num_edits=len(found["edit_ids"]),
        num_bytes=file.stat().st_size,
        ids_sha256=_sha256(found["edit_ids"]),
    )
    return _Content(
        backbone_digest=found["backbone_digest"],
        generator_digest=found["generator_digest"],
        parts=(part,),
        false_activation=budget,
        traffic=_FIRST_RELEASE if _TRAFFIC in _mapped(file) else "",
    )


def _read_facts(file: Path, part: _Part, facts: dict[str, Fact]) -> list[str]:
    """Ids of the edits of a part; their facts are added."""
    with _damage_of(file):
        _check_bytes(file, part.facts_sha256)
        found = json.loads(file.read_text(encoding="utf-8"))
        edit_ids: list[str] = found["edit_ids"]
        facts |= {edit_id: Fact(**fact) for edit_id, fact in found["facts"].items()}
        if len(edit_ids) != part.num_edits or _sha256(edit_ids) != part.ids_sha256:
            raise ValueError("these are other edits than edits.json names")
    return edit_ids


def _read_part(file: Path, part: _Part) -> dict[str, Tensor]:
    tensors = _mapped(file)
    if "down_NRD" in tensors:  # the first release wrote experts of one rank
        num_experts, rank, _ = tensors["down_NRD"].shape
        tensors["ranks_N"] = torch.full((num_experts,), rank)
        tensors |= {f"{name}_LD": tensors[f"{name}_NRD"].flatten(0, 1) for name in ("down", "up")}
    if missing := set(_TENSORS) - tensors.keys():
        raise IntegrityError(f"{file}: lacks {', '.join(sorted(missing))}")
    num_slots = int(tensors["ranks_N"].sum())
    sizes = {name: num_slots if name.endswith("_LD") else part.num_edits for name in _TENSORS}
    for name, size in sizes.items():
        if len(tensors[name]) != size:
            raise IntegrityError(f"{file}: {name} has {len(tensors[name])} rows, not {size}")
    if file.stat().st_size != part.num_bytes:
        raise IntegrityError(f"{file}: its size is not that which edits.json names")
    _check_bytes(file, part.experts_sha256)
    return tensors


def _forms_of(parts: Sequence[Mapping[str, Tensor]]) -> Iterator[tuple[int, Tensor]]:
    """Position and forms of each expert that has any."""
    start = 0
    for part in parts:
        if _FORMS in part:
            counts = part[_COUNTS].tolist()
            for n, forms_FX in enumerate(part[_FORMS].split(counts)):
                if len(forms_FX):
                    yield start + n, forms_FX
        start += len(part["ranks_N"])


def _check_bytes(file: Path, sha256: str) -> None:
    """IntegrityError unless a file is the one that was written; "" and the beginning of a digest
    check as much as they say."""
    with _damage_of(file), file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest() if sha256 else ""
    if not found.startswith(sha256):
        raise IntegrityError(f"{file} {_ALTERED}")


def _read_traffic(folder: Path, name: str) -> Tensor | None:
    if not name:
        return None
    if name != _FIRST_RELEASE:
        _check_bytes(folder / name, name.removeprefix("traffic-").removesuffix(".safetensors"))
    if (rows_MR := _mapped(folder / name).get(_TRAFFIC)) is None:
        raise IntegrityError(f"{folder / name}: lacks {_TRAFFIC}")
    return rows_MR


def _mapped(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, read where they are used."""
    with _damage_of(file):
        with file.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
            if start > file.stat().st_size:
                raise ValueError("no safetensors file")
            header: dict[str, Any] = json.loads(stream.read(start - 8))
        header.pop("__metadata__", None)
        mapped = np.memmap(file, np.uint8, mode="c")
        tensors = {}
        for name, about in header.items():
            first, last = about["data_offsets"]
            array = mapped[start + first : start + last].view(_DTYPES[about["dtype"]])
            tensors[name] = torch.from_numpy(array.reshape(about["shape"]))
    return tensors
