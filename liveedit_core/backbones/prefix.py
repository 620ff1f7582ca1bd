"""The layers up to l_e: hidden states after some of them, and pyramids of bare prompts.

A prompt pyramid is what the prompt key reads: the prompt alone, as text (no image, no words of a
chat template), the mean over its tokens after each of several layers. The first token (bos, where
the tokenizer has one) is left out, as its hidden state is huge and nearly the same for all texts.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from liveedit_core.backbones.prompts import Prepared
from liveedit_core.backbones.views import with_hook, with_part
from liveedit_core.errors import ConfigError, IntegrityError

MAX_CACHED_PROMPTS = 1024


def check_layers(edit_layer: int, prompt_layers: Sequence[int], *, depth: int) -> None:
    """Raise ConfigError for layers at which a decoder of this depth cannot be cut or read."""
    if not 0 <= edit_layer < depth - 1:
        raise ConfigError(
            f"edit layer {edit_layer}: the decoder has {depth} layers, and at least one must "
            f"follow; expected 0 to {depth - 2}"
        )
    if any(not 0 <= layer <= edit_layer for layer in prompt_layers):
        raise ConfigError(
            f"prompt layers {list(prompt_layers)}: expected 0 to {edit_layer}, the edit layer; "
            "those after it are edited"
        )


def hidden_after(
    model: Any, decoder_path: str, trunk_path: str, layers: Sequence[int], arguments: dict[str, Any]
) -> list[Tensor]:
    """Hidden states after some decoder layers, each [B, T, D]; none after the last of them runs."""
    last = max(layers)
    kept = nn.ModuleList(list(model.get_submodule(decoder_path).layers)[: last + 1])
    view = with_part(model, f"{decoder_path}.layers", kept)
    seen: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for layer, outputs in seen.items():
        view = with_hook(view, f"{decoder_path}.layers.{layer}", outputs.append)
    trunk = view.get_submodule(trunk_path)
    more = {"logits_to_keep": 1} if trunk is view else {}
    trunk(**arguments, **more, use_cache=False)
    return [the_only(seen[layer], layer) for layer in layers]


def the_only(seen: Sequence[Tensor], layer: int) -> Tensor:
    """The output of a layer that must have run once."""
    if len(seen) != 1:
        raise IntegrityError(f"layer {layer} ran {len(seen)} times in one forward")
    return seen[0]


def prompt_means(items: Sequence[Prepared], hidden: Sequence[Tensor]) -> Tensor:
    """Means over the prompt's tokens, concatenated over layers, [B, L * D] float32 on the CPU."""
    rows = [
        [layer_BTD[row, slice(*item.prompt)].float().mean(0).cpu() for layer_BTD in hidden]
        for row, item in enumerate(items)
    ]
    return torch.stack([torch.cat(row) for row in rows])


class PromptPyramidCache:
    """LRU cache of prompt pyramids by wordings; 0 keeps none."""

    def __init__(self, max_prompts: int = MAX_CACHED_PROMPTS) -> None:
        self._max_prompts = max_prompts
        self._rows: OrderedDict[tuple[str, ...], Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, wordings: tuple[str, ...], encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
        """Pyramids of the wordings of one prompt, [W, P].

        `encode` is called for these alone: with other neighbours in a padded batch they would be
        rounded differently, and processes that share a model must run it equally often.
        """
        with self._lock:
            found = self._rows.pop(wordings, None)
            rows_WP = encode(wordings) if found is None else found
            self._rows[wordings] = rows_WP
            while len(self._rows) > self._max_prompts:
                self._rows.popitem(last=False)
        return rows_WP
