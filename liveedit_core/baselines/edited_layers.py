"""Editors that replace decoder layers: what they share.

    hidden states at l_e --layers l_e+1 .. first-1--> --layers first ..--> norm --> lm_head
                                  frozen                 the editor's

The editor's layers share every module with the backbone's but those that it learns. They stand in a
view of the backbone's model, which is never written to.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.protocol import EditorMemory, score_answers
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import PreparedCases, PreparedProbe, ProbeResult
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates, pad_hidden

FEED_FORWARD_OUTPUTS = ("mlp.down_proj", "fc2")
"""The second matrix of a feed-forward block, by its name in Llama-like decoders and in OPT."""


class Steps(Protocol):
    """How a loss is minimized; the settings of several editors have these fields."""

    @property
    def max_steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def stop_loss(self) -> float: ...


class LayerEditor(ABC):
    """A backbone some of whose layers after l_e are the editor's own.

    Args:
        backbone: the frozen model.
        first_layer: the first layer that may differ; -1: the first after l_e.
        batch_size: probes per forward.

    Raises:
        ConfigError: that layer is not after the edit layer, or there is none.
    """

    name: str

    def __init__(
        self, backbone: VisionLanguageBackbone, *, first_layer: int, batch_size: int
    ) -> None:
        first = backbone.edit_layer + 1 if first_layer < 0 else first_layer
        last = len(backbone.decoder.layers) - 1
        if not backbone.edit_layer < first <= last:
            raise ConfigError(
                f"{self.name}: layer {first} is to be edited, but it must lie after the edit layer "
                f"{backbone.edit_layer} and the last layer is {last}; choose an earlier edit layer "
                "or another layer between the two"
            )
        self.backbone = backbone
        self.first_layer = first
        self.batch_size = batch_size
        self.restore()

    @abstractmethod
    def fresh_layers(self) -> list[nn.Module]:
        """Layers `first_layer` .. of the untaught editor, which compute what the backbone's do."""

    @abstractmethod
    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """See `ComparedEditor.teach`."""

    @abstractmethod
    def memory(self) -> EditorMemory:
        """See `ComparedEditor.memory`."""

    def restore(self) -> None:
        """Forget all edits."""
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
        """Logits at target positions, [O, V] each; differentiable in what the editor learns.

        Args:
            hidden_BTD: input of `first_layer`.
            states: give the spans.
            has_end: also the position after the target, [O + 1, V].
        """
        return self.edited.target_logits(states, hidden_BTD, has_end=has_end)

    def tune(
        self, states: Sequence[LayerStates], parameters: Sequence[nn.Parameter], steps: Steps
    ) -> None:
        """Learn one edit after another; each has an optimizer of its own."""
        for hidden_TD, state in zip(self.hidden(states), states, strict=True):
            hidden_1TD = hidden_TD[None, : state.num_tokens]
            minimize(partial(self.edit_loss, hidden_1TD, state), parameters, steps)

    def edit_loss(self, hidden_1TD: Tensor, state: LayerStates) -> Tensor:
        """Loss of one edit through the editor's layers."""
        return self.target_loss(self.logits(hidden_1TD, [state], has_end=True)[0], state)

    def target_loss(self, logits_XV: Tensor, state: LayerStates) -> Tensor:
        """Mean negative log likelihood of an edit's target tokens and of the end after them, in
        nats. LiveEdit's generator learns to end an answer, so the others may, too."""
        end = torch.tensor([self.backbone.end_id])
        labels = torch.cat([state.target_ids_O, end]).to(logits_XV.device)
        return functional.cross_entropy(logits_XV, labels)

    @contextmanager
    def prompts_end(self, states: Sequence[LayerStates]) -> Iterator[None]:
        """Within the block the prompts of a batch end where the states say. Editors that read the
        last prompt token override this; elsewhere (in generation) it is the last of the input."""
        yield

    @torch.no_grad()
    def target_ids(self, states: Sequence[LayerStates]) -> list[tuple[int, ...]]:
        """Argmax token at each target position."""
        order = sorted(range(len(states)), key=lambda i: states[i].num_tokens)
        ids: list[tuple[int, ...]] = [()] * len(states)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = [states[i] for i in chosen]
            with self.prompts_end(batch):
                logits = self.logits(self.hidden(batch), batch)
            for i, logits_OV in zip(chosen, logits, strict=True):
                ids[i] = tuple(logits_OV.argmax(-1).tolist())
        return ids

    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int) -> list[str]:
        """See `ComparedEditor.answer`."""
        return self.edited.generate(inputs, None, max_new_tokens=max_new_tokens)

    def score(
        self, prepared: PreparedCases, *, protocols: Sequence[str], max_new_tokens: int
    ) -> list[ProbeResult]:
        """See `ComparedEditor.score`; the editor's layers serve every input."""

        def answers(probes: Sequence[PreparedProbe]) -> list[str]:
            return self.answer([probe.question for probe in probes], max_new_tokens)

        return score_answers(
            prepared,
            protocols,
            target_ids=lambda probes: self.target_ids([probe.states for probe in probes]),
            answers=answers,
            decode=self.backbone.decode,
        )


def minimize(
    loss_of: Callable[[], Tensor], parameters: Sequence[nn.Parameter], steps: Steps
) -> None:
    """Adam until a loss is low enough or the steps are used up."""
    optimizer = torch.optim.Adam(parameters, lr=steps.learning_rate, fused=True)
    with torch.enable_grad():
        for _ in range(steps.max_steps):
            loss = loss_of()
            if loss.item() < steps.stop_loss:
                return
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def feed_forward_output(layer: nn.Module, editor: str) -> tuple[str, nn.Linear]:
    """The second feed-forward matrix of a decoder layer and its path.

    Raises:
        ConfigError: the layer has none of a known name.
    """
    modules = dict(layer.named_modules())
    for path in FEED_FORWARD_OUTPUTS:
        found = modules.get(path)
        if isinstance(found, nn.Linear):
            return path, found
    raise ConfigError(
        f"{editor}: a {type(layer).__name__} has no linear module "
        f"{' or '.join(FEED_FORWARD_OUTPUTS)} to edit"
    )
