"""The backbone as it is: the reference of a table of editors."""

from collections.abc import Sequence

from liveedit_core.backbones.protocol import Backbone, BackboneInput
from liveedit_core.baselines.protocol import EditorMemory, PlainEditor
from liveedit_core.evaluation.probes import PreparedProbe
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


class Unedited(PlainEditor):
    """Learns no edit; all its answers are prepared already."""

    name = "unedited"

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Do nothing."""

    def restore(self) -> None:
        """Do nothing."""

    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int) -> list[str]:
        return self.backbone.generate(inputs, None, max_new_tokens=max_new_tokens)

    def target_ids(self, probes: Sequence[PreparedProbe]) -> list[tuple[int, ...]]:
        return [probe.unedited_ids for probe in probes]

    def free_answers(self, probes: Sequence[PreparedProbe], max_new_tokens: int) -> list[str]:
        return [probe.unedited_answer or "" for probe in probes]

    def memory(self) -> EditorMemory:
        """Nothing."""
        return EditorMemory(fixed_bytes=0, stored_bytes=0)
