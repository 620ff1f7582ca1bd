"""LoRA: low-rank adapters on projections after l_e, trained edit after edit.

    W x  ->  W x + (alpha / r) B A x        A [r, in], B [out, r], B = 0 at first

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022), Eq. 3; as an editor
in EasyEdit, whose rank, scale, projections (queries and values) and steps are the defaults. What
differs: only the layers after l_e have adapters, so that hidden states at l_e stay constant; no
dropout, so that a run can be repeated; the end of the answer is learned too (`target_loss`). One
set of adapters takes all edits.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.views import with_part
from liveedit_core.baselines.edited_layers import LayerEditor
from liveedit_core.baselines.protocol import EditorMemory, num_bytes
from liveedit_core.baselines.settings import LoraConfig
from liveedit_core.errors import ConfigError
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates


class AdaptedLinear(nn.Module):
    """A frozen linear module and its adapter."""

    def __init__(self, linear: nn.Linear, config: LoraConfig, random: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        self.scale = config.alpha / config.rank
        # As the authors' kaiming_uniform with a = sqrt(5).
        bound = 1 / math.sqrt(linear.in_features)
        down_RI = torch.rand(config.rank, linear.in_features, generator=random) * 2 * bound - bound
        self.down_RI = nn.Parameter(down_RI.to(linear.weight))
        up_OR = torch.zeros(linear.out_features, config.rank)
        self.up_OR = nn.Parameter(up_OR.to(linear.weight))

    def forward(self, hidden: Tensor) -> Tensor:
        added = functional.linear(functional.linear(hidden, self.down_RI), self.up_OR)
        output: Tensor = self.linear(hidden) + self.scale * added
        return output


class Lora(LayerEditor[LoraConfig]):
    """A backbone with adapters in its layers after l_e."""

    name = "LoRA"

    def fresh_layers(self) -> list[nn.Module]:
        random = torch.Generator().manual_seed(self.config.seed)
        self.adapters: list[AdaptedLinear] = []
        layers = []
        for layer in self.own_layers():
            for path in self.config.projections:
                adapter = AdaptedLinear(self._linear(layer, path), self.config, random)
                layer = with_part(layer, path, adapter)
                self.adapters.append(adapter)
            layers.append(layer)
        return layers

    def _linear(self, layer: nn.Module, path: str) -> nn.Linear:
        try:
            found = layer.get_submodule(path)
        except AttributeError as error:
            raise ConfigError(f"LoRA: a decoder layer has no module {path!r}: {error}") from error
        if not isinstance(found, nn.Linear):
            raise ConfigError(f"LoRA: {path!r} is {type(found).__name__}; expected a linear module")
        return found

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [part for adapter in self.adapters for part in (adapter.down_RI, adapter.up_OR)]

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        self.tune(states, self.parameters)

    def memory(self) -> EditorMemory:
        return EditorMemory(fixed_bytes=num_bytes(self.parameters), stored_bytes=0)
