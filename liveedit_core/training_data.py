"""Training material: every edit and probe of the training cases, encoded once (METHOD.md 6)."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.editor import edit_input
from liveedit_core.metrics import probe_input
from liveedit_core.schema import Case, Probe, ProbeKind
from liveedit_core.state_table import StateTable
from liveedit_core.states import LayerStates

CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class EncodedCase:
    """Positions in the state table of one training case."""

    thing: str
    edit: int
    generality: tuple[int, ...]
    """text_generality, modal_generality."""
    prompt_swap: int
    image_locality: tuple[int, ...]
    """modal_locality and image_swap_locality; empty when they were not asked for."""


@dataclass(frozen=True, kw_only=True)
class EncodedPair:
    """An edit with a random target, and one question that it must answer."""

    edit: int
    query: int


class TrainingData:
    """Encoded cases and pairs over one table of states."""

    def __init__(
        self, table: StateTable, cases: Sequence[EncodedCase], pairs: Sequence[EncodedPair]
    ) -> None:
        self.table = table
        self.cases = list(cases)
        self.pairs = list(pairs)
        self.siblings: dict[str, list[int]] = {}
        for i, case in enumerate(self.cases):
            self.siblings.setdefault(case.thing, []).append(i)

    def states(self, index: Sequence[int]) -> list[LayerStates]:
        """States at some positions of the table."""
        return [self.table[i] for i in index]

    def save(self, folder: Path) -> None:
        """Write `states.safetensors` and `cases.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.table.save(folder / "states.safetensors")
        index = {
            "cases": [asdict(case) for case in self.cases],
            "pairs": [asdict(pair) for pair in self.pairs],
        }
        (folder / "cases.json").write_text(json.dumps(index))

    @classmethod
    def load(cls, folder: Path) -> "TrainingData":
        """Inverse of `save`."""
        index = json.loads((folder / "cases.json").read_text())
        cases = [
            EncodedCase(
                thing=case["thing"],
                edit=case["edit"],
                generality=tuple(case["generality"]),
                prompt_swap=case["prompt_swap"],
                image_locality=tuple(case["image_locality"]),
            )
            for case in index["cases"]
        ]
        pairs = [EncodedPair(**pair) for pair in index["pairs"]]
        return cls(StateTable.load(folder / "states.safetensors"), cases, pairs)


def encode_training_data(
    backbone: Backbone,
    cases: Sequence[Case],
    *,
    num_pairs: int,
    has_image_locality: bool,
    random_target: Callable[[random.Random], str],
    rng: random.Random,
    report: Callable[[int, int], None],
) -> TrainingData:
    """Run the image tower and layers 0..l_e on all that training will see.

    Args:
        backbone: frozen VLM.
        cases: training cases with the probe kinds of `EncodedCase`.
        num_pairs: pairs with a random target; they teach the generator to write any target.
        has_image_locality: also encode the probes that only the joint phase reads.
        random_target: draws one.
        rng: source of randomness.
        report: called with (done, total) inputs.
    """
    kinds = [
        ProbeKind.TEXT_GENERALITY,
        ProbeKind.MODAL_GENERALITY,
        ProbeKind.PROMPT_SWAP_LOCALITY,
    ]
    if has_image_locality:
        kinds += [ProbeKind.MODAL_LOCALITY, ProbeKind.IMAGE_SWAP_LOCALITY]
    inputs: list[BackboneInput] = []
    encoded: list[EncodedCase] = []
    for case in cases:
        probes = {probe.kind: probe for probe in case.probes}
        first = len(inputs)
        inputs.append(edit_input(case.edit))
        inputs += [probe_input(_with_some_target(probes[kind])) for kind in kinds]
        encoded.append(
            EncodedCase(
                thing=case.thing,
                edit=first,
                generality=(first + 1, first + 2),
                prompt_swap=first + 3,
                image_locality=(first + 4, first + 5) if has_image_locality else (),
            )
        )
    pairs = []
    for edit, query in draw_pairs(cases, num_pairs, random_target, rng):
        pairs.append(EncodedPair(edit=len(inputs), query=len(inputs) + 1))
        inputs += [edit, query]
    table = StateTable()
    for start in range(0, len(inputs), CHUNK):
        chunk = inputs[start : start + CHUNK]
        for item, state in zip(chunk, backbone.encode(chunk), strict=True):
            table.append(state, item.image_bytes)
        report(len(table), len(inputs))
    return TrainingData(table, encoded, pairs)


def draw_pairs(
    cases: Sequence[Case],
    count: int,
    random_target: Callable[[random.Random], str],
    rng: random.Random,
) -> Iterator[tuple[BackboneInput, BackboneInput]]:
    """Edits of random cases with random targets, and a question for each: the edit itself, its
    rephrasing, or its other picture."""
    for _ in range(count):
        case = rng.choice(cases)
        target = random_target(rng)
        edit = replace(edit_input(case.edit), target=target)
        kind = rng.choice((ProbeKind.TEXT_GENERALITY, ProbeKind.MODAL_GENERALITY))
        probe = next(probe for probe in case.probes if probe.kind is kind)
        yield edit, replace(probe_input(probe), target=target)


def _with_some_target(probe: Probe) -> Probe:
    """Locality is measured at target positions; a probe without a target gets a neutral one."""
    return probe if probe.target else replace(probe, target="unknown")
