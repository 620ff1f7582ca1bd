"""The backbone as it is: the reference of a table of editors."""

from collections.abc import Sequence

from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.baselines.protocol import EditorMemory, score_answers
from liveedit_core.evaluation.probes import PreparedCases, ProbeResult
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


class Unedited:
    """Learns no edit; all its answers are prepared already."""

    name = "unedited"

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Do nothing."""

    def restore(self) -> None:
        """Do nothing."""

    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int) -> list[str]:
        """Greedy answers of the backbone."""
        return self.backbone.generate(inputs, None, max_new_tokens=max_new_tokens)

    def score(
        self, prepared: PreparedCases, *, protocols: Sequence[str], max_new_tokens: int
    ) -> list[ProbeResult]:
        """Score the prepared answers."""
        return score_answers(
            prepared,
            protocols,
            target_ids=lambda probes: [probe.unedited_ids for probe in probes],
            answers=lambda probes: [probe.unedited_answer or "" for probe in probes],
            decode=self.backbone.decode,
        )

    def memory(self) -> EditorMemory:
        """Nothing."""
        return EditorMemory(fixed_bytes=0, stored_bytes=0)
