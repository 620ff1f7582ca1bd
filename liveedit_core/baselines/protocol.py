"""What an editor must do to be compared: edit, restore, answer, and be scored.

    teach(requests, states) -> answer(inputs) / score(prepared) -> restore()

Every editor is scored on the same prepared probes and gives the same `ProbeResult`s as LiveEdit, so
`summarize` serves them all. None alters the backbone, so after `restore` an editor answers as the
backbone does, bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.evaluation.probes import (
    FREE_GENERATION,
    TEACHER_FORCED,
    PreparedCases,
    PreparedProbe,
    ProbeResult,
    free_generation_result,
    teacher_forced_result,
)
from liveedit_core.method.editor import NOTHING_KEPT
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


@dataclass(frozen=True, kw_only=True)
class EditorMemory:
    """What an editor keeps beside the backbone."""

    fixed_bytes: int
    """Tensors that do not depend on the edits' number: a tuned copy, adapters, a generator."""
    stored_bytes: int
    """Tensors and texts of the edits so far: experts, keys, values, facts."""


def num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class ComparedEditor(ABC):
    """An edited model."""

    name: str
    """In tables."""

    @abstractmethod
    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Learn edits, in this order, on top of all before them; `states` include the targets."""

    @abstractmethod
    def restore(self) -> None:
        """Forget all edits."""

    @abstractmethod
    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int) -> list[str]:
        """Greedy answers of the model as it is now, whatever targets the inputs carry."""

    @abstractmethod
    def score(
        self, prepared: PreparedCases, *, protocols: Sequence[str], max_new_tokens: int
    ) -> list[ProbeResult]:
        """Score the model as it is now; free generation on probes prepared with free answers."""

    @abstractmethod
    def memory(self) -> EditorMemory:
        """What is stored now."""


class PlainEditor(ComparedEditor):
    """An editor without experts."""

    backbone: Backbone

    @abstractmethod
    def target_ids(self, probes: Sequence[PreparedProbe]) -> Sequence[Sequence[int]]:
        """Argmax token at each target position."""

    def free_answers(self, probes: Sequence[PreparedProbe], max_new_tokens: int) -> list[str]:
        """Greedy answers to the questions of some probes."""
        return self.answer([probe.question for probe in probes], max_new_tokens)

    def score(
        self, prepared: PreparedCases, *, protocols: Sequence[str], max_new_tokens: int
    ) -> list[ProbeResult]:
        results: list[ProbeResult] = []
        probes = prepared.probes
        if TEACHER_FORCED in protocols:
            results += [
                teacher_forced_result(probe, ids, NOTHING_KEPT, self.backbone.decode)
                for probe, ids in zip(probes, self.target_ids(probes), strict=True)
            ]
        if FREE_GENERATION in protocols:
            free = [probe for probe in probes if probe.unedited_answer is not None]
            results += [
                free_generation_result(probe, text, NOTHING_KEPT)
                for probe, text in zip(free, self.free_answers(free, max_new_tokens), strict=True)
            ]
        return results


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, shortest first."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
