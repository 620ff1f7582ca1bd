"""Editors that replace decoder layers: what they share.

    hidden states at l_e --layers l_e+1 .. first-1--> --layers first ..--> norm --> lm_head
                                  frozen                 the editor's

The editor's layers share every module with the backbone's but those that it learns. They stand in a
view of the backbone's model, which is never written to.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.protocol import PlainEditor, batches_by_length
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import PreparedProbe
from liveedit_core.states import LayerStates, pad_hidden

FEED_FORWARD_OUTPUTS = ("mlp.down_proj", "fc2")
"""The second matrix of a feed-forward block, by its name in Llama-like decoders and in OPT."""


def cached_tokens(cache: Any, layer: int) -> int:
    """How many tokens a key-value cache holds of a layer."""
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length(layer))
    except ValueError as error:  # of linear attention
        raise ConfigError(
            f"layer {layer} counts no tokens, so prompts and next tokens cannot be told apart: "
            "choose a layer with attention over keys"
        ) from error


class Steps(Protocol):
    """How a loss is minimized."""

    @property
    def max_steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def stop_loss(self) -> float: ...


ConfigT = TypeVar("ConfigT", bound=Steps)


class LayerEditor(PlainEditor, Generic[ConfigT]):
    """A backbone some of whose layers after l_e are the editor's own; `batch_size` is the number
    of probes in one forward."""

    backbone: VisionLanguageBackbone

    def __init__(
        self, backbone: VisionLanguageBackbone, config: ConfigT, *, batch_size: int = 16
    ) -> None:
        last = len(backbone.decoder.layers) - 1
        wanted = self.wanted_layer(config, last)
        first = backbone.edit_layer + 1 if wanted < 0 else wanted
        if not backbone.edit_layer < first <= last:
            raise ConfigError(
                f"{self.name}: layer {first} is to be edited, but it must lie after the edit layer "
                f"{backbone.edit_layer} and the last layer is {last}; choose an earlier edit layer "
                "or another layer between the two"
            )
        self.backbone = backbone
        self.config = config
        self.first_layer = first
        self.batch_size = batch_size
        self.restore()

    def wanted_layer(self, config: ConfigT, last: int) -> int:
        """The first layer that may differ from the backbone's; -1: the first after l_e."""
        layer: int = getattr(config, "layer", -1)
        return layer

    @abstractmethod
    def fresh_layers(self) -> list[nn.Module]:
        """Layers `first_layer` .. of the untaught editor, which compute what the backbone's do."""

    def restore(self) -> None:
        self.edited = self.backbone.with_layers(self.first_layer, self.fresh_layers())

    def own_layers(self) -> list[nn.Module]:
        """The backbone's layers from `first_layer` on."""
        return list(self.backbone.decoder.layers)[self.first_layer :]

    @torch.no_grad()
    def hidden(self, states: Sequence[LayerStates]) -> Tensor:
        """Padded input of `first_layer`, [B, T, D]; no edit changes it."""
        hidden_BTD = pad_hidden(states).values_BSD
        return self.backbone.hidden_at(self.first_layer - 1, states, hidden_BTD)

    def logits(
        self, hidden_BTD: Tensor, states: Sequence[LayerStates], *, has_end: bool = False
    ) -> list[Tensor]:
        """Logits at target positions from the input of `first_layer`, [O, V] each, with `has_end`
        [O + 1, V]; differentiable in what the editor learns."""
        return self.edited.target_logits(states, hidden_BTD, has_end=has_end)

    def tune(self, states: Sequence[LayerStates], parameters: Sequence[nn.Parameter]) -> None:
        """Learn one edit after another; each has an optimizer of its own."""
        for hidden_TD, state in zip(self.hidden(states), states, strict=True):
            hidden_1TD = hidden_TD[None, : state.num_tokens]
            adam = torch.optim.Adam(parameters, lr=self.config.learning_rate, fused=True)
            minimize(partial(self.edit_loss, hidden_1TD, state), adam, self.config)

    def edit_loss(self, hidden_1TD: Tensor, state: LayerStates) -> Tensor:
        """Loss of one edit through the editor's layers."""
        return self.target_loss(self.logits(hidden_1TD, [state], has_end=True)[0], state)

    def target_loss(self, logits_XV: Tensor, state: LayerStates) -> Tensor:
        """Mean negative log likelihood, in nats, of an edit's target tokens and the end after them:
        LiveEdit's generator learns to end an answer, so the others may, too."""
        end = state.target_ids_O.new_tensor([self.backbone.end_id])
        labels = torch.cat([state.target_ids_O, end]).to(logits_XV.device)
        return functional.cross_entropy(logits_XV, labels)

    @contextmanager
    def prompts_end(self, states: Sequence[LayerStates]) -> Iterator[None]:
        """Within the block the prompts of a batch end where the states say; elsewhere (in
        generation) at the last token of the input."""
        self.read_prompts_to(torch.tensor([state.target_span[0] for state in states]))
        try:
            yield
        finally:
            self.read_prompts_to(None)

    def read_prompts_to(self, ends_B: Tensor | None) -> None:
        """Take the numbers of tokens up to the ends of the prompts, if the editor reads them."""

    def target_ids(self, probes: Sequence[PreparedProbe]) -> list[tuple[int, ...]]:
        return self.ids_of([probe.states for probe in probes])

    @torch.no_grad()
    def ids_of(self, states: Sequence[LayerStates]) -> list[tuple[int, ...]]:
        """Argmax token at each target position."""
        ids: list[tuple[int, ...]] = [()] * len(states)
        for chosen in batches_by_length([state.num_tokens for state in states], self.batch_size):
            batch = [states[i] for i in chosen]
            with self.prompts_end(batch):
                logits = self.logits(self.hidden(batch), batch)
            for i, logits_OV in zip(chosen, logits, strict=True):
                ids[i] = tuple(logits_OV.argmax(-1).tolist())
        return ids

    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int) -> list[str]:
        return self.edited.generate(inputs, None, max_new_tokens=max_new_tokens)


def minimize(loss_of: Callable[[], Tensor], optimizer: torch.optim.Optimizer, steps: Steps) -> None:
    """Step until the loss is low enough or the steps are used up."""
    with torch.enable_grad():
        for _ in range(steps.max_steps):
            loss = loss_of()
            if loss.item() < steps.stop_loss:
                return
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def feed_forward_output(layer: nn.Module, editor: str) -> tuple[str, nn.Linear]:
    """The second feed-forward matrix of a decoder layer and its path."""
    modules = dict(layer.named_modules())
    for path in FEED_FORWARD_OUTPUTS:
        found = modules.get(path)
        if isinstance(found, nn.Linear):
            return path, found
    raise ConfigError(
        f"{editor}: a {type(layer).__name__} has no linear module "
        f"{' or '.join(FEED_FORWARD_OUTPUTS)} to edit"
    )
