"""FT-L: fine-tune the second feed-forward matrix of the last decoder layer, edit after edit.

As in the authors' settings for LLaVA-1.5 (`layers.31.mlp.down_proj`) and BLIP-2 (`layers.31.fc2`):
10 steps of Adam at 1e-4, which starts anew with each edit, without weight decay or norm constraint.
All before the last layer runs once for an edit. What differs: the end of the answer is learned with
it (`target_loss`), and an edit ends early at a low loss. Unlike LiveEdit's experts the tuned part
serves every input, those without an image too.
"""

import copy
from collections.abc import Sequence

from torch import nn

from liveedit_core.backbones.views import with_part
from liveedit_core.baselines.edited_layers import LayerEditor, feed_forward_output
from liveedit_core.baselines.protocol import EditorMemory, num_bytes
from liveedit_core.baselines.settings import FineTuningConfig
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


class FineTuning(LayerEditor[FineTuningConfig]):
    """A backbone whose last feed-forward output is tuned."""

    name = "FT-L"

    def wanted_layer(self, config: FineTuningConfig, last: int) -> int:
        return last

    def fresh_layers(self) -> list[nn.Module]:
        (layer,) = self.own_layers()
        path, matrix = feed_forward_output(layer, self.name)
        self.tuned = copy.deepcopy(matrix).requires_grad_(True)
        return [with_part(layer, path, self.tuned)]

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        self.tune(states, list(self.tuned.parameters()))

    def memory(self) -> EditorMemory:
        return EditorMemory(fixed_bytes=num_bytes(self.tuned.parameters()), stored_bytes=0)
