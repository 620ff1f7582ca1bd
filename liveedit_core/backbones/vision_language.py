"""The adapter over Hugging Face's vision-language models: one class for all families.

    processor -> token ids, pixels -> trunk, layers 0..l_e | layers l_e+1.. -> norm -> lm_head
                                              encode()     |     target_logits()

Positions, rotary embeddings and masks are the family's own: both halves are views of the model
(`views.py`), the first without the layers after l_e, the second with layers that return their input
in place of 0..l_e. With an `ImageTower`, images are encoded apart (once, and with a pyramid), and
the decoder gets embeddings; without one, the model encodes them in each forward.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from liveedit_core.backbones import prefix
from liveedit_core.backbones.families import (
    Family,
    PromptFormat,
    check_layer,
    decoder_path,
    end_ids,
    family_of,
    image_token_id,
    tokens_per_image,
)
from liveedit_core.backbones.generation import (
    KNOWN_GOOD,
    Continuation,
    FewUnfinished,
    GenerationBatch,
    RoutedLayer,
    apply_settings,
    argument_errors,
    read_continuations,
    route_of_some,
)
from liveedit_core.backbones.image_tower import ImageFeatureCache, ImageTower
from liveedit_core.backbones.lowered.decoder import LoweredDecoder
from liveedit_core.backbones.prompt_encoder import PromptEncoder
from liveedit_core.backbones.prompts import (
    PaddingSide,
    Prepared,
    PromptReader,
    batches_by_length,
    collate,
)
from liveedit_core.backbones.protocol import Backbone, BackboneInput, RouteOnce
from liveedit_core.backbones.suffix import DecoderSuffix, masks_and_positions
from liveedit_core.backbones.views import HiddenHook, resumed_view, with_hook, with_part
from liveedit_core.errors import ConfigError
from liveedit_core.states import LayerStates


class VisionLanguageBackbone:
    """A model of a known family, which is set to eval mode and frozen; see `protocol.Backbone`.

    A `prompt_format` replaces the chat template of the processor; a `prompt_encoder` embeds
    prompts; `batch_size` is the number of sequences in one forward, `prompts_at_once` that of
    prompts which generate together (0: as many).
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        edit_layer: int,
        digest: str,
        family: Family | None = None,
        prompt_format: PromptFormat | None = None,
        image_tower: ImageTower | None = None,
        prompt_encoder: PromptEncoder | None = None,
        batch_size: int = 8,
        prompts_at_once: int = 0,
    ) -> None:
        self.family = family or family_of(model.config)
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.edit_layer = edit_layer
        self.digest = digest
        self.image_tower = image_tower
        self.batch_size = batch_size
        self.prompts_at_once = prompts_at_once or batch_size
        self.decoder_path = decoder_path(model, self.family.decoder)
        self.prompt_encoder = prompt_encoder
        self.prompt_size = prompt_encoder.size if prompt_encoder else 0
        check_layer(self.model.config, edit_layer, len(self.decoder.layers))
        self.text_config = model.config.get_text_config(decoder=True)
        self.hidden_size = int(self.text_config.hidden_size)
        self.visual_size = image_tower.pyramid_size if image_tower else 0
        self.has_image_views = image_tower is not None and image_tower.has_views
        self.embed = model.get_input_embeddings()
        self.head = model.get_output_embeddings()
        self.end_ids = end_ids(model, self.tokenizer)
        ids = (self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        least = min(self.end_ids, default=0)
        self.end_id, self.pad_id = (int(least if one is None else one) for one in ids)
        self.reader = PromptReader(
            self.family,
            processor,
            image_token_id=image_token_id(model.config, processor),
            num_image_tokens=tokens_per_image(model.config),
            prompt_format=prompt_format,
            has_pixels=image_tower is None,
        )
        self.num_image_tokens = self.reader.count_image_tokens()
        self.encoding = self._encoding()
        self.pads_prompts = True
        self._suffix: nn.Module = self.suffix()

    def _encoding(self) -> str:
        form, parts = self.reader.format, (self.image_tower, self.prompt_encoder)
        return prefix.encoding_of(form, self.dtype, *parts)

    @property
    def decoder(self) -> Any:
        """The module that holds `layers`."""
        return self.model.get_submodule(self.decoder_path)

    @property
    def dtype(self) -> torch.dtype:
        """Of the decoder; the image tower may have another."""
        dtype: torch.dtype = self.embed.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Where token ids go, and where hidden states come out."""
        device: torch.device = self.embed.weight.device
        return device if device.type != "meta" else torch.device("cpu")

    def at_layer(self, edit_layer: int) -> Self:
        """The same model cut at another layer; weights, tokenizer and image tower are shared."""
        check_layer(self.model.config, edit_layer, len(self.decoder.layers))
        return self._cut(edit_layer)

    def with_prompt_encoder(self, prompt_encoder: PromptEncoder | None) -> Self:
        """The same model with other embeddings of prompts, or none."""
        other = copy.copy(self)
        other.prompt_encoder = prompt_encoder
        other.prompt_size = prompt_encoder.size if prompt_encoder else 0
        other.encoding = other._encoding()
        return other

    def _cut(self, edit_layer: int) -> Self:
        other = copy.copy(self)
        other.edit_layer = edit_layer
        other._suffix = other.suffix()
        return other

    def with_layers(self, first: int, layers: Sequence[nn.Module]) -> Self:
        """The same model, cut before layer `first`, with other layers from there on, which never
        see padding: prompts that generate together have one length."""
        other = copy.copy(self)
        parts = nn.ModuleList([*list(self.decoder.layers)[:first], *layers])
        other.model = with_part(self.model, f"{self.decoder_path}.layers", parts)
        other.pads_prompts = False
        return other._cut(first - 1)

    def with_module(self, path: str, module: nn.Module) -> Self:
        """The same model with another module before the decoder; the model itself encodes the
        images in each forward, without cached features and without pyramids."""
        other = copy.copy(self)
        other.model = with_part(self.model, path, module)
        other.image_tower = None
        other.reader = copy.copy(self.reader)
        other.reader.has_pixels = True
        return other._cut(self.edit_layer)

    def suffix(
        self, *, dtype: torch.dtype | None = None, has_activation_checkpointing: bool = False
    ) -> DecoderSuffix:
        """The layers after l_e; shares the weights, unless `dtype` is not that of the model."""
        trunk = self.family.text_trunk
        return DecoderSuffix(
            self._resumed(len(self.decoder.layers) - 1).get_submodule(trunk),
            self.head,
            layers=f"{self.decoder_path}.layers".removeprefix(f"{trunk}."),
            positions=self.family.positions,
            end_id=self.end_id,
            dtype=dtype or self.dtype,
            logit_cap=getattr(self.text_config, "final_logit_softcapping", None),
            has_activation_checkpointing=has_activation_checkpointing,
        )

    def _resumed(self, last: int) -> Any:
        return resumed_view(self.model, self.decoder_path, self.edit_layer + 1, last)

    def shared_modules(self, *, has_suffix: bool) -> list[nn.Module]:
        """The modules that processes share; without the suffix, what only it needs is freed."""
        # Processes must run the same modules, so none may skip what it has cached.
        if self.image_tower is not None:
            self.image_tower.cache = ImageFeatureCache(0)
        if not has_suffix:
            self.decoder.layers = self.decoder.layers[: self.edit_layer + 1]
            path = next(name for name, module in self.model.named_modules() if module is self.head)
            self.model.set_submodule(path, nn.Identity())
            self.head = self._suffix = nn.Identity()
        return [self.model]

    def check_input(self, item: BackboneInput) -> None:
        """Raise InputError for what `encode` would refuse, before any model runs."""
        self.reader.prepare(item)

    def count_tokens(self, text: str) -> int:
        return self.reader.count(text)

    def count_target_tokens(self, text: str) -> int:
        return self.reader.count_target(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.reader.decode(token_ids)

    def _prepared(
        self, inputs: Sequence[BackboneInput], *, is_apart: bool = False
    ) -> list[Prepared]:
        prepared = [self.reader.prepare(item) for item in inputs]
        if self.prompt_encoder is not None:
            rows = [partial(self.encode_prompts, item.wordings) for item in inputs]
            prepared = [
                replace(one, prompt_embeddings=row, form=item.form)
                for one, row, item in zip(prepared, rows, inputs, strict=True)
            ]
        if self.image_tower is None:
            return prepared
        images = [item.image_bytes for item in inputs if item.image_bytes is not None]
        at_once = 1 if is_apart and not self.image_tower.has_own_bits else self.batch_size
        features = self.image_tower.features(images, at_once)
        return [
            replace(done, features=features.get(item.image_bytes or b""))
            for done, item in zip(prepared, inputs, strict=True)
        ]

    def encode_prompts(self, wordings: tuple[str, ...]) -> Tensor:
        """Embeddings of the wordings of one prompt, [W, P], float32."""
        assert self.prompt_encoder is not None
        return self.prompt_encoder.rows(wordings).to(self.device)

    @torch.no_grad()
    def encode(
        self, inputs: Sequence[BackboneInput], *, is_apart: bool = False, has_hidden: bool = True
    ) -> list[LayerStates]:
        """See `Backbone.encode` and `encode_apart`; without `has_hidden`, all of it is zeros."""
        prepared = self._prepared(inputs, is_apart=is_apart)
        if not has_hidden:
            none_1D = self.embed.weight[:1] * 0
            return [prefix.states_of(one, none_1D, self.embed) for one in prepared]
        states: dict[int, LayerStates] = {}
        sharing = [] if is_apart else prepared
        shared = prefix.SharedImages(self, sharing, partial(self._arguments, side="right"))
        kinds = [(bool(item.images), item in shared) for item in prepared]
        for chosen in batches_by_length(prepared, kinds, self.batch_size):
            items = [prepared[i] for i in chosen]
            seen = shared.hidden(items) if items[0] in shared else self._hidden_each(items)
            for i, item, hidden_TD in zip(chosen, items, seen, strict=True):
                states[i] = prefix.states_of(item, hidden_TD.to(self.device), self.embed)
        return [states[i] for i in range(len(inputs))]

    def lowered(self, first: int, stop: int) -> LoweredDecoder | None:
        """Some layers as `LoweredDecoder`, where the model's can be."""
        is_plain = self.image_tower is not None and self.family.positions is None
        return LoweredDecoder.of(self.decoder, self.head, first, stop) if is_plain else None

    def _hidden_each(self, items: Sequence[Prepared]) -> list[Tensor]:
        """Hidden states at l_e of each input, [T, D]; there may be more behind its own."""
        if (lowered := self.lowered(0, self.edit_layer + 1)) is None:
            return list(self._hidden(items))
        return lowered([self._arguments([item], "right")["inputs_embeds"][0] for item in items])

    def hidden_of(self, inputs: Sequence[BackboneInput]) -> Tensor:
        """Padded hidden states at l_e of inputs that all have an image, or none, [B, T, D];
        differentiable in modules of `with_module`."""
        return self._hidden(self._prepared(inputs))

    def _arguments(self, items: Sequence[Prepared], side: PaddingSide) -> dict[str, Tensor]:
        """Of a forward of the model; with an image tower also the input embeddings."""
        batch = collate(
            items, pad_id=self.pad_id, side=side, dtype=self.model.dtype, device=self.device
        )
        if self.image_tower is not None:
            ids_BT = batch["input_ids"]
            embeds_BTD = self.embed(ids_BT)
            for row, item in enumerate(items):
                if item.features is not None:
                    is_image_T = ids_BT[row] == self.reader.image_token_id
                    embeds_BTD[row, is_image_T] = item.features.projected_ID.to(embeds_BTD)
            batch["inputs_embeds"] = embeds_BTD
        return batch

    def _hidden(self, items: Sequence[Prepared]) -> Tensor:
        """Hidden states at l_e, padded on the right, [B, T, D]."""
        arguments: dict[str, Any] = self._arguments(items, "right")
        if self.image_tower is not None:
            del arguments["input_ids"]
        if self.family.positions is None:
            del arguments["attention_mask"]
        trunk = self.family.trunk if items[0].images else self.family.text_trunk
        return prefix.hidden_after(self.model, self.decoder_path, trunk, self.edit_layer, arguments)

    def hidden_at(self, layer: int, states: Sequence[LayerStates], hidden_BTD: Tensor) -> Tensor:
        """Hidden states after a later layer, from those at l_e; padded alike, differentiable."""
        hidden_BTD = hidden_BTD.to(self.device, self.dtype)
        if layer == self.edit_layer:
            return hidden_BTD
        seen: list[Tensor] = []
        path = f"{self.decoder_path}.layers.{layer}"
        view = with_hook(self._resumed(layer), path, seen.append)
        trunk = view.get_submodule(self.family.text_trunk)
        masks = masks_and_positions(trunk, self.family.positions, states, hidden_BTD)
        trunk(inputs_embeds=hidden_BTD, use_cache=False, **masks)
        return prefix.the_only(seen, layer)

    def target_logits(
        self, states: Sequence[LayerStates], hidden_BTD: Tensor, *, has_end: bool = False
    ) -> list[Tensor]:
        moved_BTD = hidden_BTD.to(self.device, self.dtype)
        logits: list[Tensor] = self._suffix(states, moved_BTD, has_end=has_end)
        return [logits_OV.to(hidden_BTD.device) for logits_OV in logits]

    def generate(
        self, inputs: Sequence[BackboneInput], route: RouteOnce | None, *, max_new_tokens: int
    ) -> list[str]:
        """See `protocol.Backbone.generate`. Few long answers do not hold up the others' batch."""
        greedy = {"max_new_tokens": max_new_tokens, "is_greedy": True}
        texts: dict[int, str] = {}
        late: list[int] = []
        batches = self.generation_batches(inputs)
        for batch in batches:
            few = FewUnfinished(batch, self.end_ids, max_new_tokens)
            rules = [few] if len(batches) > 1 else []
            done = self._continued(batch, route, stopping_criteria=rules, **greedy)
            texts |= {i: one.texts[0] for i, one in done.items()}
            late += [batch.index[row] for row in few.rows]
        if late:
            again, own_route = [inputs[i] for i in late], route_of_some(route, late)
            answers = self.generate(again, own_route, max_new_tokens=max_new_tokens)
            texts |= dict(zip(late, answers, strict=True))
        return [texts[i] for i in range(len(inputs))]

    def continuations(
        self, inputs: Sequence[BackboneInput], route: RouteOnce | None, /, **arguments: Any
    ) -> list[Continuation]:
        """Continue prompts, whatever targets the inputs carry; `arguments` are those of
        transformers' `generate`, and `is_greedy` sets those of the checkpoint aside. ConfigError
        for arguments that it cannot use."""
        if arguments.get("prefill_chunk_size"):
            raise ConfigError("prefill_chunk_size: routing needs the whole prompt in one piece")
        done: dict[int, Continuation] = {}
        for batch in self.generation_batches(inputs):
            plainly = partial(self._continued, batch, route, **KNOWN_GOOD)
            with argument_errors(arguments, plainly):
                done |= self._continued(batch, route, **arguments)
        return [done[i] for i in range(len(inputs))]

    @torch.no_grad()
    def _continued(
        self, batch: GenerationBatch, route: RouteOnce | None, /, **arguments: Any
    ) -> dict[int, Continuation]:
        hook = RoutedLayer(route, batch, self.device) if route else None
        model = self.generating_view(hook, has_image=batch.has_image)
        settings = apply_settings(model, self.decoder_path, arguments)
        arguments = {"pad_token_id": self.pad_id, "tokenizer": self.tokenizer} | arguments
        output = model.generate(**batch.arguments, **arguments)
        return read_continuations(batch, output, self.end_ids, self.decode, settings)

    @torch.no_grad()
    def generation_batches(self, inputs: Sequence[BackboneInput]) -> list[GenerationBatch]:
        """The prompts in batches; targets are left out."""
        prepared = self._prepared([replace(item, target="") for item in inputs])
        lengths = [0 if self.pads_prompts else item.num_tokens for item in prepared]
        keys = [(item.has_image, length) for item, length in zip(prepared, lengths, strict=True)]
        batches = []
        for chosen in batches_by_length(prepared, keys, self.prompts_at_once):
            items = [prepared[i] for i in chosen]
            arguments = self._arguments(items, "left")
            batches.append(GenerationBatch(index=chosen, arguments=arguments, items=items))
        return batches

    def generating_view(self, hook: HiddenHook | None, *, has_image: bool) -> Any:
        """Always a view, as some families keep state in the model."""
        path = f"{self.decoder_path}.layers.{self.edit_layer}"
        view = with_hook(self.model, path, hook or (lambda _: None))
        return view.get_submodule("" if has_image else self.family.text_generator)


def as_vision_language(backbone: Backbone) -> VisionLanguageBackbone:
    """The backbone, if it is this adapter: stand-ins only encode and score."""
    if not isinstance(backbone, VisionLanguageBackbone):
        raise ConfigError(
            f"a {type(backbone).__name__} can neither be trained for, nor be sharded, nor generate "
            "with transformers' arguments; expected a VisionLanguageBackbone"
        )
    return backbone
