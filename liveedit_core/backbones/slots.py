"""Decoding with slots: sequences that begin and end at different times share every forward.

    join:  new prompts, one prefill   -> their keys and values, beside those that run
    step:  one token of each sequence -> logits of the next ones
    keep:  the sequences that go on; what the others held is freed

All keys and values are in one cache, padded on the left, so no sequence waits for another's end.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.families import FAMILIES
from liveedit_core.backbones.generation import GenerationBatch
from liveedit_core.backbones.protocol import Residual
from liveedit_core.backbones.views import HiddenHook
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import ConfigError


class DecodingSlots:
    """The sequences that are decoded now; not for several threads at once."""

    def __init__(self, backbone: VisionLanguageBackbone) -> None:
        if not backbone.family.has_plain_steps:
            fit = ", ".join(name for name, family in FAMILIES.items() if family.has_plain_steps)
            raise ConfigError(
                f"{backbone.model.config.model_type}: sequences of this family cannot share a "
                f"cache yet, as their positions or masks depend on more than their length; serve "
                f"one of {fit}"
            )
        self.backbone = backbone
        self.residual: Residual | None = None
        """Added at l_e in each step, row by row; set by the owner when rows join or leave."""
        self._view = backbone.generating_view(self._added, has_image=False)
        self._cache: Any = None
        self._mask_BS = torch.zeros(0, 0, dtype=torch.int64, device=backbone.device)

    def __len__(self) -> int:
        return len(self._mask_BS)

    def _added(self, hidden_BTD: Tensor) -> Tensor | None:
        return None if self.residual is None else hidden_BTD + self.residual(hidden_BTD)

    @torch.no_grad()
    def join(self, batch: GenerationBatch, hook: HiddenHook | None) -> Tensor:
        """Prefill prompts and append them; `hook` sees layer l_e of the prompts alone. Returns the
        logits after each prompt, [B, V] float32."""
        arguments: dict[str, Any] = dict(batch.arguments)
        if "inputs_embeds" in arguments:
            del arguments["input_ids"]
        mask_BS = arguments["attention_mask"]
        model = self.backbone.generating_view(hook, has_image=batch.has_image)
        output = model(
            **arguments,
            position_ids=_positions(mask_BS),
            past_key_values=_cache_of([]),
            use_cache=True,
            logits_to_keep=1,
        )
        if len(self):
            width = max(mask_BS.shape[1], self._mask_BS.shape[1])
            parts = [self._padded(width), _padded(output.past_key_values, mask_BS, width)]
            layers = [
                (torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]]))
                for one, other in zip(parts[0][0], parts[1][0], strict=True)
            ]
            self._cache = _cache_of(layers)
            self._mask_BS = torch.cat([parts[0][1], parts[1][1]])
        else:
            self._cache, self._mask_BS = output.past_key_values, mask_BS
        logits_BV: Tensor = output.logits[:, -1].float()
        return logits_BV

    def _padded(self, width: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        return _padded(self._cache, self._mask_BS, width)

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each sequence; returns the logits after it, [B, V] float32."""
        self._mask_BS = functional.pad(self._mask_BS, (0, 1), value=1)
        output = self._view(
            input_ids=torch.tensor(tokens, device=self.backbone.device)[:, None],
            attention_mask=self._mask_BS,
            position_ids=_positions(self._mask_BS)[:, -1:],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: Tensor = output.logits[:, -1].float()
        return logits_BV

    def keep(self, rows: Sequence[int]) -> None:
        """Free all sequences but these, and the padding that none of these needs."""
        if not rows:
            self._cache, self._mask_BS = None, self._mask_BS[:0, :0]
            return
        index = torch.tensor(rows, device=self._mask_BS.device)
        mask_BS = self._mask_BS[index]
        start = int(mask_BS.any(0).int().argmax())
        self._mask_BS = mask_BS[:, start:]
        self._cache = _cache_of(
            [
                (layer.keys[index][:, :, start:], layer.values[index][:, :, start:])
                for layer in self._cache.layers
            ]
        )


def _positions(mask_BS: Tensor) -> Tensor:
    """Of tokens padded on the left."""
    return (mask_BS.cumsum(-1) - 1).clamp(min=0)


def _cache_of(layers: Sequence[tuple[Tensor, Tensor]]) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys.contiguous(), values.contiguous(), number)
    return cache


def _padded(cache: Any, mask_BS: Tensor, width: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Keys and values of each layer, [B, H, S, d], and the mask, padded on the left."""
    more = width - mask_BS.shape[1]
    layers = [
        (
            functional.pad(layer.keys, (0, 0, more, 0)),
            functional.pad(layer.values, (0, 0, more, 0)),
        )
        for layer in cache.layers
    ]
    return layers, functional.pad(mask_BS, (more, 0))
