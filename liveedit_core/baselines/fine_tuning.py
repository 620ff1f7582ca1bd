"""FT-L: fine-tune the last decoder layer, edit after edit (the paper's simplest baseline).

    rows at l_e --layers l_e+1 .. L-2--> rows [T, D] --layer L-1 (tuned)--> norm --> lm_head
                  frozen, run once                    25 steps for each edit

All that comes before the last layer is frozen, so the rows that enter it are constants of an edit.
Unlike LiveEdit's experts the tuned layer serves every input, those without a picture too.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.huggingface import HuggingFaceBackbone, slice_decoder
from liveedit_core.editor import NOTHING_KEPT
from liveedit_core.errors import ConfigError
from liveedit_core.metrics import (
    FREE_GENERATION,
    TEACHER_FORCED,
    PreparedCases,
    ProbeResult,
    free_generation_result,
    teacher_forced_result,
)
from liveedit_core.schema import EditRequest
from liveedit_core.states import LayerStates, hidden_rows


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig:
    """How an edit is learned; the defaults are the paper's."""

    max_steps: int = 25
    """Adam steps of one edit."""
    learning_rate: float = 1e-3
    stop_loss: float = 1e-2
    """An edit ends early below this loss, as fine-tuning editors commonly do; 0 never does."""

    def __post_init__(self) -> None:
        if self.max_steps < 1 or self.learning_rate <= 0 or self.stop_loss < 0:
            raise ConfigError(
                "fine tuning: max_steps and learning_rate must be above 0, stop_loss at least 0; "
                f"got {self.max_steps}, {self.learning_rate}, {self.stop_loss}"
            )


class FineTuning:
    """A backbone whose last decoder layer is tuned; the backbone itself stays as it is.

    Args:
        backbone: the frozen model; its edit layer must lie before its last layer.
        config: how an edit is learned.
        batch_size: probes per forward.
    """

    name = "FT-L"

    def __init__(
        self,
        backbone: HuggingFaceBackbone,
        config: FineTuningConfig | None = None,
        *,
        batch_size: int = 16,
    ) -> None:
        self.backbone = backbone
        self.config = config or FineTuningConfig()
        self.batch_size = batch_size
        decoder = backbone.decoder
        last = len(decoder.layers) - 1
        if backbone.edit_layer >= last:
            raise ConfigError(
                f"fine tuning: the rows at layer {backbone.edit_layer} are behind the last layer "
                f"({last}); choose an earlier edit layer"
            )
        self.middle = slice_decoder(decoder, slice(backbone.edit_layer + 1, last), has_norm=False)
        self.layer: nn.Module = copy.deepcopy(decoder.layers[last]).requires_grad_(True)
        self.top = slice_decoder(decoder, slice(last, None), has_norm=True)
        self.top.layers = nn.ModuleList([self.layer])

    def teach(self, requests: Sequence[EditRequest], states: Sequence[LayerStates]) -> None:
        """Tune the layer on one edit after another."""
        rows_BTD = self._rows_before_last(states)
        with torch.enable_grad():
            for row_TD, state in zip(rows_BTD, states, strict=True):
                self._tune(row_TD[None, : state.num_tokens], state)

    def _tune(self, rows_1TD: Tensor, state: LayerStates) -> None:
        """Up to `max_steps` steps of Adam on the target tokens of one edit."""
        optimizer = torch.optim.Adam(
            self.layer.parameters(), lr=self.config.learning_rate, fused=True
        )
        labels = state.target_ids_O
        for _ in range(self.config.max_steps):
            (logits,) = self._logits(rows_1TD, [state])
            loss = functional.cross_entropy(logits, labels)
            if loss.item() < self.config.stop_loss:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def _rows_before_last(self, states: Sequence[LayerStates]) -> Tensor:
        """Padded rows that enter the last layer."""
        hidden_BTD = hidden_rows(states).rows_BSD
        rows: Tensor = self.middle(inputs_embeds=hidden_BTD, use_cache=False).last_hidden_state
        return rows

    def _logits(self, rows_BTD: Tensor, states: Sequence[LayerStates]) -> list[Tensor]:
        """Logits at target positions, [O, V] each."""
        top_BTD = self.top(inputs_embeds=rows_BTD, use_cache=False).last_hidden_state
        wanted = [
            top_BTD[row, state.target_span[0] - 1 : state.target_span[1] - 1]
            for row, state in enumerate(states)
        ]
        logits: Tensor = self.backbone.model.lm_head(torch.cat(wanted)).float()
        return list(logits.split([len(part) for part in wanted]))

    @torch.no_grad()
    def score(
        self, prepared: PreparedCases, *, protocols: Sequence[str], max_new_tokens: int
    ) -> list[ProbeResult]:
        """Score every probe; the tuned layer leaves none alone."""
        results: list[ProbeResult] = []
        probes = prepared.probes
        if TEACHER_FORCED in protocols:
            ids = self._argmax_ids([probe.states for probe in probes])
            results += [
                teacher_forced_result(probe, answer, NOTHING_KEPT, self.backbone.decode)
                for probe, answer in zip(probes, ids, strict=True)
            ]
        if FREE_GENERATION in protocols:
            asked = [probe for probe in probes if probe.unedited_answer is not None]
            with self._in_place():
                texts = self.backbone.generate(
                    [probe.question for probe in asked], None, max_new_tokens=max_new_tokens
                )
            results += [
                free_generation_result(probe, text, NOTHING_KEPT)
                for probe, text in zip(asked, texts, strict=True)
            ]
        return results

    def _argmax_ids(self, states: Sequence[LayerStates]) -> list[tuple[int, ...]]:
        """Argmax token at each target position."""
        order = sorted(range(len(states)), key=lambda i: states[i].num_tokens)
        ids: list[tuple[int, ...]] = [()] * len(states)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = [states[i] for i in chosen]
            logits = self._logits(self._rows_before_last(batch), batch)
            for i, row in zip(chosen, logits, strict=True):
                ids[i] = tuple(row.argmax(-1).tolist())
        return ids

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The backbone with the tuned layer, for the length of a `with` block."""
        layers = self.backbone.decoder.layers
        original = layers[-1]
        layers[-1] = self.layer
        try:
            yield
        finally:
            layers[-1] = original
