"""The layers up to l_e: hidden states after some of them, and pyramids of bare prompts.

A prompt pyramid is what the prompt key reads: the prompt alone, as text (no image, no words of a
chat template), the mean over its tokens after each of several layers. The first token (bos, where
the tokenizer has one) is left out, as its hidden state is huge and nearly the same for all texts.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from liveedit_core.backbones.prompts import Prepared
from liveedit_core.backbones.protocol import BackboneInput
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


def with_prompt_pyramids(
    prepared: Sequence[Prepared],
    inputs: Sequence[BackboneInput],
    size: int,
    encode: Callable[[Sequence[str]], Tensor],
) -> list[Prepared]:
    """Inputs with the prompt pyramids of those that have images.

    `encode` is called once for `size` inputs, however many wordings they have: processes that share
    a model must run it equally often.
    """
    done: list[Prepared] = []
    for start in range(0, len(inputs), size):
        chunk = inputs[start : start + size]
        wordings = [item.wordings if item.image_bytes is not None else () for item in chunk]
        texts = [text for group in wordings for text in group]
        rows = iter(encode(texts) if texts else ())
        for item, group in zip(prepared[start : start + size], wordings, strict=True):
            own = [next(rows) for _ in group]
            done.append(replace(item, prompt_pyramids_WP=torch.stack(own)) if own else item)
    return done


class PromptPyramidCache:
    """LRU cache of prompt pyramids by text; 0 keeps none."""

    def __init__(self, max_texts: int = MAX_CACHED_PROMPTS) -> None:
        self._max_texts = max_texts
        self._rows: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, texts: Sequence[str], compute: Callable[[Sequence[str]], Tensor]) -> Tensor:
        """Pyramids of some texts, [B, P]; those that are not cached are computed in one call."""
        with self._lock:
            known = {text: self._rows[text] for text in texts if text in self._rows}
            missing = [text for text in dict.fromkeys(texts) if text not in known]
            if missing:
                known |= dict(zip(missing, compute(missing), strict=True))
            for text, row_P in known.items():
                self._rows[text] = row_P
                self._rows.move_to_end(text)
            while len(self._rows) > self._max_texts:
                self._rows.popitem(last=False)
        return torch.stack([known[text] for text in texts])
