"""MEND: a network turns the gradient of an edit into a change of the last feed-forward matrices.

    gradient of the edit's loss at W:  sum_t delta_t u_t^T      u_t: input, delta_t: of the output
    (u', delta') = g(u, delta)         two low-rank layers that begin as the identity
    W  ->  W - rate * sum_t delta'_t u'_t^T

Mitchell et al., "Fast Model Editing at Scale" (ICLR 2022), Sections 3.1 to 3.3: inputs of g are
standardised, matrices of one shape share g up to an offset and a scale of each, rates are learned.
Training minimises c_edit * L_edit + L_loc after the change of one edit: its target under a
rephrasing or another image, and KL(unedited || edited) at an unrelated question. Edits are taught
one after another; each gradient is that of the weights as all edits before have left them.

What differs. rank 128 and a few hundred steps, not 1920 and 50 000 as in EasyEdit for BLIP-2; one
rate for all learned tensors. The end of the answer is learned too (`answer_loss`). Statistics for
standardising are those of the first batch.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.views import with_part
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.edited_layers import FEED_FORWARD_OUTPUTS, LayerEditor
from liveedit_core.baselines.protocol import EditorMemory, num_bytes
from liveedit_core.baselines.trained.rival import (
    CaseBatch,
    Figures,
    Rival,
    answer_loss,
    total_of,
)
from liveedit_core.baselines.trained.settings import MendConfig, MendTraining
from liveedit_core.errors import ConfigError
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates, pad_hidden
from liveedit_core.training.losses import locality_kl

FEED_FORWARD = ("mlp.up_proj", "fc1", *FEED_FORWARD_OUTPUTS)
RATE_GAIN = 10.0
"""Of the logarithm of a rate: rates move ten times as fast as other learned tensors."""


class GradientTransform(nn.Module):
    """g of one shape of matrices (Eq. 3): x + B relu(A x) twice, the first with offset and scale of
    each matrix."""

    def __init__(self, inputs: int, outputs: int, num_matrices: int, rank: int) -> None:
        super().__init__()
        self.inputs = inputs
        size = inputs + outputs
        self.down = nn.ParameterList(
            nn.Parameter(torch.randn(rank, size) / math.sqrt(size)) for _ in range(2)
        )
        self.up = nn.ParameterList(nn.Parameter(torch.zeros(size, rank)) for _ in range(2))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(size)) for _ in range(2))
        self.scale_MS = nn.Parameter(torch.ones(num_matrices, size))
        self.shift_MS = nn.Parameter(torch.zeros(num_matrices, size))
        self.register_buffer("mean_S", torch.zeros(size))
        self.register_buffer("deviation_S", torch.ones(size))

    mean_S: Tensor
    deviation_S: Tensor

    def observe(self, factors_TS: Tensor) -> None:
        """Standardise by these."""
        self.mean_S.copy_(factors_TS.mean(0))
        self.deviation_S.copy_(factors_TS.std(0).clamp(min=1e-12))

    def forward(self, factors_XS: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """u' and delta' of a matrix by its number."""
        hidden = (factors_XS - self.mean_S) / self.deviation_S
        for layer in range(2):
            change = functional.linear(hidden, self.down[layer])
            change = functional.linear(change, self.up[layer], self.bias[layer])
            change = change * self.scale_MS[number] + self.shift_MS[number]
            hidden = hidden + (change.relu() if layer == 0 else change)
        return hidden[..., : self.inputs], hidden[..., self.inputs :]


class EditedLinear(nn.Module):
    """A frozen matrix with a change, and what the gradient of a loss needs."""

    def __init__(self, main: nn.Linear) -> None:
        super().__init__()
        self.main = main
        self.change_OI: Tensor | None = None
        """Of all edits so far."""
        self.factors: tuple[Tensor, Tensor] | None = None
        """A change of each input: u' [B, T, I] and rate * delta' [B, T, O]."""
        self.is_watched = False
        self.inner: Tensor | None = None
        self.output: Tensor | None = None

    def forward(self, inner: Tensor) -> Tensor:
        output: Tensor = self.main(inner)
        if self.change_OI is not None:
            output = output + functional.linear(inner, self.change_OI)
        if self.factors is not None:
            inputs_BTI, outputs_BTO = self.factors
            by_input = inner.reshape(len(inputs_BTI), -1, inner.shape[-1])
            changed = (by_input @ inputs_BTI.mT) @ outputs_BTO
            output = output - changed.reshape(output.shape)
        if self.is_watched:
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            self.inner, self.output = inner.detach(), output
        return output


class Mend(Rival):
    """The networks g and the rates, of the last feed-forward matrices of a backbone."""

    name = "MEND"

    def __init__(self, config: MendTraining, backbone: VisionLanguageBackbone) -> None:
        super().__init__(backbone)
        self.config = config
        depth = len(backbone.decoder.layers)
        self.first_layer = depth - config.num_layers
        if self.first_layer <= backbone.edit_layer:
            raise ConfigError(
                f"MEND: num_layers is {config.num_layers}, but only "
                f"{depth - 1 - backbone.edit_layer} layers follow the edit layer "
                f"{backbone.edit_layer}"
            )
        shapes = [tuple(linear.weight.shape) for _, linear in self._matrices()]
        self.number_of = [shapes[:i].count(shape) for i, shape in enumerate(shapes)]
        self.key_of = [f"{outputs}x{inputs}" for outputs, inputs in shapes]
        self.transforms = nn.ModuleDict(
            {
                f"{outputs}x{inputs}": GradientTransform(
                    inputs, outputs, shapes.count((outputs, inputs)), config.rank
                )
                for outputs, inputs in dict.fromkeys(shapes)
            }
        )
        self.log_rate_M = nn.Parameter(torch.zeros(len(shapes)))

    def _matrices(self) -> list[tuple[str, nn.Linear]]:
        """Path and matrix, by layer."""
        found = []
        for layer in list(self.backbone.decoder.layers)[self.first_layer :]:
            modules = dict(layer.named_modules())
            here = [(path, modules.get(path)) for path in FEED_FORWARD]
            found += [(path, one) for path, one in here if isinstance(one, nn.Linear)]
        if not found:
            raise ConfigError(
                f"MEND: the last decoder layers have no linear module {', '.join(FEED_FORWARD)}"
            )
        return found

    def edited_layers(self) -> tuple[list[nn.Module], list[EditedLinear]]:
        """Views of the last layers, with their matrices replaced."""
        parts = [EditedLinear(linear) for _, linear in self._matrices()]
        paths, left = iter(self._matrices()), iter(parts)
        layers = []
        for layer in list(self.backbone.decoder.layers)[self.first_layer :]:
            for _ in range(len(parts) // self.config.num_layers):
                layer = with_part(layer, next(paths)[0], next(left))
            layers.append(layer)
        return layers, parts

    def gradients(
        self,
        edited: VisionLanguageBackbone,
        parts: Sequence[EditedLinear],
        hidden_BTD: Tensor,
        states: Sequence[LayerStates],
    ) -> list[tuple[Tensor, Tensor]]:
        """u and delta [B, T, I and O] of each matrix, from the loss of each edit alone."""
        for part in parts:
            part.is_watched = True
        with torch.enable_grad():
            logits = edited.target_logits(states, hidden_BTD, has_end=True)
            loss = answer_loss(logits, states, edited.end_id) * len(states)
        outputs = [part.output for part in parts]
        deltas = torch.autograd.grad(loss, [one for one in outputs if one is not None])
        rows = len(states)
        found = []
        for part, delta in zip(parts, deltas, strict=True):
            assert part.inner is not None
            found.append((part.inner.reshape(rows, -1, part.inner.shape[-1]), delta))
            part.is_watched, part.inner, part.output = False, None, None
        return [(inner, delta.reshape(rows, -1, delta.shape[-1])) for inner, delta in found]

    def transformed(
        self, gradients: Sequence[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """u' and rate * delta' of each matrix; 0 where a token has no gradient."""
        done = []
        for number, (inner_BTI, delta_BTO) in enumerate(gradients):
            has_gradient = (delta_BTO != 0).any(-1, keepdim=True)
            transform = self.transforms[self.key_of[number]]
            factors = torch.cat([inner_BTI, delta_BTO], dim=-1)
            inputs, outputs = transform(factors, self.number_of[number])
            rate = self.config.initial_rate * (RATE_GAIN * self.log_rate_M[number]).exp()
            done.append((inputs, outputs * has_gradient * rate))
        return done

    def below(self, states: Sequence[LayerStates]) -> Tensor:
        """Input of the first edited layer, [B, T, D]."""
        with torch.no_grad():
            hidden_BTD = pad_hidden(states).values_BSD
            return self.backbone.hidden_at(self.first_layer - 1, states, hidden_BTD)

    def observe(self, batch: CaseBatch) -> None:
        layers, parts = self.edited_layers()
        edited = self.backbone.with_layers(self.first_layer, layers)
        found: dict[str, list[Tensor]] = {}
        gradients = self.gradients(edited, parts, self.below(batch.edits), batch.edits)
        for key, (inner_BTI, delta_BTO) in zip(self.key_of, gradients, strict=True):
            has_gradient = (delta_BTO != 0).any(-1)
            factors = torch.cat([inner_BTI, delta_BTO], dim=-1)
            found.setdefault(key, []).append(factors[has_gradient])
        for key, rows in found.items():
            transform = self.transforms[key]
            assert isinstance(transform, GradientTransform)
            transform.observe(torch.cat(rows))

    def loss(self, batch: CaseBatch) -> tuple[Tensor, Figures]:
        layers, parts = self.edited_layers()
        edited = self.backbone.with_layers(self.first_layer, layers)
        gradients = self.gradients(edited, parts, self.below(batch.edits), batch.edits)
        for part, factors in zip(parts, self.transformed(gradients), strict=True):
            part.factors = factors
        own = edited.target_logits(batch.own, self.below(batch.own), has_end=True)
        unrelated = edited.target_logits(batch.unrelated, self.below(batch.unrelated))
        edit = answer_loss(own, batch.own, edited.end_id)
        return total_of(
            {
                "edit": self.config.edit_weight * edit,
                "locality": locality_kl(unrelated, self.unedited_logits(batch.unrelated)),
            }
        )


class MendEditor(LayerEditor[Any]):
    """A backbone whose last feed-forward matrices every edit changes."""

    name = "MEND"

    def __init__(
        self,
        backbone: VisionLanguageBackbone,
        rival: Mend,
        config: MendConfig,
        *,
        batch_size: int = 16,
    ) -> None:
        self.rival = rival
        super().__init__(backbone, config, batch_size=batch_size)

    def wanted_layer(self, config: MendConfig, last: int) -> int:
        return self.rival.first_layer

    def fresh_layers(self) -> list[nn.Module]:
        layers, self.parts = self.rival.edited_layers()
        return layers

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        for hidden_TD, state in zip(self.hidden(states), states, strict=True):
            hidden_1TD = hidden_TD[None, : state.num_tokens]
            gradients = self.rival.gradients(self.edited, self.parts, hidden_1TD, [state])
            with torch.no_grad():
                changes = self.rival.transformed(gradients)
                for part, (inputs_1TI, outputs_1TO) in zip(self.parts, changes, strict=True):
                    change_OI = -self.config.update_scale * (outputs_1TO[0].mT @ inputs_1TI[0])
                    before = part.change_OI
                    part.change_OI = change_OI if before is None else before + change_OI

    def memory(self) -> EditorMemory:
        """Fixed: the networks, and the change of each edited matrix."""
        trained = num_bytes([*self.rival.parameters(), *self.rival.buffers()])
        matrices = num_bytes(part.main.weight for part in self.parts)
        return EditorMemory(fixed_bytes=trained + matrices, stored_bytes=0)
