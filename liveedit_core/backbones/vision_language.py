"""Adapter over any Hugging Face family of `families.py`, by its model and processor alone.

    processor -> token ids, pixels -> trunk, layers 0..l_e | layers l_e+1.. -> norm -> lm_head
                                              encode()     |     target_logits()

Image tower, positions, rotary embeddings and masks are the family's own: both halves are views of
the model (`views.py`), the first without the layers after l_e, the second with layers that pass
their rows on in place of 0..l_e.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from liveedit_core.backbones.families import PromptFormat, family_of
from liveedit_core.backbones.generation import PromptBatch, continuations
from liveedit_core.backbones.prompts import PaddingSide, Prepared, PromptReader, collate
from liveedit_core.backbones.protocol import BackboneInput, RouteOnce
from liveedit_core.backbones.suffix import DecoderSuffix, SuffixParts, own_hooks
from liveedit_core.backbones.views import (
    NoPositions,
    PassingLayer,
    RowsHook,
    with_hook,
    with_part,
)
from liveedit_core.errors import ConfigError, IntegrityError
from liveedit_core.states import LayerStates

REFERENCE_SIDE = 336
"""Side of the square image whose rows are counted as `num_image_tokens`."""


class VisionLanguageBackbone:
    """A frozen model of a known family (see `protocol.Backbone`).

    Args:
        model: `AutoModelForImageTextToText` instance; is set to eval mode and frozen.
        processor: its processor.
        edit_layer: l_e.
        digest: identity of the weights.
        prompt_format: replaces the chat template of the processor.
        batch_size: sequences in one forward.

    Raises:
        ConfigError: the family is not known, or the edit layer is not within the decoder.
    """

    visual_size = 0

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        edit_layer: int,
        digest: str,
        prompt_format: PromptFormat | None = None,
        batch_size: int = 8,
    ) -> None:
        self.family = family_of(model.config)
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.edit_layer = edit_layer
        self.digest = digest
        self.batch_size = batch_size
        self.decoder_path = decoder_path(model, self.family.decoder)
        self.decoder = model.get_submodule(self.decoder_path)
        depth = len(self.decoder.layers)
        if not 0 <= edit_layer < depth - 1:
            raise ConfigError(
                f"edit layer {edit_layer}: the decoder has {depth} layers, and at least one must "
                f"follow; expected 0 to {depth - 2}"
            )
        self.text_config = model.config.get_text_config(decoder=True)
        self.hidden_size = int(self.text_config.hidden_size)
        self.embed = model.get_input_embeddings()
        self.head = model.get_output_embeddings()
        self.end_ids = _end_ids(model, self.tokenizer)
        end_id = self.tokenizer.eos_token_id
        self.end_id = int(end_id if end_id is not None else min(self.end_ids, default=0))
        pad_id = self.tokenizer.pad_token_id
        self.pad_id = int(pad_id if pad_id is not None else min(self.end_ids, default=0))
        self.reader = PromptReader(
            self.family,
            processor,
            image_token_id=image_token_id(model.config, processor),
            num_image_tokens=int(getattr(model.config, "num_query_tokens", 0)),
            prompt_format=prompt_format,
        )
        self.num_image_tokens = self._count_image_rows()
        self.encoding = json.dumps([vars(self.reader.format), str(model.dtype)])
        self._suffix: nn.Module = DecoderSuffix(self, dtype=self.model.dtype)

    def _count_image_rows(self) -> int:
        """Rows of a square image: those of the sentinel, whatever an image has."""
        buffer = io.BytesIO()
        Image.new("RGB", (REFERENCE_SIDE, REFERENCE_SIDE), (128, 128, 128)).save(buffer, "PNG")
        item = BackboneInput(prompt="x", image_bytes=buffer.getvalue())
        start, stop = self.reader.prepare(item).image
        return stop - start

    def suffix_parts(self) -> SuffixParts:
        """See `protocol.TrainableBackbone`."""
        trunk, decoder = self.family.text_trunk, self.decoder_path
        return SuffixParts(
            trunk=self._resumed_view().get_submodule(trunk),
            layers=f"{decoder}.layers".removeprefix(f"{trunk}."),
            head=self.head,
            positions=self.family.positions,
            logit_cap=getattr(self.text_config, "final_logit_softcapping", None),
        )

    def _resumed_view(self) -> Any:
        """The model for embeddings alone: layers 0..l_e pass their rows on, and all that comes
        before them is gone."""
        layers = [
            PassingLayer(layer) if i <= self.edit_layer else layer
            for i, layer in enumerate(self.decoder.layers)
        ]
        path = self.decoder_path
        view = with_part(self.model, f"{path}.layers", nn.ModuleList(layers))
        view = with_part(view, f"{path}.embed_tokens", nn.Identity())
        if hasattr(self.decoder, "embed_positions"):
            view = with_part(view, f"{path}.embed_positions", NoPositions())
        if getattr(self.decoder, "project_in", None) is not None:
            view = with_part(view, f"{path}.project_in", nn.Identity())
        part = view
        for name in path.split("."):
            part._modules = {n: m if n == name else None for n, m in part._modules.items()}
            own_hooks(part)
            part = part._modules[name]
        own_hooks(part)
        return view

    def at_layer(self, edit_layer: int) -> "VisionLanguageBackbone":
        """The same model cut at another layer; weights are shared."""
        return VisionLanguageBackbone(
            self.model,
            self.processor,
            edit_layer=edit_layer,
            digest=self.digest,
            prompt_format=self.reader.format,
            batch_size=self.batch_size,
        )

    def drop_suffix(self) -> list[nn.Module]:
        """See `protocol.TrainableBackbone`."""
        self.decoder.layers = nn.ModuleList(list(self.decoder.layers)[: self.edit_layer + 1])
        path = next(name for name, module in self.model.named_modules() if module is self.head)
        self.model.set_submodule(path, nn.Identity())
        self.head = self._suffix = nn.Identity()
        return [self.model]

    def check_input(self, item: BackboneInput) -> None:
        """See `protocol.TrainableBackbone`."""
        self.reader.prepare(item)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without special tokens."""
        with self.reader.lock:
            return len(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of some tokens, special ones left out, stripped."""
        with self.reader.lock:
            text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text.strip()

    @torch.no_grad()
    def encode(
        self, inputs: Sequence[BackboneInput], *, padding_side: PaddingSide = "right"
    ) -> list[LayerStates]:
        """Image tower and layers 0..l_e; see `protocol.Backbone.encode`."""
        prepared = [self.reader.prepare(item) for item in inputs]
        states: dict[int, LayerStates] = {}
        for chosen in self._batches(prepared):
            items = [prepared[i] for i in chosen]
            rows_BTD = self._rows(items, padding_side).float().cpu()
            for row, (i, item) in enumerate(zip(chosen, items, strict=True)):
                first = rows_BTD.shape[1] - item.num_tokens if padding_side == "left" else 0
                ids_O = item.tokens["input_ids"][slice(*item.target)]
                states[i] = LayerStates(
                    hidden_TD=rows_BTD[row, first : first + item.num_tokens].clone(),
                    pyramid_E=torch.zeros(0),
                    target_embeddings_OD=self.embed(ids_O.to(self.device)).float().cpu(),
                    image_span=item.image,
                    prompt_span=item.prompt,
                    target_span=item.target,
                    target_ids_O=ids_O,
                    grid=item.grid,
                )
        return [states[i] for i in range(len(inputs))]

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        device: torch.device = self.embed.weight.device
        return device if device.type != "meta" else torch.device("cpu")

    def _batches(self, prepared: Sequence[Prepared]) -> list[list[int]]:
        """Positions of inputs in batches of like length, with and without images apart."""
        batches = []
        for has_image in (False, True):
            members = [i for i, item in enumerate(prepared) if bool(item.images) == has_image]
            members.sort(key=lambda i: prepared[i].num_tokens)
            batches += [
                members[start : start + self.batch_size]
                for start in range(0, len(members), self.batch_size)
            ]
        return batches

    def _collated(self, items: Sequence[Prepared], side: PaddingSide) -> dict[str, Tensor]:
        dtype = self.model.dtype
        return collate(items, pad_id=self.pad_id, side=side, dtype=dtype, device=self.device)

    def _rows(self, items: Sequence[Prepared], side: PaddingSide) -> Tensor:
        """Rows at l_e, [B, T, D]."""
        seen: list[Tensor] = []
        layers = nn.ModuleList(list(self.decoder.layers)[: self.edit_layer + 1])
        view = with_part(self.model, f"{self.decoder_path}.layers", layers)
        view = with_hook(view, f"{self.decoder_path}.layers.{self.edit_layer}", seen.append)
        has_image = bool(items[0].images)
        trunk = view.get_submodule(self.family.trunk if has_image else self.family.text_trunk)
        if trunk is view:
            trunk(**self._collated(items, side), use_cache=False, logits_to_keep=1)
        else:
            trunk(**self._collated(items, side), use_cache=False)
        if len(seen) != 1:
            raise IntegrityError(f"layer {self.edit_layer} ran {len(seen)} times in one forward")
        return seen[0]

    def target_logits(
        self, states: Sequence[LayerStates], hidden_BTD: Tensor, *, has_end: bool = False
    ) -> list[Tensor]:
        """Layers l_e + 1 .. and logits at target positions; differentiable in the rows."""
        rows_BTD = hidden_BTD.to(self.device, self.model.dtype)
        logits: list[Tensor] = self._suffix(states, rows_BTD, has_end=has_end)
        return [logits_OV.to(hidden_BTD.device) for logits_OV in logits]

    def prompt_batches(self, inputs: Sequence[BackboneInput]) -> list[PromptBatch]:
        """See `generation.Generating`."""
        prepared = [self.reader.prepare(replace(item, target="")) for item in inputs]
        batches = []
        for chosen in self._batches(prepared):
            items = [prepared[i] for i in chosen]
            batches.append(
                PromptBatch(
                    index=chosen,
                    arguments=self._collated(items, "left"),
                    spans=[(item.image, item.prompt) for item in items],
                    has_image=bool(items[0].images),
                    pyramids=partial(_no_pyramids, len(items)),
                )
            )
        return batches

    def generating_model(self, hook: RowsHook | None, batch: PromptBatch) -> Any:
        """See `generation.Generating`; always a view, as some families keep state in the model."""
        layer = f"{self.decoder_path}.layers.{self.edit_layer}"
        view = with_hook(self.model, layer, hook or (lambda rows_BTD: None))
        return view.get_submodule("" if batch.has_image else self.family.text_generator)

    def generate(
        self,
        inputs: Sequence[BackboneInput],
        route: RouteOnce | None,
        *,
        max_new_tokens: int,
        has_cache: bool = True,
    ) -> list[str]:
        """Greedy answers to the prompts; see `protocol.Backbone.generate`."""
        done = continuations(
            self,
            inputs,
            route,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=has_cache,
            pad_token_id=self.pad_id,
        )
        return [one.texts[0] for one in done]


def _no_pyramids(count: int) -> list[Tensor]:
    return [torch.zeros(0)] * count


def decoder_path(model: Any, path: str) -> str:
    """Path of the module that holds the decoder layers; OPT has them one level deeper."""
    inner = model.get_submodule(path)
    return path if hasattr(inner, "layers") else f"{path}.decoder"


def image_token_id(config: Any, processor: Any) -> int:
    """The placeholder of image rows.

    Raises:
        ConfigError: neither the model nor its processor names one.
    """
    found = getattr(config, "image_token_id", None)
    if found is None:
        found = getattr(processor, "image_token_id", None)
    if found is None:
        raise ConfigError(
            f"{config.model_type}: the configuration names no image_token_id; this checkpoint is "
            "older than the placeholder tokens of its family, take a newer revision"
        )
    return int(found)


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(int(i) for i in [*listed, tokenizer.eos_token_id] if i is not None)
