"""A backbone and a generator small enough for any test: same interfaces, a few kilobytes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liveedit_core.backbones.protocol import BackboneInput, RouteOnce
from liveedit_core.inputs.images import decode_image
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.states import LayerStates
from tests.small_rows import identity_of

HIDDEN_SIZE = 16
NUM_IMAGE_TOKENS = 2
EDIT_LAYER = 1
VOCABULARY = 40

CONFIG = GeneratorConfig(
    hidden_size=HIDDEN_SIZE,
    num_image_tokens=NUM_IMAGE_TOKENS,
    edit_layer=EDIT_LAYER,
    module_dim=8,
    num_queries=2,
    num_attention_heads=2,
    rank=2,
)

IDENTITY = identity_of(
    CONFIG,
    backbone_digest="tiny-backbone",
    generator_digest="tiny-generator",
    embedding_model="hash",
    embedding_size=6,
)
"""Of banks whose experts come from `TinyModels` and whose embeddings from `HashEmbedder`."""


class TinyBackbone:
    """A deterministic stand-in: rows are drawn from a hash of word or image."""

    digest = "tiny-backbone"
    device = torch.device("cpu")
    edit_layer = EDIT_LAYER
    hidden_size = HIDDEN_SIZE
    visual_size = 0
    has_image_views = False
    prompt_size = 0
    num_image_tokens = NUM_IMAGE_TOKENS
    end_id = 0
    encoding = "one row a word"

    def check_input(self, item: BackboneInput) -> None:
        """Takes everything."""

    def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        return [self._encode(item) for item in inputs]

    def _encode(self, item: BackboneInput) -> LayerStates:
        image = torch.zeros(0, HIDDEN_SIZE)
        if item.image_bytes is not None:
            decode_image(item.image_bytes)
            image = _rows(item.image_bytes, NUM_IMAGE_TOKENS)
        prompt = torch.cat([_rows(word.encode(), 1) for word in item.prompt.split()])
        words = item.target.split()
        target = torch.cat([torch.zeros(0, HIDDEN_SIZE), *(_rows(w.encode(), 1) for w in words)])
        ends = (len(image), len(image) + len(prompt), len(image) + len(prompt) + len(target))
        return LayerStates(
            hidden_TD=torch.cat([image, prompt, target]),
            pyramid_E=torch.zeros(0),
            target_embeddings_OD=target,
            image_span=(0, ends[0]),
            prompt_span=(ends[0], ends[1]),
            target_span=(ends[1], ends[2]),
            target_ids_O=torch.tensor([_number(w.encode()) % VOCABULARY for w in words]),
        )

    def target_logits(
        self, states: Sequence[LayerStates], hidden_BTD: Tensor, *, has_end: bool = False
    ) -> list[Tensor]:
        head_DV = _rows(b"head", HIDDEN_SIZE * VOCABULARY // HIDDEN_SIZE).T[:, :VOCABULARY]
        return [
            hidden_BTD[row, state.target_span[0] - 1 : state.target_span[1] - 1 + has_end] @ head_DV
            for row, state in enumerate(states)
        ]

    def generate(
        self, inputs: Sequence[BackboneInput], route: RouteOnce | None, *, max_new_tokens: int
    ) -> list[str]:
        states = self.encode(inputs)
        seen = [i for i, state in enumerate(states) if state.has_image]
        if route is not None and seen:
            route(seen, [states[i] for i in seen])
        return ["answer"] * len(inputs)

    def count_target_tokens(self, text: str) -> int:
        return self.count_tokens(text)

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(f"w{number}" for number in token_ids)


@dataclass(frozen=True)
class TinyModels:
    """Names the models above; picklable."""

    poisoned_prompt: str = ""
    """The experts of this prompt come out as NaN."""

    def load_backbone(self) -> TinyBackbone:
        return TinyBackbone() if not self.poisoned_prompt else PoisonedBackbone(self)

    def load_generator(self) -> LiveEditGenerator:
        torch.manual_seed(0)
        generator = LiveEditGenerator(CONFIG).eval().requires_grad_(False)
        generator.digest = "tiny-generator"
        return generator


class PoisonedBackbone(TinyBackbone):
    """Encodes one prompt to NaN."""

    def __init__(self, models: TinyModels) -> None:
        self._prompt = models.poisoned_prompt

    def _encode(self, item: BackboneInput) -> LayerStates:
        states = super()._encode(item)
        if item.prompt == self._prompt:
            states.hidden_TD[:] = float("nan")
        return states


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:4], "little")


def _rows(data: bytes, num_rows: int) -> Tensor:
    drawer = torch.Generator().manual_seed(_number(data))
    return torch.randn(num_rows, HIDDEN_SIZE, generator=drawer)
