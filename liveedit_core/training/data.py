"""Training material: every edit and probe of the training cases, and where their states come from
(METHOD.md 6)."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.evaluation.probes import probe_input
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import Case, Probe, ProbeKind
from liveedit_core.state_source import StateSource
from liveedit_core.states import LayerStates
from liveedit_core.training.training_inputs import TrainingInputs, write_training_inputs


@dataclass(frozen=True, kw_only=True)
class EncodedCase:
    """Positions in the inputs of one training case."""

    entity: str
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
    """Cases and pairs as positions in a list of inputs, and where the states of those come from.

    No states are kept here, so memory does not grow with the number of cases: a step asks for those
    of its batch.
    """

    def __init__(
        self,
        inputs: Sequence[BackboneInput],
        source: StateSource,
        cases: Sequence[EncodedCase],
        pairs: Sequence[EncodedPair],
    ) -> None:
        self.inputs = inputs
        self.source = source
        self.cases = list(cases)
        self.pairs = list(pairs)
        self.siblings: dict[str, list[int]] = {}
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
        (folder / "cases.json").write_text(json.dumps(index))

    @classmethod
    def load(cls, folder: Path, source: StateSource) -> "TrainingData":
        """Inverse of `save`; inputs stay in their file."""
        index = json.loads((folder / "cases.json").read_text())
        cases = [
            EncodedCase(
                entity=case["entity"],
                edit=case["edit"],
                generality=tuple(case["generality"]),
                prompt_swap=case["prompt_swap"],
                image_locality=tuple(case["image_locality"]),
            )
            for case in index["cases"]
        ]
        pairs = [EncodedPair(**pair) for pair in index["pairs"]]
        return cls(TrainingInputs(folder / "inputs.safetensors"), source, cases, pairs)


def draw_training_data(
    cases: Sequence[Case],
    source: StateSource,
    *,
    num_pairs: int,
    has_image_locality: bool,
    random_target: Callable[[random.Random], str],
    rng: random.Random,
) -> TrainingData:
    """All that training will see.

    Args:
        cases: training cases with the probe kinds of `EncodedCase`.
        source: gives the states while training; nothing is encoded here.
        num_pairs: pairs with a random target; they teach the generator to write any target.
        has_image_locality: also take the probes that only the joint phase reads.
        random_target: draws one.
        rng: source of randomness.
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
                entity=case.entity,
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
    return TrainingData(inputs, source, encoded, pairs)


def draw_pairs(
    cases: Sequence[Case],
    count: int,
    random_target: Callable[[random.Random], str],
    rng: random.Random,
) -> Iterator[tuple[BackboneInput, BackboneInput]]:
    """Edits of random cases with random targets, and a question for each: the edit itself, its
    rephrasing, or its other image."""
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
