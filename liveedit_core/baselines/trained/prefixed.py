"""Editors that put hidden states before a question, at the edit layer.

    layers 0..l_e      [question]           as ever: its hidden states are constants
    layers l_e+1 ..    [prefix; question]   the prefix is an edit's, or made from it

Teacher-forced, prefix and question are one sequence. While generating, the prefix has run through
the layers beforehand: each layer begins with its keys and values in the cache.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.views import WrappedLayer
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.protocol import PlainEditor, batches_by_length
from liveedit_core.evaluation.probes import PreparedProbe
from liveedit_core.states import LayerStates, Span, pad_hidden

KeysAndValues = tuple[Tensor, Tensor]


def with_prefix(state: LayerStates, prefix_KD: Tensor) -> LayerStates:
    """The states of a question after a prefix; differentiable in both."""
    size = len(prefix_KD)

    def moved(span: Span) -> Span:
        return (span[0] + size, span[1] + size) if span[1] > span[0] else span

    start, stop = state.target_span
    return replace(
        state,
        hidden_TD=torch.cat([prefix_KD.to(state.hidden_TD), state.hidden_TD]),
        image_span=moved(state.image_span),
        prompt_span=moved(state.prompt_span),
        target_span=(start + size, stop + size),
    )


def prefixed_logits(
    backbone: VisionLanguageBackbone,
    states: Sequence[LayerStates],
    prefixes: Sequence[Tensor],
    *,
    has_end: bool = False,
) -> list[Tensor]:
    """Logits at target positions of questions after their prefixes."""
    joined = [with_prefix(*pair) for pair in zip(states, prefixes, strict=True)]
    return backbone.target_logits(joined, pad_hidden(joined).values_BSD, has_end=has_end)


class Prefix:
    """Keys and values that the layers of one view begin with, by layer; none at first."""

    def __init__(self) -> None:
        self.by_layer: dict[int, KeysAndValues] = {}


class PrefixedLayer(WrappedLayer):
    """A decoder layer whose cache begins with a prefix; one sequence at a time."""

    def __init__(self, layer: nn.Module, index: int, prefix: Prefix) -> None:
        super().__init__(layer)
        self.index = index
        self.prefix = prefix

    def forward(self, hidden_1TD: Tensor, *arguments: Any, **options: Any) -> Any:
        found = self.prefix.by_layer.get(self.index)
        if found is not None:
            cache = options["past_key_values"]
            if cache.get_seq_length(self.index) == 0:
                cache.update(*found, self.index)
            size = found[0].shape[2]
            mask = options.get("attention_mask")
            options["attention_mask"] = _widened(mask, hidden_1TD.shape[1], size)
        return self.layer(hidden_1TD, *arguments, **options)


def _widened(mask: Tensor | None, num_tokens: int, size: int) -> Tensor | None:
    """The mask of a layer, [1, 1, T, S], with a prefix that every token sees."""
    if mask is None and num_tokens == 1:
        return None
    if mask is None:
        mask = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()[None, None]
    return functional.pad(mask, (size, 0), value=1 if mask.dtype == torch.bool else 0)


class PrefixEditor(PlainEditor):
    """A frozen backbone that answers questions in the scope of an edit after that edit's prefix,
    through `layers`, and all others as it is."""

    def __init__(
        self,
        backbone: VisionLanguageBackbone,
        layers: Sequence[nn.Module],
        *,
        batch_size: int = 16,
    ) -> None:
        self.backbone: VisionLanguageBackbone = backbone
        self.batch_size = batch_size
        first = backbone.edit_layer + 1
        self.edited = backbone.with_layers(first, layers)
        self._prefix = Prefix()
        prefixed = [PrefixedLayer(layer, first + i, self._prefix) for i, layer in enumerate(layers)]
        self._generating = backbone.with_layers(first, prefixed)
        self.restore()

    @abstractmethod
    def prefix_of(self, state: LayerStates) -> Tensor | None:
        """The prefix of the edit in whose scope a question is, [K, D]; None without one."""

    def _prefixes(self, states: Sequence[LayerStates]) -> dict[int, Tensor]:
        found = {i: self.prefix_of(state) for i, state in enumerate(states)}
        return {i: prefix_KD for i, prefix_KD in found.items() if prefix_KD is not None}

    @torch.no_grad()
    def answer(self, inputs: Sequence[BackboneInput], max_new_tokens: int) -> list[str]:
        states = self.backbone.encode([replace(item, target="") for item in inputs])
        found = self._prefixes(states)
        others = [i for i in range(len(inputs)) if i not in found]
        plain = self.backbone.generate(
            [inputs[i] for i in others], None, max_new_tokens=max_new_tokens
        )
        texts = dict(zip(others, plain, strict=True))
        texts |= {i: self._continued(inputs[i], found[i], max_new_tokens) for i in found}
        return [texts[i] for i in range(len(inputs))]

    def free_answers(self, probes: Sequence[PreparedProbe], max_new_tokens: int) -> list[str]:
        texts = [probe.unedited_answer or "" for probe in probes]
        for i, prefix_KD in self._prefixes([probe.states for probe in probes]).items():
            texts[i] = self._continued(probes[i].question, prefix_KD, max_new_tokens)
        return texts

    def _continued(self, item: BackboneInput, prefix_KD: Tensor, max_new_tokens: int) -> str:
        with self.begun_with(prefix_KD) as generating:
            (text,) = generating.generate([item], None, max_new_tokens=max_new_tokens)
        return text

    @contextmanager
    def begun_with(self, prefix_KD: Tensor) -> Iterator[VisionLanguageBackbone]:
        """A backbone that continues one question at a time, after a prefix."""
        self._prefix.by_layer = self._keys_and_values(prefix_KD)
        try:
            yield self._generating
        finally:
            self._prefix.by_layer = {}

    @torch.no_grad()
    def _keys_and_values(self, prefix_KD: Tensor) -> dict[int, KeysAndValues]:
        """Of a prefix in each edited layer; its positions come before the question's."""
        backbone = self.edited
        trunk = backbone.suffix().trunk
        size = len(prefix_KD)
        output = trunk(
            inputs_embeds=prefix_KD[None].to(backbone.device, backbone.dtype),
            position_ids=torch.arange(-size, 0, device=backbone.device)[None],
            use_cache=True,
        )
        layers = output.past_key_values.layers
        return {
            index: (layers[index].keys, layers[index].values)
            for index in range(backbone.edit_layer + 1, len(layers))
        }

    @torch.no_grad()
    def target_ids(self, probes: Sequence[PreparedProbe]) -> list[tuple[int, ...]]:
        ids = [probe.unedited_ids for probe in probes]
        states = [probe.states for probe in probes]
        found = self._prefixes(states)
        places = list(found)
        for chosen in batches_by_length([states[i].num_tokens for i in places], self.batch_size):
            batch = [places[i] for i in chosen]
            logits = prefixed_logits(
                self.edited, [states[i] for i in batch], [found[i] for i in batch]
            )
            for i, logits_OV in zip(batch, logits, strict=True):
                ids[i] = tuple(logits_OV.argmax(-1).tolist())
        return ids
