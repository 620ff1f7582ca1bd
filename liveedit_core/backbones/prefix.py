"""Hidden states after some layers of the unedited model, and pyramids of bare prompts.

A prompt pyramid is what the prompt key reads: how the model itself would go on after the prompt,
as text alone, in each of several templates (`'"{}" The asker wants to know the'`). What a question
asks for decides the next word, whatever its wording (one-word summaries as sentence embeddings:
Jiang et al., 2023).
"""

import json
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from liveedit_core.backbones.families import IMAGE, PromptFormat
from liveedit_core.backbones.image_tower import ImageTower
from liveedit_core.backbones.prompts import Prepared
from liveedit_core.backbones.views import with_hook, with_part
from liveedit_core.errors import IntegrityError

MAX_CACHED_PROMPTS = 1024
LONG_PROMPT_WORDS = 25
LEAST_WORDS = 3
"""Of a last sentence that may stand alone."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
PROMPT = "{}"


def encoding_of(
    prompts: PromptFormat, dtype: torch.dtype, tower: ImageTower | None, templates: Sequence[str]
) -> str:
    """All that states depend on beside weights, layer and input (`Backbone.encoding`)."""
    more: list[object] = [{"prompt_templates": tuple(templates)}] if templates else []
    if tower is None:
        return json.dumps([vars(prompts), str(dtype), *more])
    levels = [vars(level) for level in tower.levels]
    more += [{"has_views": True}] if tower.has_views else []
    more += [] if dtype == torch.float32 else [{"dtype": str(dtype)}]
    return json.dumps([prompts.with_image.replace(IMAGE, ""), levels, tower.more_sizes, *more])


def question_of(text: str) -> str:
    """The last sentence of a long prompt: what comes before tells why somebody asks."""
    sentences = [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]
    is_long = len(sentences) > 1 and len(text.split()) > LONG_PROMPT_WORDS
    return sentences[-1] if is_long and len(sentences[-1].split()) >= LEAST_WORDS else text


def in_templates(templates: Sequence[str], texts: Iterable[str]) -> list[str]:
    """Each text in each template; those of one text follow each other."""
    return [template.replace(PROMPT, text.strip()) for text in texts for template in templates]


def hidden_after(
    model: Any,
    decoder_path: str,
    trunk_path: str,
    layers: Sequence[int],
    arguments: dict[str, Any],
    cache: Any = None,
) -> list[Tensor]:
    """Hidden states after some decoder layers, each [B, T, D]; none after the last of them runs.
    A `cache` of transformers holds what comes before them and gets their keys and values."""
    last = max(layers)
    kept = nn.ModuleList(list(model.get_submodule(decoder_path).layers)[: last + 1])
    view = with_part(model, f"{decoder_path}.layers", kept)
    seen: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for layer, outputs in seen.items():
        view = with_hook(view, f"{decoder_path}.layers.{layer}", outputs.append)
    trunk = view.get_submodule(trunk_path)
    more: dict[str, Any] = {"logits_to_keep": 1} if trunk is view else {}
    if cache is not None:
        more["past_key_values"] = cache
    trunk(**arguments, **more, use_cache=cache is not None)
    return [the_only(seen[layer], layer) for layer in layers]


def the_only(seen: Sequence[Tensor], layer: int) -> Tensor:
    """The output of a layer that must have run once."""
    if len(seen) != 1:
        raise IntegrityError(f"layer {layer} ran {len(seen)} times in one forward")
    return seen[0]


class SharedImages:
    """Images that several inputs begin with: their rows run once through the layers up to l_e.

    Rows of an image see nothing of the text behind it (causal attention), so their hidden states,
    keys and values are the same for all questions about it, up to the rounding of other products.
    """

    def __init__(
        self,
        backbone: Any,
        items: Sequence[Prepared],
        arguments: Callable[[Sequence[Prepared]], Mapping[str, Tensor]],
    ) -> None:
        """None of families whose attention is not causal alone, and where the decoder gets no
        embeddings; `arguments` are those of a forward."""
        from transformers import DynamicCache

        self._new_cache, self._backbone, self._arguments = DynamicCache, backbone, arguments
        if backbone.image_tower is None or backbone.family.positions is not None:
            items = ()
        begin = [item for item in items if item.features is not None and not item.image[0]]
        count = Counter(id(item.features) for item in begin)
        firsts = {id(item.features): item for item in begin if count[id(item.features)] > 1}
        self._place: dict[int, int] = {key: place for place, key in enumerate(firsts)}
        self._hidden: list[Tensor] = []
        self._layers: list[tuple[Tensor, Tensor]] = []
        like = backbone.embed.weight
        images = [item.features.projected_ID.to(like) for item in firsts.values() if item.features]
        parts = []
        for start in range(0, len(images), backbone.batch_size):
            cache: Any = DynamicCache()
            together = images[start : start + backbone.batch_size]
            self._hidden += self._run(torch.stack(together), cache)
            parts.append([(layer.keys, layer.values) for layer in cache.layers])
        for pairs in zip(*parts, strict=True):
            keys, values = zip(*pairs, strict=True)
            self._layers.append((torch.cat(keys), torch.cat(values)))

    def __contains__(self, item: Prepared) -> bool:
        return id(item.features) in self._place

    def _run(self, embeds_BTD: Tensor, cache: Any) -> Tensor:
        """Hidden states of embeddings that follow what is in a cache."""
        own, more = self._backbone, {"inputs_embeds": embeds_BTD}
        trunk, layers = own.family.text_trunk, (own.edit_layer,)
        return hidden_after(own.model, own.decoder_path, trunk, layers, more, cache)[0]

    def hidden(self, items: Sequence[Prepared]) -> Tensor:
        """Hidden states at l_e of inputs that begin with such images, padded, [B, T, D]."""
        places = [self._place[id(item.features)] for item in items]
        cache = self._new_cache()
        for number, (keys, values) in enumerate(self._layers):
            cache.update(keys[places], values[places], number)
        begin_BID = torch.stack([self._hidden[place] for place in places])
        embeds_BTD = self._arguments(items)["inputs_embeds"]
        rest_BTD = self._run(embeds_BTD[:, begin_BID.shape[1] :], cache)
        return torch.cat([begin_BID, rest_BTD], 1)


def next_words(items: Sequence[Prepared], hidden_BTD: Tensor) -> Tensor:
    """What the model would say next: the direction of the last token's hidden state, [B, D]
    float32."""
    last = [hidden_BTD[row, item.num_tokens - 1] for row, item in enumerate(items)]
    return functional.normalize(torch.stack(last).float(), dim=-1)


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
