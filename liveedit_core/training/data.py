"""Training data: edits and probes of the training cases as inputs in a file, states on demand.

Neither inputs nor states are kept in memory, so memory does not grow with the number of cases.
`inputs.safetensors` holds two tensors:

    bytes   all texts and all distinct images, concatenated
    places  for each input: start of the prompt, of the target, end of the target, start and end of
            the image (-1, -1 without one)
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.evaluation.probes import probe_input
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import Case, Probe, ProbeKind
from liveedit_core.state_source import StateSource
from liveedit_core.states import LayerStates
from liveedit_core.whole_files import whole_file, write_whole

_TUPLES = ("generality", "locality")
GENERALITY = (ProbeKind.TEXT_GENERALITY, ProbeKind.MODAL_GENERALITY)
IMAGE_LOCALITY = (ProbeKind.MODAL_LOCALITY, ProbeKind.IMAGE_SWAP_LOCALITY)
"""What the joint phase reads."""


@dataclass(frozen=True, kw_only=True)
class IndexedCase:
    """One training case, as positions in the list of inputs."""

    entity: str
    edit: int
    generality: tuple[int, ...]
    """text_generality, modal_generality."""
    prompt_swap: int
    locality: tuple[int, ...]
    """Further locality probes, of the kinds that were drawn."""


@dataclass(frozen=True, kw_only=True)
class IndexedPair:
    """An edit with a random target, and one question with that target."""

    edit: int
    query: int


class TrainingData:
    """Cases and pairs as positions in a list of inputs, and the source of the inputs' states."""

    def __init__(
        self,
        inputs: Sequence[BackboneInput],
        source: StateSource,
        cases: Sequence[IndexedCase],
        pairs: Sequence[IndexedPair],
    ) -> None:
        self.inputs = inputs
        self.source = source
        self.cases = list(cases)
        self.pairs = list(pairs)
        self.siblings: dict[str, list[int]] = {}
        """Positions of the cases of each entity."""
        for i, case in enumerate(self.cases):
            self.siblings.setdefault(case.entity, []).append(i)

    def states(self, index: Sequence[int]) -> list[LayerStates]:
        """States of the inputs at some positions."""
        return self.source.states([self.inputs[i] for i in index])

    def save(self, folder: Path) -> None:
        """Write `inputs.safetensors` and `cases.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_training_inputs(folder / "inputs.safetensors", self.inputs)
        index = {
            "cases": [asdict(case) for case in self.cases],
            "pairs": [asdict(pair) for pair in self.pairs],
        }
        write_whole(folder / "cases.json", json.dumps(index))

    @classmethod
    def load(cls, folder: Path, source: StateSource) -> "TrainingData":
        """Inverse of `save`; inputs stay in their file."""
        index = json.loads((folder / "cases.json").read_text())
        cases = [
            IndexedCase(**case | {name: tuple(case[name]) for name in _TUPLES})
            for case in index["cases"]
        ]
        pairs = [IndexedPair(**pair) for pair in index["pairs"]]
        return cls(TrainingInputs(folder / "inputs.safetensors"), source, cases, pairs)


def draw_training_data(
    cases: Sequence[Case],
    source: StateSource,
    *,
    num_pairs: int,
    localities: Sequence[ProbeKind] = (),
    random_target: Callable[[random.Random], str],
    rng: random.Random,
) -> TrainingData:
    """Lay out the cases and draw the pairs; nothing is encoded here.

    Pairs teach the generator to write any target. `localities` are the kinds of locality probes
    that are included beside prompt_swap_locality.
    """
    kinds = [*GENERALITY, ProbeKind.PROMPT_SWAP_LOCALITY, *localities]
    inputs: list[BackboneInput] = []
    indexed: list[IndexedCase] = []
    for case in cases:
        probes = {probe.kind: probe for probe in case.probes}
        first = len(inputs)
        inputs.append(edit_input(case.edit))
        inputs += [probe_input(_with_some_target(probes[kind])) for kind in kinds]
        indexed.append(
            IndexedCase(
                entity=case.entity,
                edit=first,
                generality=(first + 1, first + 2),
                prompt_swap=first + 3,
                locality=tuple(range(first + 4, first + 1 + len(kinds))),
            )
        )
    pairs = []
    for _ in range(num_pairs):
        case = rng.choice(cases)
        target = random_target(rng)
        kind = rng.choice(GENERALITY)
        probe = next(probe for probe in case.probes if probe.kind is kind)
        pairs.append(IndexedPair(edit=len(inputs), query=len(inputs) + 1))
        inputs += [replace(i, target=target) for i in (edit_input(case.edit), probe_input(probe))]
    return TrainingData(inputs, source, indexed, pairs)


def _with_some_target(probe: Probe) -> Probe:
    """Locality is measured at target positions, so every probe needs a target."""
    return probe if probe.target else replace(probe, target="unknown")


class TrainingInputs(Sequence[BackboneInput]):
    """The inputs in a file of `write_training_inputs`, read when they are indexed."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._file = cast(Any, safe_open(path, "np"))
        self._bytes = self._file.get_slice("bytes")
        self._places = self._file.get_slice("places")
        self._length = int(self._places.get_shape()[0])

    def __reduce__(self) -> tuple[type["TrainingInputs"], tuple[Path]]:
        return TrainingInputs, (self._path,)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> BackboneInput: ...
    @overload
    def __getitem__(self, index: slice) -> list[BackboneInput]: ...
    def __getitem__(self, index: int | slice) -> BackboneInput | list[BackboneInput]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not 0 <= index < self._length:
            raise IndexError(index)
        (row,) = self._places[index : index + 1].tolist()
        prompt, target, end, image, image_end = row
        return BackboneInput(
            prompt=self._read(prompt, target).decode(),
            target=self._read(target, end).decode(),
            image_bytes=self._read(image, image_end) if image >= 0 else None,
        )

    def _read(self, start: int, stop: int) -> bytes:
        data: bytes = self._bytes[start:stop].tobytes() if stop > start else b""
        return data


def write_training_inputs(path: Path, inputs: Sequence[BackboneInput]) -> None:
    """Write inputs to a file, each distinct image once."""
    parts: list[bytes] = []
    size = 0

    def add(part: bytes) -> int:
        nonlocal size
        parts.append(part)
        size += len(part)
        return size - len(part)

    places: list[tuple[int, ...]] = []
    images: dict[bytes | None, tuple[int, int]] = {None: (-1, -1)}
    for item in inputs:
        image = item.image_bytes
        if image is not None and image not in images:
            start = add(image)
            images[image] = (start, start + len(image))
        prompt, target = add(item.prompt.encode()), add(item.target.encode())
        places.append((prompt, target, size, *images[image]))
    tensors: dict[str, npt.NDArray[Any]] = {
        "bytes": np.frombuffer(b"".join(parts), dtype=np.uint8),
        "places": np.array(places, dtype=np.int64).reshape(-1, 5),
    }
    with whole_file(path) as partial:
        save_file(tensors, partial)
