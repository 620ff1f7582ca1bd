"""WISE: a side memory beside one feed-forward matrix, and a router that decides which is read.

    a(x)   inputs of W_v, the second feed-forward matrix of one layer; W_v' the side memory, a copy
    act(x) = mean over the prompt's tokens of |a(x) (W_v' - W_v)|
    the layer multiplies with W_v' if act(x) >= epsilon, with W_v if not

Wang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language
Models" (NeurIPS 2024, arXiv 2405.14768), its WISE-Merge:

- An edit minimizes its target's cross-entropy through W_v' plus the margin loss L_a over unrelated
  questions x_i: max(0, act(x_i) - alpha) + max(0, beta - act(x_e)) +
  max(0, gamma - (act(x_e) - act(x_i))), each a mean over the terms that are not zero (EasyEdit).
- epsilon is the smallest act(x_e) that an edit had when it was learned, times a ratio (EasyEdit).
- Edits in a row share a shard: a random mask leaves rho of W_v' free to learn. After so many shards
  Ties merges them. Answers are given by the Ties merge of all that is there, unfinished shards
  included, as EasyEdit does before it evaluates.

What differs. An input is routed once, on its prompt with its image; EasyEdit routes at each
decoding step on one token, and takes the largest token of inputs over 100 tokens. a(x) is compared
before the activation function. The margin loss has a weight, and the rate is higher (`WiseConfig`).
An edit trains against all unrelated questions. There are no random prefixes, no weight decay and no
bound on the change. The end of an answer is learned with it (`LayerEditor.target_loss`).
"""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.views import WrappedLayer, with_part
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.edited_layers import (
    LayerEditor,
    cached_tokens,
    feed_forward_output,
    minimize,
)
from liveedit_core.baselines.protocol import EditorMemory, num_bytes
from liveedit_core.baselines.settings import TensorExpertConfig, WiseConfig
from liveedit_core.errors import ConfigError
from liveedit_core.schema import Case, EditRequest, ProbeKind
from liveedit_core.states import LayerStates, Padded

MERGED_WEIGHT = 0.6
"""Of what was merged before, when Ties merges it with later shards (EasyEdit)."""


def activations(inputs: Padded, change_DI: Tensor) -> Tensor:
    """act(x) of some inputs, [B]: mean norm over their tokens after the change."""
    lengths_BT: Tensor = functional.linear(inputs.values_BSD.float(), change_DI).norm(dim=-1)
    return (lengths_BT * inputs.mask_BS).sum(1) / inputs.mask_BS.sum(1)


def hinge(values: Tensor) -> Tensor:
    """Mean of the positive values; 0 if there is none."""
    positive = values[values > 0]
    return positive.mean() if len(positive) else values.sum() * 0.0


def ties(changes: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    """Ties merge (Yadav et al., NeurIPS 2023) of changes of one matrix: of each change only the
    share `density` of largest elements is kept; where signs differ, that of the weighted sum wins,
    and the result is the weighted mean of the elements that have it."""
    shares = torch.tensor(weights, device=changes[0].device)[:, None, None]
    kept = torch.stack([_trimmed(change, density) for change in changes])
    weighted = kept * shares
    sign = torch.where(weighted.sum(0) >= 0, 1.0, -1.0)
    agrees = kept.sign() == sign
    total = (shares * agrees).sum(0)
    return (weighted * agrees).sum(0) / torch.where(total > 0, total, 1.0)


def _trimmed(change: Tensor, density: float) -> Tensor:
    count = max(1, round(density * change.numel()))
    least = change.abs().flatten().kthvalue(change.numel() - count + 1).values
    return torch.where(change.abs() >= least, change, 0.0)


def unrelated_questions(
    cases: Sequence[Case], config: WiseConfig | TensorExpertConfig
) -> list[BackboneInput]:
    """Some locality questions of cases that are not edited, drawn by the seed. The first half,
    rounded up, has images."""
    chosen: list[BackboneInput] = []
    num_images = (config.num_unrelated + 1) // 2
    for kind, count in (
        (ProbeKind.MODAL_LOCALITY, num_images),
        (ProbeKind.TEXT_LOCALITY, config.num_unrelated - num_images),
    ):
        probes = [probe for case in cases for probe in case.probes if probe.kind is kind]
        inputs = list(dict.fromkeys((p.prompt, p.image_bytes) for p in probes))
        if len(inputs) < count:
            raise ConfigError(
                f"num_unrelated: {config.num_unrelated} are to be drawn, but there are only "
                f"{len(inputs)} questions of {kind}"
            )
        drawn = random.Random(config.seed).sample(inputs, count)
        chosen += [BackboneInput(prompt=text, image_bytes=image) for text, image in drawn]
    return chosen


class SideMemory(nn.Module):
    """Replaces W_v, which is not altered, by W_v and W_v'."""

    def __init__(self, main: nn.Linear) -> None:
        super().__init__()
        self.main = main
        self.change_DI: Tensor | None = None
        """W_v' - W_v; None before the first edit."""
        self.epsilon = float("inf")
        """Inputs with an activation of at least this go through W_v'."""
        self.is_learning = False
        """Whether all inputs go through W_v'."""
        self.is_decoding = False
        """Whether tokens continue inputs that are routed already."""
        self.num_inputs = 1
        """B."""
        self.ends_B: Tensor | None = None
        """Tokens of each input up to its prompt's end; None: all of them."""
        self.routes_B = torch.zeros(0, dtype=torch.bool)
        """Which inputs go through W_v'."""

    def forward(self, inner: Tensor) -> Tensor:
        """[B, T, I] -> [B, T, D], or flat as in OPT: [B * T, I] -> [B * T, D]."""
        output = self._output(self.by_input(inner))
        return output.reshape(*inner.shape[:-1], output.shape[-1])

    def by_input(self, inner: Tensor) -> Tensor:
        """[B, T, I], however the decoder layer arranges it."""
        return inner if inner.ndim == 3 else inner.reshape(self.num_inputs, -1, inner.shape[-1])

    def _output(self, inner_BTI: Tensor) -> Tensor:
        """Inputs routed to W_v get its output bit for bit."""
        if self.change_DI is None:
            output_BTD: Tensor = self.main(inner_BTI)
            return output_BTD
        side_DI = (self.main.weight + self.change_DI).to(inner_BTI)
        if self.is_learning:
            return functional.linear(inner_BTI, side_DI, self.main.bias)
        output_BTD = self.main(inner_BTI)
        if not self.is_decoding:
            prompts = Padded(inner_BTI, self._prompt_mask(inner_BTI))
            self.routes_B = activations(prompts, self.change_DI) >= self.epsilon
        if self.routes_B.any():
            output_BTD = output_BTD.clone()
            routed_BTI = inner_BTI[self.routes_B]
            output_BTD[self.routes_B] = functional.linear(routed_BTI, side_DI, self.main.bias)
        return output_BTD

    def _prompt_mask(self, inner_BTI: Tensor) -> Tensor:
        num_inputs, num_tokens = inner_BTI.shape[:2]
        ends_B = torch.full((num_inputs,), num_tokens) if self.ends_B is None else self.ends_B
        return (torch.arange(num_tokens) < ends_B[:, None]).to(inner_BTI.device)


class WiseLayer(WrappedLayer):
    """A decoder layer that contains a side memory, and tells it how many inputs there are and
    whether this is a decoding step; `index` is its index in the decoder."""

    def __init__(self, layer: nn.Module, index: int, memory: SideMemory) -> None:
        super().__init__(layer)
        self.index = index
        self.memory = memory

    def forward(self, hidden_BTD: Tensor, *arguments: Any, **options: Any) -> Any:
        self.memory.num_inputs = len(hidden_BTD)
        self.memory.is_decoding = cached_tokens(options.get("past_key_values"), self.index) > 0
        return self.layer(hidden_BTD, *arguments, **options)


class Wise(LayerEditor[WiseConfig]):
    """A backbone with a side memory at one feed-forward matrix; edits are kept apart from
    `unrelated` questions."""

    name = "WISE"

    def __init__(
        self,
        backbone: VisionLanguageBackbone,
        config: WiseConfig,
        *,
        unrelated: Sequence[BackboneInput],
        batch_size: int = 16,
    ) -> None:
        if not unrelated:
            raise ConfigError("WISE: edits are learned against unrelated questions; give some")
        super().__init__(backbone, config, batch_size=batch_size)
        self.unrelated = self.inputs_of(backbone.encode(unrelated))

    def fresh_layers(self) -> list[nn.Module]:
        first, *others = self.own_layers()
        path, main = feed_forward_output(first, self.name)
        self.side_memory = SideMemory(main)
        layer = with_part(first, path, self.side_memory)
        self.merged_DI: Tensor | None = None
        self.shards: list[Tensor] = []
        self.smallest_activation = float("inf")
        self._random = torch.Generator().manual_seed(self.config.seed)
        self._open_shard()
        return [WiseLayer(layer, self.first_layer, self.side_memory), *others]

    def _open_shard(self) -> None:
        shape = self.side_memory.main.weight.shape
        mask_DI = torch.rand(shape, generator=self._random) < self.config.mask_share
        self.mask_DI = mask_DI.to(self.backbone.device)
        self.free_DI = nn.Parameter(torch.zeros(shape, device=self.backbone.device))
        self.num_in_shard = 0

    def read_prompts_to(self, ends_B: Tensor | None) -> None:
        self.side_memory.ends_B = ends_B

    @torch.no_grad()
    def inputs_of(self, states: Sequence[LayerStates]) -> Padded:
        """a(x) of the prompts; no edit changes it."""
        seen: list[Tensor] = []
        hook = self.side_memory.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with hook:
            self.edited.hidden_at(self.first_layer, states, self.hidden(states))
        prompts = zip(self.side_memory.by_input(seen[0]), states, strict=True)
        return Padded.pad([inner_TI[: state.target_span[0]] for inner_TI, state in prompts])

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Learn one edit after another into the open shard; close and merge shards when full."""
        for hidden_TD, state in zip(self.hidden(states), states, strict=True):
            self._learn(hidden_TD[None, : state.num_tokens], state)
            self.num_in_shard += 1
            if self.num_in_shard == self.config.shard_edits:
                self._close_shard()
        self._publish()

    def _learn(self, hidden_1TD: Tensor, state: LayerStates) -> None:
        """One edit, by plain gradient descent: a change stays a sum of outer products of its edit's
        own a(x), to which other inputs hardly react. Adam's steps, of one size everywhere, would
        raise the activations of all."""
        inputs = self.inputs_of([state])
        descent = torch.optim.SGD([self.free_DI], lr=self.config.learning_rate)
        self.side_memory.is_learning = True
        try:
            minimize(partial(self._wise_loss, hidden_1TD, state, inputs), descent, self.config)
        finally:
            self.side_memory.is_learning = False
        activation = float(activations(inputs, self.shard_change_DI.detach()))
        self.smallest_activation = min(self.smallest_activation, activation)

    def _wise_loss(self, hidden_1TD: Tensor, state: LayerStates, inputs: Padded) -> Tensor:
        change_DI = self.shard_change_DI
        self.side_memory.change_DI = change_DI
        margin = self.margin_loss(
            activations(inputs, change_DI), activations(self.unrelated, change_DI)
        )
        return self.edit_loss(hidden_1TD, state) + self.config.margin_weight * margin

    def margin_loss(self, edit_1: Tensor, unrelated_U: Tensor) -> Tensor:
        """L_a of the paper."""
        return (
            hinge(unrelated_U - self.config.alpha)
            + hinge(self.config.beta - edit_1)
            + hinge(self.config.gamma - (edit_1 - unrelated_U))
        )

    @property
    def shard_change_DI(self) -> Tensor:
        """W_v' - W_v of the open shard; gradients are masked with it."""
        return self.free_DI * self.mask_DI

    def _close_shard(self) -> None:
        self.shards.append(self.shard_change_DI.detach())
        self._open_shard()
        if len(self.shards) == self.config.merged_shards:
            self.merged_DI = self._all_merged()
            self.shards = []

    def _all_merged(self) -> Tensor:
        """The Ties merge of all that was learned."""
        parts = list(self.shards)
        if self.num_in_shard:
            parts.append(self.shard_change_DI.detach())
        weights = [1.0 / len(parts) for _ in parts]
        if self.merged_DI is not None:
            weights = [(1.0 - MERGED_WEIGHT) * weight for weight in weights] + [MERGED_WEIGHT]
            parts.append(self.merged_DI)
        return parts[0] if len(parts) == 1 else ties(parts, weights, self.config.density)

    def _publish(self) -> None:
        """Let the side memory answer with all that is learned."""
        if self.smallest_activation < float("inf"):
            self.side_memory.change_DI = self._all_merged()
            self.side_memory.epsilon = self.config.threshold_ratio * self.smallest_activation

    def memory(self) -> EditorMemory:
        """Fixed: the open shard with its mask, and a(x) of the unrelated questions. Stored: what
        was merged, closed shards, and the change that answers."""
        fixed = [self.free_DI, self.mask_DI, *self.unrelated]
        kept = [self.merged_DI, self.side_memory.change_DI]
        stored = [*self.shards, *(tensor for tensor in kept if tensor is not None)]
        return EditorMemory(fixed_bytes=num_bytes(fixed), stored_bytes=num_bytes(stored))
