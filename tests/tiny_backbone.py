"""A tiny vision-language model with random weights and a real tokenizer, built in a second.

The same classes as the built-in backbone (FastVLM over EfficientNet-Lite0 and Llama), 64-pixel
images of 4 image rows, 4 decoder layers. Everything is float32 and seeded.
"""

import contextlib
import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from liveedit_core.backbones.image_tower import (
    ImageFeatureCache,
    ImageFeatures,
    ImageTower,
    PyramidLevel,
)
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.builtin.backbone import FAMILY
from liveedit_core.edited_model import EditedModel, Generation
from liveedit_core.inputs.images import decode_image
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS
from liveedit_core.method.config import GeneratorConfig, RefineSection
from liveedit_core.method.editor import Editor
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind

SIDE = 64
NUM_IMAGE_TOKENS = 4
HIDDEN_SIZE = 32
NUM_LAYERS = 4
PROMPT_SIZE = 64
EDIT_LAYER = 1
IMAGE_TOKEN = "<image>"
END_TOKEN = "<end>"
CORPUS = (
    "What is shown here? Name the thing in the picture. Who made this? When was it first shown?",
    "Which city does this come from? The opposite of hot is cold. The color of the sky is blue.",
    "silver kettle golden raven quiet harbor ancient lantern Anna Keller Boris Novak 1984 2020",
)
"""What the tokenizer is trained on; other text falls back to bytes."""


def byte_tokenizer(vocab_size: int, special: Sequence[str], **named: Any) -> Any:
    """A byte-level BPE tokenizer; `named` says what the special tokens are for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def tiny_tokenizer() -> Any:
    """One of 330 tokens."""
    return byte_tokenizer(
        330,
        (END_TOKEN, IMAGE_TOKEN),
        eos_token=END_TOKEN,
        pad_token=END_TOKEN,
        additional_special_tokens=[IMAGE_TOKEN],
    )


def tiny_model(tokenizer: Any, seed: int = 0) -> Any:
    """A FastVLM with random weights, large enough that inputs and layers matter."""
    from transformers import (
        FastVlmConfig,
        FastVlmForConditionalGeneration,
        LlamaConfig,
        TimmWrapperConfig,
    )

    fields: dict[str, Any] = {"num_classes": 0, "hidden_size": 1280, "model_args": {}}
    vision = TimmWrapperConfig(architecture="tf_efficientnet_lite0", do_pooling=False, **fields)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.15,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = FastVlmConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=NUM_IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FastVlmForConditionalGeneration(config).float().eval()
        settle_image_tower(model.model.vision_tower)
        for parameter in model.model.multi_modal_projector.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@torch.no_grad()
def settle_image_tower(tower: Any) -> None:
    """Let batch norms learn the statistics of noise; else random weights map every image to 0."""
    norms = [module for module in tower.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    tower.train()
    noise = torch.rand(16, 3, 8, 8) * 2 - 1
    tower(torch.nn.functional.interpolate(noise, size=(SIDE, SIDE)))
    tower.eval()


def tiny_processor(tokenizer: Any) -> Any:
    """Images of 64 pixels scaled to [-1, 1]."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    image_processor = CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=SIDE // 2,
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
    )


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """Convolve without oneDNN, which picks another algorithm for another batch size.

    A random image tower amplifies that rounding a few hundred times; a trained one does not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def is_plain() -> bool:
    """Whether convolutions are those of `plain_convolutions`."""
    return not bool(torch.backends.mkldnn.enabled)


class PlainFeatureCache(ImageFeatureCache):
    """Keeps plain convolutions only: those of oneDNN depend on the batch, so on earlier tests."""

    def get(self, image: bytes) -> ImageFeatures | None:
        return super().get(image) if is_plain() else None

    def put(self, image: bytes, features: ImageFeatures) -> None:
        if is_plain():
            super().put(image, features)


@lru_cache(maxsize=1)
def tiny_backbone() -> VisionLanguageBackbone:
    """The model behind the adapter; one for the whole test session, never altered."""
    tokenizer = tiny_tokenizer()
    model, processor = tiny_model(tokenizer), tiny_processor(tokenizer)
    levels = (
        PyramidLevel(module="timm_model.blocks.6", width=320, grid=2),
        PyramidLevel(module="", width=1280, grid=1),
    )
    tower = ImageTower(model, processor, levels=levels)
    tower.cache = PlainFeatureCache(tower.cache.max_bytes)
    return VisionLanguageBackbone(
        model,
        processor,
        edit_layer=EDIT_LAYER,
        digest="tiny",
        family=FAMILY,
        image_tower=tower,
        batch_size=4,
    )


@lru_cache(maxsize=1)
def tiny_without_tower() -> VisionLanguageBackbone:
    """The same model, which encodes images itself in each forward."""
    backbone = tiny_backbone()
    return VisionLanguageBackbone(
        backbone.model,
        backbone.processor,
        edit_layer=EDIT_LAYER,
        digest="tiny",
        family=FAMILY,
        batch_size=4,
    )


def whole_model(backbone: VisionLanguageBackbone, item: BackboneInput) -> Any:
    """Output of the uncut model on one teacher-forced input, with all hidden states."""
    ids = backbone.reader.prepare(item).tokens["input_ids"][None]
    pixels = {}
    if item.image_bytes is not None:
        images = [decode_image(item.image_bytes)]
        pixels = dict(backbone.processor.image_processor(images=images, return_tensors="pt"))
    with torch.no_grad():
        return backbone.model(input_ids=ids, **pixels, output_hidden_states=True, use_cache=False)


TINY_CONFIG = GeneratorConfig(
    hidden_size=HIDDEN_SIZE,
    num_image_tokens=NUM_IMAGE_TOKENS,
    edit_layer=EDIT_LAYER,
    module_dim=16,
    num_queries=2,
    num_attention_heads=4,
    rank=2,
)
"""The paper's method at the size of the tiny backbone."""

OUR_CONFIG = TINY_CONFIG.with_changes(
    gain=3.0,
    visual_source="tower_pyramid",
    visual_size=2560,
    visual_rank=24,
    num_sentinels=5,
    nearest_sentinels=2,
    soft_routing="prompt_and_visual",
    max_kept=3,
    visual_gate=0.5,
    visual_midpoint=0.2,
    other_image_midpoint=0.6,
    same_image_ratio=0.9,
    min_gate=0.02,
    num_target_positions=4,
    has_target_embeddings=True,
)
"""Every variant of ours switched on."""


AS_WRITTEN = RefineSection(mode="off")
"""A generator that was never trained writes weak edits."""


def tiny_generator(config: GeneratorConfig = TINY_CONFIG, seed: int = 0) -> LiveEditGenerator:
    """A generator with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = LiveEditGenerator(config)
        for name, parameter in generator.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    return generator.eval().requires_grad_(False)


@lru_cache(maxsize=64)
def image(seed: int) -> bytes:
    """A PNG of coloured blocks; another seed, another image."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def answers(
    editor: Editor, questions: Sequence[BackboneInput], max_new_tokens: int = MAX_TARGET_TOKENS
) -> list[Generation]:
    """Greedy answers of the edited model around an engine."""
    model = EditedModel(editor.backbone, editor.generator, editor.repository)
    return model.generate(
        [item.image_bytes for item in questions],
        [item.prompt for item in questions],
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )


PROMPTS = ("What is shown here?", "Who made this?", "Name the thing in the picture.")
TARGETS = ("silver kettle", "golden raven", "Anna Keller", "1984", "quiet harbor")


def request(seed: int) -> EditRequest:
    """An edit of its own image."""
    return EditRequest(
        image_bytes=image(seed),
        prompt=PROMPTS[seed % len(PROMPTS)],
        target=TARGETS[seed % len(TARGETS)],
    )


def question(seed: int) -> BackboneInput:
    """A question about an image of its own."""
    return BackboneInput(prompt=PROMPTS[seed % len(PROMPTS)], image_bytes=image(seed))


def case(seed: int) -> Case:
    """An edit with a probe of every kind."""
    edit = request(seed)
    here, elsewhere = edit.image_bytes, image(seed + 1000)
    rows: Sequence[tuple[ProbeKind, str, str, bytes | None]] = (
        (ProbeKind.TEXT_GENERALITY, "What is this called?", edit.target, here),
        (ProbeKind.MODAL_GENERALITY, edit.prompt, edit.target, elsewhere),
        (ProbeKind.TEXT_LOCALITY, "The opposite of hot is", "cold", None),
        (ProbeKind.MODAL_LOCALITY, "Which city does this come from?", "", image(seed + 2000)),
        (ProbeKind.IMAGE_SWAP_LOCALITY, edit.prompt, "raven", image(seed + 3000)),
        (ProbeKind.PROMPT_SWAP_LOCALITY, "When was it first shown?", "2020", here),
        (ProbeKind.PORTABILITY, "Who made this?", "Boris Novak", here),
    )
    probes = tuple(
        Probe(kind=kind, prompt=prompt, target=target, image_bytes=image)
        for kind, prompt, target, image in rows
    )
    return Case(case_id=f"case-{seed}", edit=edit, probes=probes, entity=f"entity {seed}")


class TinyPromptEncoder:
    """A direction drawn from a hash of each text."""

    identity = "tiny"

    def __init__(self, size: int = PROMPT_SIZE) -> None:
        self.size = size

    def rows(self, wordings: tuple[str, ...]) -> Tensor:
        return self.encode(wordings)

    def encode(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._row(text.strip()) for text in texts])

    def corrected(self, text: str) -> str:
        return text.replace("teh", "the")

    def _row(self, text: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
        drawn = torch.randn(self.size, generator=torch.Generator().manual_seed(seed))
        return functional.normalize(drawn, dim=-1)
