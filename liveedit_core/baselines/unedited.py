"""The backbone as it is: what a table of editors is read against."""

from collections.abc import Sequence

from liveedit_core.backbones.protocol import Backbone
from liveedit_core.editor import NOTHING_KEPT
from liveedit_core.metrics import (
    FREE_GENERATION,
    TEACHER_FORCED,
    PreparedCases,
    ProbeResult,
    free_generation_result,
    teacher_forced_result,
)
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


class Unedited:
    """Takes every edit and learns none; all its answers were prepared already."""

    name = "unedited"

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Do nothing."""

    def score(
        self, prepared: PreparedCases, *, protocols: Sequence[str], max_new_tokens: int
    ) -> list[ProbeResult]:
        """Score the prepared answers."""
        results: list[ProbeResult] = []
        if TEACHER_FORCED in protocols:
            results += [
                teacher_forced_result(p, p.unedited_ids, NOTHING_KEPT, self.backbone.decode)
                for p in prepared.probes
            ]
        if FREE_GENERATION in protocols:
            results += [
                free_generation_result(p, p.unedited_answer, NOTHING_KEPT)
                for p in prepared.probes
                if p.unedited_answer is not None
            ]
        return results
