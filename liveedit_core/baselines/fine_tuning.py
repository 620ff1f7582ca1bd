"""FT-L and FT-M: fine-tune one part of the decoder, edit after edit.

    FT-L  the whole last decoder layer (the paper's simplest baseline)
    FT-M  one feed-forward matrix (`mlp.down_proj`), the loss masked to the target tokens

FT-L is that of LiveEdit's table. FT-M is EasyEdit's (Zhang et al., "A Comprehensive Study of
Knowledge Editing for Large Language Models", arXiv 2401.01286; `hparams/FT`): one feed-forward
matrix, cross-entropy on the answer alone, the prompt masked. LiveEdit's table has a row FT-M, too,
but its published code holds one fine-tuning editor whose module is a setting, and no settings for
it; so which module its FT-M tunes is not known here.

As in both codes: Adam starts anew with each edit, no weight decay, no norm constraint, an edit ends
early at a loss of 0.01. What differs: the end of the answer is learned with it (`target_loss`).

What lies before the tuned part is frozen, so its input is a constant of an edit. Unlike LiveEdit's
experts the tuned part serves every input, those without an image too.
"""

import copy
from collections.abc import Sequence

from torch import nn

from liveedit_core.backbones.views import with_part
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.edited_layers import LayerEditor, feed_forward_output
from liveedit_core.baselines.protocol import EditorMemory, num_bytes
from liveedit_core.baselines.settings import FineTuningConfig, MaskedFineTuningConfig
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates

__all__ = ["FineTuning", "FineTuningConfig", "MaskedFineTuning", "MaskedFineTuningConfig"]


class FineTuning(LayerEditor):
    """FT-L: a backbone whose last decoder layer is tuned."""

    name = "FT-L"

    def __init__(
        self,
        backbone: VisionLanguageBackbone,
        config: FineTuningConfig | None = None,
        *,
        batch_size: int = 16,
    ) -> None:
        self.config: FineTuningConfig | MaskedFineTuningConfig = config or FineTuningConfig()
        last = len(backbone.decoder.layers) - 1
        super().__init__(backbone, first_layer=last, batch_size=batch_size)

    def fresh_layers(self) -> list[nn.Module]:
        """A copy of the last layer."""
        self.tuned = copy.deepcopy(self.own_layers()[-1]).requires_grad_(True)
        return [self.tuned]

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Tune on one edit after another."""
        self.tune(states, list(self.tuned.parameters()), self.config)

    def memory(self) -> EditorMemory:
        """The tuned copy; edits add nothing to it."""
        return EditorMemory(fixed_bytes=num_bytes(self.tuned.parameters()), stored_bytes=0)


class MaskedFineTuning(FineTuning):
    """FT-M: a backbone one matrix of which is tuned."""

    name = "FT-M"

    def __init__(
        self,
        backbone: VisionLanguageBackbone,
        config: MaskedFineTuningConfig | None = None,
        *,
        batch_size: int = 16,
    ) -> None:
        self.config = config or MaskedFineTuningConfig()
        LayerEditor.__init__(self, backbone, first_layer=self.config.layer, batch_size=batch_size)

    def fresh_layers(self) -> list[nn.Module]:
        """The layers as they are, but with a copy of one matrix in the first."""
        first, *others = self.own_layers()
        path, matrix = feed_forward_output(first, self.name)
        self.tuned = copy.deepcopy(matrix).requires_grad_(True)
        return [with_part(first, path, self.tuned), *others]
