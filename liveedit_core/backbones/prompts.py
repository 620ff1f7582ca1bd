"""Tokenized inputs: token ids and pixels from the processor, and the spans of image, prompt and
target."""

import io
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.families import IMAGE, PROMPT, Family, PromptFormat
from liveedit_core.backbones.image_tower import ImageFeatures
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.special_tokens import SpecialTokens
from liveedit_core.errors import ConfigError, InputError, LiveEditError
from liveedit_core.inputs.images import decode_image
from liveedit_core.inputs.rejects import RefusedInputError, RejectType
from liveedit_core.inputs.text import check_encodable
from liveedit_core.states import NO_PYRAMIDS, PromptRows, Span

PaddingSide = Literal["left", "right"]

TOKEN_FIELDS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Model inputs with one number per token."""
_MARK = "MARK8MARK"
REFERENCE_SIDE = 336
"""Side in pixels of the square image whose tokens are counted."""


def with_space(prompt: str, target: str) -> str:
    """The target with one leading space, unless one is there already (METHOD.md 7)."""
    if not target or prompt[-1:].isspace() or target[0].isspace():
        return target
    return f" {target}"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One tokenized input."""

    tokens: dict[str, Tensor]
    """int64 [T] by the names of `TOKEN_FIELDS`."""
    images: dict[str, Tensor]
    """What the model's image tower takes; empty without an image, or if `ImageTower` encodes it."""
    image: Span
    prompt: Span
    target: Span
    features: ImageFeatures | None = None
    """From `ImageTower`, if the backbone has one."""
    prompt_embeddings: PromptRows = NO_PYRAMIDS
    form: int | None = None
    """See `LayerStates`, as above."""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens["input_ids"])

    @property
    def has_image(self) -> bool:
        return self.image[1] > self.image[0]

    @property
    def pyramid_E(self) -> Tensor:
        """Empty without an image or `ImageTower`."""
        return torch.zeros(0) if self.features is None else self.features.pyramid_E

    @property
    def grid(self) -> tuple[int, ...] | None:
        """Grid of the image's patches (time, height, width), for families that have one."""
        grid = self.images.get("image_grid_thw")
        return None if grid is None else tuple(grid[0].tolist())


class PromptReader:
    """Turns inputs into token ids and, with `has_pixels`, preprocessed images.

    `num_image_tokens` is needed for a family that `assembles_tokens`; a `prompt_format` replaces
    the chat template and the family's own.
    """

    def __init__(
        self,
        family: Family,
        processor: Any,
        *,
        image_token_id: int,
        num_image_tokens: int = 0,
        prompt_format: PromptFormat | None = None,
        has_pixels: bool = True,
    ) -> None:
        self.family = family
        self.has_pixels = has_pixels
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token_id = image_token_id
        own_token = getattr(processor, "image_token", None)
        self.image_token = str(own_token or self.tokenizer.convert_ids_to_tokens(image_token_id))
        """Stands for an image in a text; the processor may write other tokens in its place."""
        self.num_image_tokens = num_image_tokens
        self.special = SpecialTokens(processor)
        self.lock = threading.Lock()
        """Tokenizers refuse to be used by two threads at once."""
        self.format = prompt_format or self._format_of_processor()
        self.reads_conversations = prompt_format is None and self._has_template
        """Whether `BackboneInput.earlier` is part of the prompt; else the question stands alone."""

    @property
    def _has_template(self) -> bool:
        has_one = bool(getattr(self.processor, "chat_template", None))
        return self.family.has_chat_template and has_one

    def _format_of_processor(self) -> PromptFormat:
        """The chat template as a format; the family's own where there is none."""
        if not self._has_template:
            return self.family.prompt_format
        text = {"type": "text", "text": _MARK}
        with_image, text_only = (
            self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            ).replace(_MARK, PROMPT)
            for content in ([{"type": "image"}, text], [text])
        )
        return PromptFormat(
            with_image=with_image.replace(self.image_token, IMAGE), text_only=text_only
        )

    def count_image_tokens(self) -> int:
        """Of a square image: the sentinel has this many, whatever the shape of other images."""
        start, stop = self.prepare(_reference_input()).image
        return stop - start

    def count(self, text: str) -> int:
        """Tokens of a text, without special ones."""
        with self.lock:
            return len(self.tokenizer.encode(text, add_special_tokens=False))

    def count_target(self, target: str) -> int:
        """Tokens of a target after the end of a prompt with an image."""
        end = self.format.with_image.split(PROMPT)[-1] + self.family.prompt_end
        with self.lock:
            return len(self._target_ids(end or "?", target))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of some tokens, special ones left out, stripped."""
        with self.lock:
            text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text.strip()

    def prepare(self, item: BackboneInput) -> Prepared:
        """One tokenized input with its target; InputError for one that the model cannot take."""
        with self.lock:
            self._check_texts(item)
            try:
                return self._prepared(item)
            except (LiveEditError, MemoryError):
                raise
            except Exception as error:  # of the processor, whose rules are its own
                self._prepared(_reference_input())  # raises what is no fault of the input
                raise RefusedInputError(
                    f"the backbone's processor refuses image or text: {error}"
                ) from error

    def _check_texts(self, item: BackboneInput) -> None:
        for name, text in (
            *(("prompt", prompt) for prompt in item.wordings),
            *(("an earlier turn", text) for _, text in item.earlier),
            ("target", item.target),
        ):
            check_encodable(text, name)
            if name == "prompt" and not text.strip():
                raise RefusedInputError("prompt is empty", RejectType.EMPTY_TEXT)
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            if token := self.special.found_in(text, ids):
                raise RefusedInputError(
                    f"{name} {text[:60]!r} holds {token!r}, a control token of the backbone: write "
                    "it in another way",
                    RejectType.CONTROL_TOKEN,
                )

    def _worded(self, item: BackboneInput) -> list[str]:
        """The prompt in the words that the model gets: before and after the image, or at once."""
        has_image = item.image_bytes is not None
        if item.earlier and self.reads_conversations:
            question: list[dict[str, str]] = [{"type": "text", "text": item.prompt}]
            turns = [*item.earlier, ("user", "")]
            messages = [
                {"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns
            ]
            messages[-1]["content"] = [*[{"type": "image"}] * has_image, *question]
            try:
                text = self.processor.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=False
                )
            except Exception as error:  # a template raises what it likes about the order of roles
                raise InputError(f"the chat template refuses these turns: {error}") from error
            return list(text.split(self.image_token, 1)) if has_image else [text]
        if has_image:
            return self.format.with_image.replace(PROMPT, item.prompt).split(IMAGE, 1)
        return [self.format.text_only.replace(PROMPT, item.prompt)]

    def _prepared(self, item: BackboneInput) -> Prepared:
        words = self._worded(item)
        if item.image_bytes is None:
            (end,) = words
            fields = self._tokenized(end)
        else:
            before, after = words
            end = after + self.family.prompt_end
            fields = self._with_image(before, after, item.image_bytes)
        tokens = {
            name: torch.as_tensor(fields[name])[0].long() for name in TOKEN_FIELDS if name in fields
        }
        ids = tokens["input_ids"]
        places = (ids == self.image_token_id).nonzero().flatten().tolist()
        image = (places[0], places[-1] + 1) if places else (0, 0)
        if (item.image_bytes is not None) != bool(places):
            raise ConfigError(
                f"the processor put {len(places)} image tokens into the prompt; the prompt format "
                "or the processor's configuration does not fit the model"
            )
        if places and len(places) < self.family.least_image_tokens:
            raise RefusedInputError("the image is too small for this backbone: enlarge it")
        target_ids = self._target_ids(end, item.target)
        is_causal_kind = int(self.family.positions == "prefix")
        of_target = {"attention_mask": 1, "token_type_ids": is_causal_kind}
        for name, tensor in tokens.items():
            same = torch.full_like(target_ids, of_target.get(name, 0))
            tokens[name] = torch.cat([tensor, target_ids if name == "input_ids" else same])
        others: dict[str, Any] = {k: v for k, v in fields.items() if k not in TOKEN_FIELDS}
        others.pop("labels", None)
        return Prepared(
            tokens=tokens,
            images={name: value for name, value in others.items() if isinstance(value, Tensor)},
            image=image,
            prompt=(image[1], len(ids)),
            target=(len(ids), len(ids) + len(target_ids)),
        )

    def _target_ids(self, end: str, target: str) -> Tensor:
        """Tokens of the target, as they are after the end of the prompt."""
        target = with_space(end, target)
        head, whole = (
            self.tokenizer.encode(text, add_special_tokens=False) for text in (end, end + target)
        )
        if whole[: len(head)] != head:  # a token spans the end of the prompt
            whole, head = self.tokenizer.encode(target, add_special_tokens=False), []
        return torch.tensor(whole[len(head) :], dtype=torch.int64)

    def _tokenized(self, text: str, *, has_special: bool = True) -> dict[str, Tensor]:
        has_special = has_special and self.family.has_special_tokens and not self._has_bos(text)
        ids = self.tokenizer.encode(text, add_special_tokens=has_special)
        if has_special and ids and text and ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1] if len(ids) > 1 else ids
        row = torch.tensor([ids], dtype=torch.int64)
        fields = {"input_ids": row, "attention_mask": torch.ones_like(row)}
        if self.family.positions == "prefix":
            fields["token_type_ids"] = torch.zeros_like(row)
        return fields

    def _has_bos(self, text: str) -> bool:
        return bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)

    def _with_image(self, before: str, after: str, image_bytes: bytes) -> dict[str, Tensor]:
        images = [decode_image(image_bytes)] if self.has_pixels else []
        if self.family.assembles_tokens:
            process = self.processor.image_processor
            done = process(images=images, return_tensors="pt") if images else {}
            left = self._tokenized(before)["input_ids"] if before else torch.zeros(1, 0).long()
            right = self._tokenized(after, has_special=not before)["input_ids"]
            placeholders = torch.full((1, self.num_image_tokens), self.image_token_id)
            ids = torch.cat([left, placeholders, right], dim=1)
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **done}
        text = f"{before}{self.image_token}{after}"
        done = self.processor(
            images=images,
            text=[text],
            add_special_tokens=not self._has_bos(text),
            return_tensors="pt",
            **self.family.image_options,
        )
        return dict(done)


def _reference_input() -> BackboneInput:
    buffer = io.BytesIO()
    Image.new("RGB", (REFERENCE_SIDE, REFERENCE_SIDE), (128, 128, 128)).save(buffer, "PNG")
    return BackboneInput(prompt="x", image_bytes=buffer.getvalue())


def batches_by_length(
    prepared: Sequence[Prepared], keys: Sequence[Hashable], batch_size: int
) -> list[list[int]]:
    """Indices of inputs in batches of similar length; all of a batch have the same key."""
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    batches = []
    for members in groups.values():
        members.sort(key=lambda i: prepared[i].num_tokens)
        batches += [
            members[start : start + batch_size] for start in range(0, len(members), batch_size)
        ]
    return batches


def collate(
    items: Sequence[Prepared], *, pad_id: int, side: PaddingSide, dtype: torch.dtype, device: Any
) -> dict[str, Tensor]:
    """Keyword arguments of a forward: one padded batch; `dtype` is that of pixels.

    Either all items have pixels or none.
    """
    width = max(item.num_tokens for item in items)
    batch = {}
    for name in items[0].tokens:
        fill = pad_id if name == "input_ids" else 0
        padded = [_padded(item.tokens[name], width, side, fill) for item in items]
        batch[name] = torch.stack(padded).to(device)
    for name in items[0].images:
        parts = [item.images[name] for item in items]
        if parts[0].ndim >= 4 or name == "pixel_attention_mask":
            parts = _same_shape(parts)
        joined = torch.cat(parts)
        batch[name] = joined.to(device, dtype if joined.is_floating_point() else joined.dtype)
    return batch


def _padded(row_T: Tensor, width: int, side: PaddingSide, fill: int) -> Tensor:
    missing = width - len(row_T)
    return functional.pad(row_T, (missing, 0) if side == "left" else (0, missing), value=fill)


def _same_shape(parts: Sequence[Tensor]) -> list[Tensor]:
    """Images padded with zeros to one size; models know which part is real."""
    sizes = [max(lengths) for lengths in zip(*(part.shape[1:] for part in parts), strict=True)]
    done = []
    for part in parts:
        missing = [(0, size - n) for size, n in zip(sizes, part.shape[1:], strict=True)]
        flat = [number for pair in reversed(missing) for number in pair]
        done.append(functional.pad(part, flat))
    return done
