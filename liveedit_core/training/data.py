"""Training data: edits and probes of the training cases as inputs, states on demand.

States are not kept in memory, nor are inputs that lie elsewhere, so memory does not grow with the
number of cases.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.evaluation.probes import probe_input
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import Case, Probe, ProbeKind
from liveedit_core.state_source import StateSource
from liveedit_core.states import LayerStates
from liveedit_core.whole_files import write_whole

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

    def save(self, file: Path) -> None:
        """Write cases and pairs as JSON."""
        index = {
            "cases": [asdict(case) for case in self.cases],
            "pairs": [asdict(pair) for pair in self.pairs],
        }
        write_whole(file, json.dumps(index))

    @classmethod
    def load(
        cls, file: Path, inputs: Sequence[BackboneInput], source: StateSource
    ) -> "TrainingData":
        """Inverse of `save`, with the inputs that were saved elsewhere."""
        index = json.loads(file.read_text())
        cases = [
            IndexedCase(**case | {name: tuple(case[name]) for name in _TUPLES})
            for case in index["cases"]
        ]
        return cls(inputs, source, cases, [IndexedPair(**pair) for pair in index["pairs"]])


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
