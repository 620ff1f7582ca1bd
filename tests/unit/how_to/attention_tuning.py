"""Step 1 of the how-to of an editor: tunes the output of the last layer's attention."""

import copy
from collections.abc import Sequence

from torch import nn

from liveedit_core.backbones.views import with_part
from liveedit_core.baselines.edited_layers import LayerEditor
from liveedit_core.baselines.protocol import EditorMemory, num_bytes
from liveedit_core.baselines.settings import FineTuningConfig
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


class AttentionTuning(LayerEditor[FineTuningConfig]):
    """Fine-tuning of one matrix of the attention."""

    name = "FT-attention"

    def wanted_layer(self, config: FineTuningConfig, last: int) -> int:
        return last

    def fresh_layers(self) -> list[nn.Module]:
        (layer,) = self.own_layers()
        path = "self_attn.o_proj"
        self.tuned = copy.deepcopy(layer.get_submodule(path)).requires_grad_(True)
        return [with_part(layer, path, self.tuned)]

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        self.tune(states, list(self.tuned.parameters()))

    def memory(self) -> EditorMemory:
        return EditorMemory(fixed_bytes=num_bytes(self.tuned.parameters()), stored_bytes=0)
