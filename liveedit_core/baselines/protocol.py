"""What an editor must do to be compared: edit, restore, answer, and be scored.

    teach(requests, states) -> answer(inputs) / score(prepared) -> restore()

Every editor is examined on the same prepared probes and gives the same `ProbeResult`s as LiveEdit,
so `metrics.summarize` serves them all. None alters the backbone, so after `restore` an editor
answers as the backbone does, bit for bit.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput
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
    """Tensors that are there whatever was edited: a tuned copy, adapters, a trained generator."""
    stored_bytes: int
    """Tensors and texts of the edits taken so far: experts, keys, values, facts."""


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the elements of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class ComparedEditor(Protocol):
    """An edited model."""

    @property
    def name(self) -> str:
        """How tables call it."""
        ...

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Take edits, in this order, on top of all that were taken before.

        Args:
            requests: the edits.
            states: their rows at l_e, target included.
        """
        ...

    def restore(self) -> None:
        """Forget all edits: afterwards the editor is as it was made."""
        ...

    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int) -> list[str]:
        """Greedy answers of the model as it is now; targets that inputs carry are never shown."""
        ...

    def score(
        self, prepared: PreparedCases, *, protocols: Sequence[str], max_new_tokens: int
    ) -> list[ProbeResult]:
        """Examine the model as it is now.

        Free generation is scored on the probes that were prepared with free answers.
        """
        ...

    def memory(self) -> EditorMemory:
        """What is kept now."""
        ...


def score_answers(
    prepared: PreparedCases,
    protocols: Sequence[str],
    *,
    target_ids: Callable[[Sequence[PreparedProbe]], Sequence[Sequence[int]]],
    answers: Callable[[Sequence[PreparedProbe]], Sequence[str]],
    decode: Callable[[Sequence[int]], str],
) -> list[ProbeResult]:
    """Results of an editor that keeps no experts.

    Args:
        prepared: the probes.
        protocols: how to score.
        target_ids: gives the edited model's argmax at each target position of some probes.
        answers: gives its free answers to some probes.
        decode: token ids to text.
    """
    results: list[ProbeResult] = []
    probes = prepared.probes
    if TEACHER_FORCED in protocols:
        results += [
            teacher_forced_result(probe, ids, NOTHING_KEPT, decode)
            for probe, ids in zip(probes, target_ids(probes), strict=True)
        ]
    if FREE_GENERATION in protocols:
        asked = [probe for probe in probes if probe.unedited_answer is not None]
        results += [
            free_generation_result(probe, text, NOTHING_KEPT)
            for probe, text in zip(asked, answers(asked), strict=True)
        ]
    return results
