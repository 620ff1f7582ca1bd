"""Hidden states after some layers of the unedited model, and what they depend on."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from liveedit_core.backbones.families import IMAGE, PromptFormat
from liveedit_core.backbones.image_tower import ImageTower
from liveedit_core.backbones.prompt_encoder import PromptEncoder
from liveedit_core.backbones.prompts import Prepared
from liveedit_core.backbones.views import with_hook, with_part
from liveedit_core.errors import IntegrityError
from liveedit_core.states import LayerStates, resolved


def encoding_of(
    prompts: PromptFormat,
    dtype: torch.dtype,
    tower: ImageTower | None,
    encoder: PromptEncoder | None,
) -> str:
    """All that states depend on beside weights, layer and input (`Backbone.encoding`)."""
    more: list[object] = [{"prompt_encoder": encoder.identity}] if encoder else []
    if tower is None:
        return json.dumps([vars(prompts), str(dtype), *more])
    levels = [vars(level) for level in tower.levels]
    more += [{"has_views": True}] if tower.has_views else []
    more += [] if dtype == torch.float32 else [{"dtype": str(dtype)}]
    more += [] if tower.dtype == torch.float32 else [{"tower": str(tower.dtype)}]
    return json.dumps([prompts.with_image.replace(IMAGE, ""), levels, tower.more_sizes, *more])


def hidden_after(
    model: Any,
    decoder_path: str,
    trunk_path: str,
    layer: int,
    arguments: dict[str, Any],
    cache: Any = None,
) -> Tensor:
    """Hidden states after a decoder layer, [B, T, D]; none after it runs. A `cache` of transformers
    holds what comes before them and gets their keys and values."""
    kept = nn.ModuleList(list(model.get_submodule(decoder_path).layers)[: layer + 1])
    view = with_part(model, f"{decoder_path}.layers", kept)
    seen: list[Tensor] = []
    view = with_hook(view, f"{decoder_path}.layers.{layer}", seen.append)
    trunk = view.get_submodule(trunk_path)
    more: dict[str, Any] = {"logits_to_keep": 1} if trunk is view else {}
    if cache is not None:
        more["past_key_values"] = cache
    trunk(**arguments, **more, use_cache=cache is not None)
    return the_only(seen, layer)


def the_only(seen: Sequence[Tensor], layer: int) -> Tensor:
    """The output of a layer that must have run once."""
    if len(seen) != 1:
        raise IntegrityError(f"layer {layer} ran {len(seen)} times in one forward")
    return seen[0]


def states_of(item: Prepared, hidden_TD: Tensor, embed: nn.Module) -> LayerStates:
    """The states of an input from its hidden states at l_e, behind which padding may follow."""
    ids_O = item.tokens["input_ids"][slice(*item.target)].to(hidden_TD.device)
    embeddings_OD: Tensor = embed(ids_O)
    return LayerStates(
        hidden_TD=hidden_TD[: item.num_tokens].to(torch.float32, copy=True),
        pyramid_E=item.pyramid_E,
        prompt_embeddings=resolved(item.prompt_embeddings),
        target_embeddings_OD=embeddings_OD.float(),
        image_span=item.image,
        prompt_span=item.prompt,
        target_span=item.target,
        target_ids_O=ids_O,
        grid=item.grid,
        form=item.form,
    )


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
        trunk = own.family.text_trunk
        return hidden_after(own.model, own.decoder_path, trunk, own.edit_layer, more, cache)

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
