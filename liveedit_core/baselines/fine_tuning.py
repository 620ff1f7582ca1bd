"""FT-L and FT-M: fine-tune one part of the decoder, edit after edit.

    FT-L  the whole last decoder layer (the paper's simplest baseline)
    FT-M  one feed-forward matrix (`mlp.down_proj`), the loss masked to the target tokens

FT-L is that of LiveEdit's table. FT-M is EasyEdit's (Zhang et al., arXiv 2401.01286; `hparams/FT`);
which module the FT-M of LiveEdit's table tunes is not published. As in both codes Adam starts anew
with each edit, without weight decay or norm constraint. What differs: the end of the answer is
learned with it (`target_loss`). Unlike LiveEdit's experts the tuned part serves every input, those
without an image too.
"""

import copy
from collections.abc import Sequence

from torch import nn

from liveedit_core.backbones.views import with_part
from liveedit_core.baselines.edited_layers import ConfigT, LayerEditor, feed_forward_output
from liveedit_core.baselines.protocol import EditorMemory, num_bytes
from liveedit_core.baselines.settings import FineTuningConfig, MaskedFineTuningConfig
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates

__all__ = ["FineTuning", "FineTuningConfig", "MaskedFineTuning", "MaskedFineTuningConfig"]


class _FineTuning(LayerEditor[ConfigT]):
    """Tunes one module on one edit after another."""

    tuned: nn.Module

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        self.tune(states, list(self.tuned.parameters()))

    def memory(self) -> EditorMemory:
        return EditorMemory(fixed_bytes=num_bytes(self.tuned.parameters()), stored_bytes=0)


class FineTuning(_FineTuning[FineTuningConfig]):
    """FT-L: a backbone whose last decoder layer is tuned."""

    name = "FT-L"

    def wanted_layer(self, config: FineTuningConfig, last: int) -> int:
        return last

    def fresh_layers(self) -> list[nn.Module]:
        self.tuned = copy.deepcopy(self.own_layers()[-1]).requires_grad_(True)
        return [self.tuned]


class MaskedFineTuning(_FineTuning[MaskedFineTuningConfig]):
    """FT-M: a backbone one feed-forward matrix of which is tuned."""

    name = "FT-M"

    def fresh_layers(self) -> list[nn.Module]:
        first, *others = self.own_layers()
        path, matrix = feed_forward_output(first, self.name)
        self.tuned = copy.deepcopy(matrix).requires_grad_(True)
        return [with_part(first, path, self.tuned), *others]
