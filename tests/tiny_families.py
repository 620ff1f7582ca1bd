"""Tiny random models of every supported family, with their real processors; float32, seeded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from tests.tiny_backbone import plain_convolutions, tiny_model, tiny_processor
from tests.unit.family_parts import (
    END,
    IMAGE,
    PATCH,
    SIDE,
    SPECIAL,
    WIDTH,
    text_config,
    tiny_tokenizer,
    token_id,
    vision_config,
)
from tests.unit.recent_families import gemma3, gemma4, internvl, llava_next, mistral3, qwen3

EDIT_LAYER = 1


def _square() -> dict[str, Any]:
    return {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False}


def _llava(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    config = t.LlavaConfig(
        vision_config=vision_config("clip_vision_model"),
        text_config=text_config("llama", tokenizer),
        image_token_index=token_id(tokenizer, IMAGE),
    )
    processor = t.LlavaProcessor(
        image_processor=t.CLIPImageProcessor(**_square()),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return t.LlavaForConditionalGeneration(config), processor


def _onevision(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    points = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
    config = t.LlavaOnevisionConfig(
        vision_config=vision_config("siglip_vision_model", vision_use_head=False),
        text_config=text_config("qwen2", tokenizer),
        image_token_index=token_id(tokenizer, IMAGE),
        video_token_index=token_id(tokenizer, "<video>"),
        image_grid_pinpoints=points,
    )
    processor = t.LlavaOnevisionProcessor(
        image_processor=t.LlavaOnevisionImageProcessor(
            size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=points
        ),
        tokenizer=tokenizer,
        video_processor=t.LlavaOnevisionVideoProcessor(),
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
    )
    return t.LlavaOnevisionForConditionalGeneration(config), processor


def _blip2(tokenizer: Any, kind: str = "opt") -> tuple[Any, Any]:
    import transformers as t

    more = {"ffn_dim": 64, "word_embed_proj_dim": WIDTH} if kind == "opt" else {}
    config = t.Blip2Config(
        vision_config=vision_config("blip_2_vision_model"),
        qformer_config=t.Blip2QFormerConfig(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            encoder_hidden_size=WIDTH,
        ),
        text_config=text_config(kind, tokenizer, **more),
        num_query_tokens=4,
        image_token_index=token_id(tokenizer, IMAGE),
    )
    image_processor = t.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = t.Blip2Processor(image_processor, tokenizer, num_query_tokens=4)
    model = t.Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens)
    return model, processor


def _qwen(tokenizer: Any, version: str) -> tuple[Any, Any]:
    import transformers as t

    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = text_config(f"qwen{version}_vl_text", tokenizer, rope_parameters=rope)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens: Any = dict(
        zip(names, (token_id(tokenizer, token) for token in SPECIAL[5:9]), strict=True)
    )
    if version == "2":
        vision: dict[str, Any] = {
            "depth": 2,
            "embed_dim": WIDTH,
            "hidden_size": WIDTH,
            "num_heads": 2,
        }
        config: Any = t.Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)
        model: Any = t.Qwen2VLForConditionalGeneration(config)
    else:
        vision = {"depth": 2, "hidden_size": WIDTH, "out_hidden_size": WIDTH, "num_heads": 2}
        vision |= {"intermediate_size": 64, "fullatt_block_indexes": [1]}
        config = t.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
        model = t.Qwen2_5_VLForConditionalGeneration(config)
    size = {"shortest_edge": 28 * 28, "longest_edge": 8 * 28 * 28}
    processor_class = t.Qwen2VLProcessor if version == "2" else t.Qwen2_5_VLProcessor
    processor = processor_class(
        image_processor=t.Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=t.Qwen2VLVideoProcessor(),
    )
    return model, processor


def _idefics(tokenizer: Any, kind: str) -> tuple[Any, Any]:
    """Both have one processor here: SmolVLM's own needs num2words, for videos alone."""
    import transformers as t

    config_class = t.Idefics3Config if kind == "idefics3" else t.SmolVLMConfig
    model_class: Any = (
        t.Idefics3ForConditionalGeneration
        if kind == "idefics3"
        else t.SmolVLMForConditionalGeneration
    )
    config = config_class(
        vision_config=vision_config(f"{kind}_vision", image_size=56),
        text_config=text_config("llama", tokenizer),
        image_token_id=token_id(tokenizer, IMAGE),
        scale_factor=2,
    )
    image_processor = t.Idefics3ImageProcessor(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 56}
    )
    return model_class(config), t.Idefics3Processor(image_processor, tokenizer, image_seq_len=4)


def _paligemma(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    image_processor: Any = t.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    image_processor.image_seq_length = (SIDE // PATCH) ** 2
    processor = t.PaliGemmaProcessor(image_processor, tokenizer)
    config = t.PaliGemmaConfig(
        vision_config=vision_config("siglip_vision_model", vision_use_head=False),
        text_config=text_config("gemma", tokenizer, head_dim=8),
        image_token_index=token_id(tokenizer, IMAGE),
        projection_dim=WIDTH,
        hidden_size=WIDTH,
    )
    return t.PaliGemmaForConditionalGeneration(config), processor


@dataclass(frozen=True)
class TinyFamily:
    """How the tests get a family, and what they expect of its images."""

    build: Callable[[Any], tuple[Any, Any]]
    """From a tokenizer to a model and its processor."""
    is_variable: bool = False
    """Whether images have as many rows as their size asks for."""
    line_ends: tuple[int, ...] = ()
    """Rows of a square image that end a line of its grid: learned, or a token's embedding."""


FAMILIES: dict[str, TinyFamily] = {
    "llava": TinyFamily(_llava),
    "fast_vlm": TinyFamily(lambda tokenizer: (tiny_model(tokenizer), tiny_processor(tokenizer))),
    "llava_onevision": TinyFamily(_onevision, is_variable=True, line_ends=(6, 9)),
    "blip-2": TinyFamily(_blip2),
    "qwen2_vl": TinyFamily(partial(_qwen, version="2"), is_variable=True),
    "qwen2_5_vl": TinyFamily(partial(_qwen, version="2_5"), is_variable=True),
    "idefics3": TinyFamily(partial(_idefics, kind="idefics3")),
    "smolvlm": TinyFamily(partial(_idefics, kind="smolvlm")),
    "paligemma": TinyFamily(_paligemma),
    # The layout that the converter writes: BLIP-2 with Llama.
    "minigpt4": TinyFamily(partial(_blip2, kind="llama")),
    "qwen3_vl": TinyFamily(partial(qwen3, version="vl"), is_variable=True),
    "qwen3_5": TinyFamily(partial(qwen3, version="5"), is_variable=True),
    "llava_next": TinyFamily(llava_next, is_variable=True, line_ends=(8, 13, 18, 23)),
    "internvl": TinyFamily(internvl, is_variable=True),
    "mistral3": TinyFamily(mistral3, is_variable=True, line_ends=(3, 7)),
    "gemma3": TinyFamily(gemma3),
    "gemma4": TinyFamily(gemma4, is_variable=True),
}
"""A family is one entry here, which every test of families takes up."""


def model_and_processor(name: str, seed: int = 0) -> tuple[Any, Any]:
    """A model with random weights and its processor."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(), plain_convolutions():
        torch.manual_seed(seed)
        model, processor = FAMILIES[name].build(tokenizer)
    return model.float().eval(), processor


@lru_cache(maxsize=2)
def family_backbone(name: str) -> VisionLanguageBackbone:
    """The model behind the adapter; never altered."""
    model, processor = model_and_processor(name)
    return VisionLanguageBackbone(
        model, processor, edit_layer=EDIT_LAYER, digest=name, batch_size=4
    )


def tiny_llama() -> tuple[Any, Any]:
    """A language model alone, whose tokenizer knows no image token."""
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    plain = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str().replace(IMAGE, "<img>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<bos>", eos_token=END)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return LlamaForCausalLM(text_config("llama", tokenizer)).float().eval(), tokenizer
