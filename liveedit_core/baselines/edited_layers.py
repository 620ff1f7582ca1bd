"""Editors that exchange decoder layers: what they share.

    rows at l_e --layers l_e+1 .. first-1--> rows --layers first ..--> norm --> lm_head
                           frozen                    the editor's

The editor's layers share every module with the backbone's but those that it learns. For free
generation they stand in the backbone's decoder for the length of a call; its weights are never
written to.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.huggingface import HuggingFaceBackbone, slice_decoder
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.suffix import target_rows
from liveedit_core.baselines.protocol import EditorMemory, score_answers
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import PreparedCases, PreparedProbe, ProbeResult
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates, pad_hidden


class Steps(Protocol):
    """How a loss is descended."""

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
        ConfigError: that layer is not behind the edit layer, or there is none.
    """

    name: str

    def __init__(self, backbone: HuggingFaceBackbone, *, first_layer: int, batch_size: int) -> None:
        first = backbone.edit_layer + 1 if first_layer < 0 else first_layer
        last = len(backbone.decoder.layers) - 1
        if not backbone.edit_layer < first <= last:
            raise ConfigError(
                f"{self.name}: layer {first} is to be edited, but rows are known behind layer "
                f"{backbone.edit_layer} and the last layer is {last}; choose an earlier edit layer "
                "or another layer between the two"
            )
        self.backbone = backbone
        self.first_layer = first
        self.batch_size = batch_size
        decoder = backbone.decoder
        self._middle = slice_decoder(decoder, slice(backbone.edit_layer + 1, first), has_norm=False)
        self._top = slice_decoder(decoder, slice(first, None), has_norm=True)
        self.restore()

    @abstractmethod
    def fresh_layers(self) -> list[nn.Module]:
        """Layers `first_layer` .. of the untaught editor, which answer as the backbone's do."""

    @abstractmethod
    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """See `ComparedEditor.teach`."""

    @abstractmethod
    def memory(self) -> EditorMemory:
        """See `ComparedEditor.memory`."""

    def restore(self) -> None:
        """Forget all edits."""
        self.layers = nn.ModuleList(self.fresh_layers())
        self._top.layers = self.layers

    @torch.no_grad()
    def rows(self, states: Sequence[LayerStates]) -> Tensor:
        """Padded rows that enter `first_layer`, [B, T, D]; no edit changes them."""
        hidden_BTD = pad_hidden(states).values_BSD
        if not len(self._middle.layers):
            return hidden_BTD
        rows: Tensor = self._middle(inputs_embeds=hidden_BTD, use_cache=False).last_hidden_state
        return rows

    def logits(
        self, rows_BTD: Tensor, states: Sequence[LayerStates], *, has_end: bool = False
    ) -> list[Tensor]:
        """Logits at target positions, [O, V] each; differentiable in what the editor learns.

        Args:
            rows_BTD: rows that enter `first_layer`.
            states: give the spans.
            has_end: also the position after the target, [O + 1, V].
        """
        return self.head(self._top, rows_BTD, states, has_end=has_end)

    def head(
        self, decoder: Any, rows_BTD: Tensor, states: Sequence[LayerStates], *, has_end: bool
    ) -> list[Tensor]:
        """`logits` through some last layers."""
        top_BTD = decoder(inputs_embeds=rows_BTD, use_cache=False).last_hidden_state
        wanted_XD, lengths = target_rows(states, top_BTD, has_end=has_end)
        return list(self.backbone.model.lm_head(wanted_XD).float().split(lengths))

    def tune(
        self, states: Sequence[LayerStates], parameters: Sequence[nn.Parameter], steps: Steps
    ) -> None:
        """Learn one edit after another; each has an optimizer of its own."""
        for row_TD, state in zip(self.rows(states), states, strict=True):
            rows_1TD = row_TD[None, : state.num_tokens]
            descend(partial(self._edit_loss, rows_1TD, state), parameters, steps)

    def _edit_loss(self, rows_1TD: Tensor, state: LayerStates) -> Tensor:
        return self.target_loss(self.logits(rows_1TD, [state], has_end=True)[0], state)

    def target_loss(self, logits_XV: Tensor, state: LayerStates) -> Tensor:
        """Mean negative log likelihood of an edit's target tokens and of the end after them, in
        nats. LiveEdit's generator learns to end an answer, so the others may, too."""
        end = torch.tensor([self.backbone.end_id])
        return functional.cross_entropy(logits_XV, torch.cat([state.target_ids_O, end]))

    @contextmanager
    def prompts_end(self, states: Sequence[LayerStates] | None) -> Iterator[None]:
        """For the length of a block the prompts of the batch end where the states say; None: at
        the last row, as in generation. Editors that look at that row override this."""
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
                logits = self.logits(self.rows(batch), batch)
            for i, row in zip(chosen, logits, strict=True):
                ids[i] = tuple(row.argmax(-1).tolist())
        return ids

    @torch.no_grad()
    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int) -> list[str]:
        """See `ComparedEditor.answer`."""
        with self._in_place(), self.prompts_end(None):
            return self.backbone.generate(inputs, None, max_new_tokens=max_new_tokens)

    def score(
        self, prepared: PreparedCases, *, protocols: Sequence[str], max_new_tokens: int
    ) -> list[ProbeResult]:
        """Score every probe; the editor's layers leave none alone."""

        def answers(probes: Sequence[PreparedProbe]) -> list[str]:
            return self.answer([probe.question for probe in probes], max_new_tokens)

        return score_answers(
            prepared,
            protocols,
            target_ids=lambda probes: self.target_ids([probe.states for probe in probes]),
            answers=answers,
            decode=self.backbone.decode,
        )

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The backbone's decoder with the editor's layers, for the length of a `with` block."""
        layers = self.backbone.decoder.layers
        original = list(layers)[self.first_layer :]
        try:
            for i, layer in enumerate(self.layers, start=self.first_layer):
                layers[i] = layer
            yield
        finally:
            for i, layer in enumerate(original, start=self.first_layer):
                layers[i] = layer


def descend(loss_of: Callable[[], Tensor], parameters: Sequence[nn.Parameter], steps: Steps) -> int:
    """Adam until a loss is low enough or the steps are used up; returns the steps taken."""
    optimizer = torch.optim.Adam(parameters, lr=steps.learning_rate, fused=True)
    with torch.enable_grad():
        for step in range(steps.max_steps):
            loss = loss_of()
            if loss.item() < steps.stop_loss:
                return step
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return steps.max_steps
