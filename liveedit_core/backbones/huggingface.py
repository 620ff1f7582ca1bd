"""Adapter over Hugging Face image-text-to-text models with a decoder-only language model.

    pixels -> image tower -> projector --+
    prompt, target -> embeddings --------+-> layers 0..l_e | layers l_e+1.. -> norm -> lm_head
                                              encode()     |     target_logits()

The decoder is cut by slicing its module list, the final norm staying with the second part; rows of
real tokens never see right padding (causal attention), so batches need no mask.
"""

import copy
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from liveedit_core.backbones.generation import PromptBatch
from liveedit_core.backbones.image_memory import ImageFeatures, ImageMemory
from liveedit_core.backbones.prompts import with_space
from liveedit_core.backbones.protocol import BackboneInput, Residual, RouteOnce
from liveedit_core.backbones.pyramid import PyramidLevel, TowerPyramid
from liveedit_core.backbones.suffix import SuffixParts, target_rows, without_embeddings
from liveedit_core.backbones.views import RowsHook, with_hook
from liveedit_core.errors import InputError
from liveedit_core.inputs.images import decode_image
from liveedit_core.states import LayerStates, Span


def slice_decoder(decoder: nn.Module, layers: slice, *, has_norm: bool) -> Any:
    """A view of some layers of a decoder; modules are shared, nothing is copied."""
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part.layers = nn.ModuleList(list(decoder.layers)[layers])  # type: ignore[arg-type]
    if not has_norm:
        part.norm = nn.Identity()
    return part


FeaturesByImage = dict[bytes | None, ImageFeatures]
"""Features by image; None is no image."""

IMAGE_MEMORY_BYTES = 64 * 1024 * 1024
"""Tower outputs kept between calls: about a thousand images of the built-in backbone."""


class HuggingFaceBackbone:
    """A frozen FastVLM-like model (see `protocol.Backbone`).

    Args:
        model: `AutoModelForImageTextToText` instance; is set to eval mode and frozen.
        processor: its processor.
        edit_layer: l_e.
        digest: identity of the weights.
        prompt_format: how a prompt with an image is worded, with `{prompt}`.
        batch_size: sequences per forward of `encode` and `generate`.
        pyramid: levels of the image tower behind `pyramid_E`; without any it stays empty.
        pyramid_sizes: further image sizes behind it (see `TowerPyramid`).
        image_memory_bytes: most bytes of tower outputs kept between calls.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        edit_layer: int,
        digest: str,
        prompt_format: str = "{prompt}",
        batch_size: int = 16,
        pyramid: Sequence[PyramidLevel] = (),
        pyramid_sizes: Sequence[int] = (),
        image_memory_bytes: int = IMAGE_MEMORY_BYTES,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.edit_layer = edit_layer
        self.digest = digest
        self.prompt_format = prompt_format
        self.batch_size = batch_size
        decoder = self.model.model.language_model
        self.decoder = decoder
        self.prefix = slice_decoder(decoder, slice(0, edit_layer + 1), has_norm=False)
        self.suffix = slice_decoder(decoder, slice(edit_layer + 1, None), has_norm=True)
        self.embed = self.model.get_input_embeddings()
        self.hidden_size = int(self.model.config.text_config.hidden_size)
        self.pyramid = TowerPyramid(self.model.model.vision_tower, pyramid, pyramid_sizes)
        self.visual_size = self.pyramid.size
        levels = [vars(level) for level in pyramid]
        self.encoding = json.dumps([prompt_format, levels, self.pyramid.more_sizes])
        self.images = ImageMemory(image_memory_bytes)
        self.image_token_id = int(self.model.config.image_token_id)
        self.num_image_tokens = int(self.model.config.image_seq_length)
        self.end_id = self.pad_id = int(self.tokenizer.eos_token_id)
        self.end_ids = frozenset((self.end_id,))
        self._asked = threading.RLock()
        """Neither a tokenizer nor hooks on the image tower serve two threads at once."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without special tokens."""
        with self._asked:
            return len(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of some tokens, special ones left out, stripped."""
        with self._asked:
            text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text.strip()

    def tokenize(self, item: BackboneInput) -> tuple[Tensor, Span, Span, Span]:
        """Token ids [T] and the spans of image, prompt and target.

        Raises:
            InputError: the prompt or target spells the image placeholder, or is empty.
        """
        with self._asked:
            return self._tokenized(item)

    def _tokenized(self, item: BackboneInput) -> tuple[Tensor, Span, Span, Span]:
        placeholder = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        if not item.prompt.strip() or placeholder in item.prompt + item.target:
            raise InputError(
                f"prompt {item.prompt[:60]!r}: must hold text, and neither it nor the target may "
                f"hold {placeholder!r}"
            )
        num_image = self.num_image_tokens if item.image_bytes is not None else 0
        prompt = self.prompt_format.format(prompt=item.prompt) if num_image else item.prompt
        prompt_ids = self.tokenizer.encode(prompt, add_special_tokens=False)
        target = with_space(prompt, item.target)
        target_ids = self.tokenizer.encode(target, add_special_tokens=False)
        ids = torch.tensor([self.image_token_id] * num_image + prompt_ids + target_ids)
        prompt_end = num_image + len(prompt_ids)
        return ids, (0, num_image), (num_image, prompt_end), (prompt_end, len(ids))

    @torch.no_grad()
    def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        """Image tower and layers 0..l_e; see `protocol.Backbone.encode`."""
        tokens = [self.tokenize(item) for item in inputs]
        features = self._image_features(inputs)
        order = sorted(range(len(inputs)), key=lambda i: len(tokens[i][0]))
        states: list[LayerStates | None] = [None] * len(inputs)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            embeds = [self._embed(tokens[i][0], inputs[i], features) for i in chosen]
            padded = nn.utils.rnn.pad_sequence(embeds, batch_first=True)
            hidden_BTD = self.prefix(inputs_embeds=padded, use_cache=False).last_hidden_state
            for row, i in enumerate(chosen):
                ids, image, prompt, target = tokens[i]
                states[i] = LayerStates(
                    hidden_TD=hidden_BTD[row, : len(ids)].float().cpu().clone(),
                    pyramid_E=features[inputs[i].image_bytes][0],
                    target_embeddings_OD=self.embed(ids[slice(*target)]).float().cpu(),
                    image_span=image,
                    prompt_span=prompt,
                    target_span=target,
                    target_ids_O=ids[slice(*target)],
                )
        return [state for state in states if state is not None]

    @torch.no_grad()
    def encode_images(self, images: Sequence[bytes]) -> Tensor:
        """`pyramid_E` of some encoded images, [B, E], float32."""
        items = [BackboneInput(prompt="", image_bytes=image) for image in images]
        features = self._image_features(items)
        return torch.stack([features[image][0] for image in images])

    def _image_features(self, inputs: Sequence[BackboneInput]) -> FeaturesByImage:
        """Runs the image tower once for each distinct image that is not remembered."""
        with self._asked:
            return self._asked_features(inputs)

    def _asked_features(self, inputs: Sequence[BackboneInput]) -> FeaturesByImage:
        features: FeaturesByImage = {None: (torch.zeros(0), torch.zeros(0, self.hidden_size))}
        missing: list[bytes] = []
        for image in dict.fromkeys(item.image_bytes for item in inputs):
            remembered = self.images.get(image) if image is not None else None
            if remembered is not None:
                features[image] = remembered
            elif image is not None:
                missing.append(image)
        for start in range(0, len(missing), self.batch_size):
            chunk = missing[start : start + self.batch_size]
            images = [decode_image(image) for image in chunk]
            pixels = self.processor.image_processor(images=images, return_tensors="pt")
            with self.pyramid.reading() as outputs:
                done = self.model.get_image_features(pixel_values=pixels["pixel_values"])
            pyramid_BE = self.pyramid.averaged(outputs, pixels["pixel_values"]).float().cpu()
            for image, row, projected in zip(chunk, pyramid_BE, done.pooler_output, strict=True):
                features[image] = (row.clone(), projected.clone())
                self.images.keep(image, features[image])
        return features

    def _embed(self, ids: Tensor, item: BackboneInput, features: FeaturesByImage) -> Tensor:
        """Input embeddings [T, D], image rows in place."""
        rows: Tensor = self.embed(ids)
        if item.image_bytes is not None:
            rows = rows.clone()
            rows[ids == self.image_token_id] = features[item.image_bytes][1].to(rows.dtype)
        return rows

    def target_logits(
        self, states: Sequence[LayerStates], hidden_BTD: Tensor, *, has_end: bool = False
    ) -> list[Tensor]:
        """Layers l_e + 1 .. and logits at target positions; differentiable in the rows."""
        rows_BTD = self.suffix(inputs_embeds=hidden_BTD, use_cache=False).last_hidden_state
        wanted_XD, lengths = target_rows(states, rows_BTD, has_end=has_end)
        return list(self.model.lm_head(wanted_XD).float().split(lengths))

    def suffix_parts(self) -> SuffixParts:
        """See `protocol.TrainableBackbone`."""
        trunk = without_embeddings(self.suffix)
        trunk.layers = nn.ModuleList(list(trunk.layers))
        return SuffixParts(trunk=trunk, layers="layers", head=self.model.lm_head, positions=None)

    def drop_suffix(self) -> list[nn.Module]:
        """See `protocol.TrainableBackbone`."""
        self.decoder.layers = self.prefix.layers
        self.suffix = nn.Identity()
        self.model.lm_head = nn.Identity()
        # An image that one shard remembers and another does not would part their ways.
        self.images = ImageMemory(0)
        return [self.model.model.vision_tower, self.model.model.multi_modal_projector, self.prefix]

    def check_input(self, item: BackboneInput) -> None:
        """See `protocol.TrainableBackbone`."""
        self.tokenize(item)

    def prompt_batches(self, inputs: Sequence[BackboneInput]) -> list[PromptBatch]:
        """See `generation.Generating`."""
        inputs = [replace(item, target="") for item in inputs]
        tokens = [self.tokenize(item) for item in inputs]
        batches = []
        for has_image in (False, True):
            members = [i for i, x in enumerate(inputs) if (x.image_bytes is not None) == has_image]
            members.sort(key=lambda i: len(tokens[i][0]))
            for start in range(0, len(members), self.batch_size):
                chosen = members[start : start + self.batch_size]
                ids = [tokens[i][0] for i in chosen]
                ones = [torch.ones_like(row) for row in ids]
                pad = partial(nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
                images = [inputs[i].image_bytes for i in chosen]
                pixels = self._pixels([image for image in images if image])
                model, outputs = self.pyramid.reading_view(self.model, "model.vision_tower")
                batches.append(
                    PromptBatch(
                        index=chosen,
                        arguments={
                            "input_ids": pad(ids, padding_value=self.pad_id),
                            "attention_mask": pad(ones),
                            **pixels,
                        },
                        spans=[tokens[i][1:3] for i in chosen],
                        has_image=has_image,
                        # the tower runs when the prompts do, once for both
                        pyramids=partial(
                            self.pyramid.each, outputs, pixels.get("pixel_values", torch.zeros(0))
                        ),
                        model=model,
                    )
                )
        return batches

    def _pixels(self, images: Sequence[bytes]) -> dict[str, Tensor]:
        if not images:
            return {}
        decoded = [decode_image(image) for image in images]
        return dict(self.processor.image_processor(images=decoded, return_tensors="pt"))

    def generating_model(self, hook: RowsHook | None, batch: PromptBatch) -> Any:
        """See `generation.Generating`."""
        layer = f"model.language_model.layers.{self.edit_layer}"
        return self.model if hook is None else with_hook(batch.model, layer, hook)

    @torch.no_grad()
    def generate(
        self,
        inputs: Sequence[BackboneInput],
        route: RouteOnce | None,
        *,
        max_new_tokens: int,
        has_cache: bool = True,
    ) -> list[str]:
        """Greedy answers to the prompts; a target, being the answer, is never shown to the model.

        Inputs of equal length share a batch, so no padding is needed.
        """
        inputs = [replace(item, target="") for item in inputs]
        tokens = [self.tokenize(item) for item in inputs]
        features = self._image_features(inputs)
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, item in enumerate(inputs):
            groups.setdefault((len(tokens[i][0]), item.image_bytes is not None), []).append(i)
        answers = [""] * len(inputs)
        for (_, has_image), members in groups.items():
            for start in range(0, len(members), self.batch_size):
                chosen = members[start : start + self.batch_size]
                embeds = [self._embed(tokens[i][0], inputs[i], features) for i in chosen]
                pyramids = [features[inputs[i].image_bytes][0] for i in chosen]
                spans = [tokens[i][1:3] for i in chosen]
                hook = (
                    PrefillHook(partial(route, chosen), pyramids, spans)
                    if route and has_image
                    else None
                )
                with self._hooked(hook):
                    done = self._greedy(torch.stack(embeds), max_new_tokens, has_cache)
                for i, ids in zip(chosen, done, strict=True):
                    answers[i] = self.decode(ids)
        return answers

    @contextmanager
    def _hooked(self, hook: "PrefillHook | None") -> Iterator[None]:
        """Add the hook's residual to the output of layer l_e."""
        if hook is None:
            yield
            return
        handle = self.decoder.layers[self.edit_layer].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _greedy(self, embeds_BTD: Tensor, max_new_tokens: int, has_cache: bool) -> list[list[int]]:
        """Token ids up to the end token, per row."""
        from transformers import DynamicCache

        cache = DynamicCache() if has_cache else None
        done: list[list[int]] = [[] for _ in embeds_BTD]
        is_open = [True] * len(done)
        step_BTD = embeds_BTD
        for _ in range(max_new_tokens):
            output = self.decoder(
                inputs_embeds=step_BTD, past_key_values=cache, use_cache=has_cache
            )
            next_B = self.model.lm_head(output.last_hidden_state[:, -1]).argmax(-1)
            for row, token in enumerate(next_B.tolist()):
                is_open[row] = is_open[row] and token != self.end_id
                if is_open[row]:
                    done[row].append(token)
            if not any(is_open):
                break
            last = self.embed(next_B)[:, None]
            step_BTD = last if has_cache else torch.cat([step_BTD, last], dim=1)
        return done


class PrefillHook:
    """Forward hook of layer l_e during generation: routes once, then adds the residual.

    Args:
        route: asked at prefill with the prompts' states.
        pyramids: image pyramid of each input.
        spans: image and prompt span of each input.
    """

    def __init__(
        self,
        route: Callable[[Sequence[LayerStates]], Residual | None],
        pyramids: Sequence[Tensor],
        spans: Sequence[tuple[Span, ...]],
    ) -> None:
        self.route = route
        self.pyramids = pyramids
        self.spans = spans
        self.residual: Residual | None = None
        self.is_routed = False

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        hidden_BTD = output[0] if isinstance(output, tuple) else output
        if not self.is_routed:
            self.residual = self.route(self._states(hidden_BTD))
            self.is_routed = True
        if self.residual is None:
            return output
        edited = hidden_BTD + self.residual(hidden_BTD)
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    def _states(self, hidden_BTD: Tensor) -> list[LayerStates]:
        return [
            LayerStates(
                hidden_TD=hidden,
                pyramid_E=pyramid,
                target_embeddings_OD=hidden[:0],
                image_span=image,
                prompt_span=prompt,
                target_span=(prompt[1], prompt[1]),
                target_ids_O=torch.zeros(0, dtype=torch.int64),
            )
            for hidden, pyramid, (image, prompt) in zip(
                hidden_BTD, self.pyramids, self.spans, strict=True
            )
        ]
