"""Tiny random models of every supported family, with their real processors; float32, seeded."""

from functools import lru_cache
from typing import Any

import torch

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from tests.tiny_backbone import byte_tokenizer, plain_convolutions, tiny_model, tiny_processor

FAMILY_NAMES = (
    "llava",
    "fast_vlm",
    "llava_onevision",
    "blip-2",
    "qwen2_vl",
    "qwen2_5_vl",
    "idefics3",
    "smolvlm",
    "paligemma",
    "minigpt4",
    "qwen3_vl",
    "qwen3_5",
    "llava_next",
    "internvl",
    "mistral3",
    "gemma3",
    "gemma4",
)
"""MiniGPT-4 is the layout that the converter writes: BLIP-2 with Llama."""
VARIABLE = (
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5",
    "llava_next",
    "internvl",
    "mistral3",
    "gemma4",
)
"""Families whose images have as many rows as their size asks for."""
EDIT_LAYER = 1
END, IMAGE = "<end>", "<image>"
SPECIAL = (
    END,
    "<bos>",
    "<pad>",
    IMAGE,
    "<video>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_break>",
    "<audio>",
    "<|video|>",
)
SIDE, PATCH, WIDTH = 28, 14, 32


def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer that knows the special tokens of all families."""
    return byte_tokenizer(
        345,
        SPECIAL,
        bos_token="<bos>",
        eos_token=END,
        pad_token="<pad>",
        additional_special_tokens=list(SPECIAL[3:]),
    )


def _text(kind: str, tokenizer: Any, **more: Any) -> Any:
    from transformers import AutoConfig

    fields = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return AutoConfig.for_model(kind, **(fields | more))


def _vision(kind: str, **more: Any) -> Any:
    from transformers import AutoConfig

    fields = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        "initializer_range": 0.3,
    }
    return AutoConfig.for_model(kind, **(fields | more))


def _id(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


def _square() -> dict[str, Any]:
    return {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False}


def _llava(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    config = t.LlavaConfig(
        vision_config=_vision("clip_vision_model"),
        text_config=_text("llama", tokenizer),
        image_token_index=_id(tokenizer, IMAGE),
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
        vision_config=_vision("siglip_vision_model", vision_use_head=False),
        text_config=_text("qwen2", tokenizer),
        image_token_index=_id(tokenizer, IMAGE),
        video_token_index=_id(tokenizer, "<video>"),
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
        vision_config=_vision("blip_2_vision_model"),
        qformer_config=t.Blip2QFormerConfig(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            encoder_hidden_size=WIDTH,
        ),
        text_config=_text(kind, tokenizer, **more),
        num_query_tokens=4,
        image_token_index=_id(tokenizer, IMAGE),
    )
    image_processor = t.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = t.Blip2Processor(image_processor, tokenizer, num_query_tokens=4)
    model = t.Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens)
    return model, processor


def _qwen(tokenizer: Any, version: str) -> tuple[Any, Any]:
    import transformers as t

    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = _text(f"qwen{version}_vl_text", tokenizer, rope_parameters=rope)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens: Any = dict(zip(names, (_id(tokenizer, token) for token in SPECIAL[5:9]), strict=True))
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


def _qwen3(tokenizer: Any, version: str) -> tuple[Any, Any]:
    """Qwen3-VL adds image features after its first layer too; Qwen3.5 mixes two kinds of layers."""
    import transformers as t

    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens: Any = dict(zip(names, (_id(tokenizer, token) for token in SPECIAL[5:9]), strict=True))
    vision: dict[str, Any] = {"depth": 2, "hidden_size": WIDTH, "num_heads": 2, "patch_size": PATCH}
    vision |= {"out_hidden_size": WIDTH, "intermediate_size": 64, "num_position_embeddings": 16}
    vision |= {"initializer_range": 0.15}
    more: dict[str, Any] = {"head_dim": 8, "rope_parameters": rope}
    if version == "vl":
        vision["deepstack_visual_indexes"] = [0]
        text = _text("qwen3_vl_text", tokenizer, **more)
        config: Any = t.Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)
        model: Any = t.Qwen3VLForConditionalGeneration(config)
    else:
        rope["partial_rotary_factor"] = 1.0
        heads = ("key_head_dim", "value_head_dim", "num_key_heads", "num_value_heads")
        sizes = {f"linear_{name}": number for name, number in zip(heads, (8, 8, 2, 4), strict=True)}
        kinds = ["linear_attention", "full_attention"] * 2
        text = _text("qwen3_5_text", tokenizer, layer_types=kinds, **more, **sizes)
        config = t.Qwen3_5Config(text_config=text, vision_config=vision, **tokens)
        model = t.Qwen3_5ForConditionalGeneration(config)
    size = {"shortest_edge": 28 * 28, "longest_edge": 8 * 28 * 28}
    processor = t.Qwen3VLProcessor(
        image_processor=t.Qwen2VLImageProcessor(size=size, patch_size=PATCH),
        tokenizer=tokenizer,
        video_processor=t.Qwen3VLVideoProcessor(),
    )
    return model, processor


def _named(tokenizer: Any, **names: str) -> Any:
    """The tokenizer with further special tokens by name, as those of some families have."""
    tokenizer._set_model_specific_special_tokens(names)
    return tokenizer


def _llava_next(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    points = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = t.LlavaNextConfig(
        vision_config=_vision("clip_vision_model"),
        text_config=_text("mistral", tokenizer, sliding_window=32),
        image_token_index=_id(tokenizer, IMAGE),
        image_grid_pinpoints=points,
    )
    square = {"height": SIDE, "width": SIDE}
    processor = t.LlavaNextProcessor(
        image_processor=t.LlavaNextImageProcessor(
            size=square, crop_size=square, image_grid_pinpoints=points
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return t.LlavaNextForConditionalGeneration(config), processor


def _internvl(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    _named(
        tokenizer,
        start_image_token="<start_of_image>",
        end_image_token="<end_of_image>",
        context_image_token=IMAGE,
        video_token="<video>",
    )
    config = t.InternVLConfig(
        vision_config=_vision("internvl_vision", layer_scale_init_value=1.0),
        text_config=_text("qwen2", tokenizer),
        image_token_id=_id(tokenizer, IMAGE),
        image_seq_length=1,
    )
    square = {"height": SIDE, "width": SIDE}
    processor = t.InternVLProcessor(
        image_processor=t.GotOcr2ImageProcessor(size=square, max_patches=4),
        tokenizer=tokenizer,
        video_processor=t.InternVLVideoProcessor(size=square),
        image_seq_length=1,
    )
    return t.InternVLForConditionalGeneration(config), processor


def _mistral3(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    config = t.Mistral3Config(
        vision_config=_vision("pixtral", head_dim=16, image_size=8 * PATCH),
        text_config=_text("mistral", tokenizer, head_dim=8),
        image_token_index=_id(tokenizer, IMAGE),
        tie_word_embeddings=False,
    )
    processor = t.PixtralProcessor(
        image_processor=t.PixtralImageProcessor(
            size={"longest_edge": 8 * PATCH}, patch_size={"height": PATCH, "width": PATCH}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        spatial_merge_size=2,
        image_token=IMAGE,
        image_break_token="<image_break>",
        image_end_token="<end_of_image>",
    )
    return t.Mistral3ForConditionalGeneration(config), processor


def _gemma3(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    image_id = _id(tokenizer, IMAGE)
    _named(tokenizer, image_token=IMAGE, boi_token="<start_of_image>", eoi_token="<end_of_image>")
    kinds = ["sliding_attention", "full_attention"] * 2
    config = t.Gemma3Config(
        vision_config=_vision("siglip_vision_model", vision_use_head=False),
        text_config=_text(
            "gemma3_text", tokenizer, head_dim=8, sliding_window=12, layer_types=kinds
        ),
        mm_tokens_per_image=4,
        image_token_index=image_id,
        boi_token_index=_id(tokenizer, "<start_of_image>"),
        eoi_token_index=_id(tokenizer, "<end_of_image>"),
    )
    image_processor = t.Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = t.Gemma3Processor(image_processor, tokenizer, image_seq_length=4)
    model = t.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.15)
    return model, processor


def _gemma4(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    image_id = _id(tokenizer, IMAGE)
    _named(
        tokenizer,
        image_token=IMAGE,
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        audio_token="<audio>",
        boa_token="<start_of_image>",
        eoa_token="<end_of_image>",
    )
    text = _text(
        "gemma4_text",
        tokenizer,
        head_dim=8,
        global_head_dim=16,
        sliding_window=12,
        layer_types=["sliding_attention", "full_attention"] * 2,
        final_logit_softcapping=30.0,
        use_bidirectional_attention="vision",
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=len(tokenizer),
    )
    vision = _vision(
        "gemma4_vision", num_key_value_heads=2, head_dim=16, patch_size=4, pooling_kernel_size=2
    )
    config = t.Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=None,
        image_token_id=image_id,
        video_token_id=_id(tokenizer, "<|video|>"),
        audio_token_id=_id(tokenizer, "<audio>"),
    )
    processor = t.Gemma4Processor(
        t.Gemma4AudioFeatureExtractor(),
        t.Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
        tokenizer,
        t.Gemma4VideoProcessor(),
    )
    return t.Gemma4ForConditionalGeneration(config), processor


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
        vision_config=_vision(f"{kind}_vision", image_size=56),
        text_config=_text("llama", tokenizer),
        image_token_id=_id(tokenizer, IMAGE),
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
        vision_config=_vision("siglip_vision_model", vision_use_head=False),
        text_config=_text("gemma", tokenizer, head_dim=8),
        image_token_index=_id(tokenizer, IMAGE),
        projection_dim=WIDTH,
        hidden_size=WIDTH,
    )
    return t.PaliGemmaForConditionalGeneration(config), processor


def model_and_processor(name: str, seed: int = 0) -> tuple[Any, Any]:
    """A model with random weights and its processor."""
    tokenizer = tiny_tokenizer()
    builders = {
        "llava": _llava,
        "llava_onevision": _onevision,
        "blip-2": _blip2,
        "minigpt4": lambda tokenizer: _blip2(tokenizer, "llama"),
        "qwen2_vl": lambda tokenizer: _qwen(tokenizer, "2"),
        "qwen2_5_vl": lambda tokenizer: _qwen(tokenizer, "2_5"),
        "idefics3": lambda tokenizer: _idefics(tokenizer, "idefics3"),
        "smolvlm": lambda tokenizer: _idefics(tokenizer, "smolvlm"),
        "paligemma": _paligemma,
        "qwen3_vl": lambda tokenizer: _qwen3(tokenizer, "vl"),
        "qwen3_5": lambda tokenizer: _qwen3(tokenizer, "5"),
        "llava_next": _llava_next,
        "internvl": _internvl,
        "mistral3": _mistral3,
        "gemma3": _gemma3,
        "gemma4": _gemma4,
    }
    with torch.random.fork_rng(), plain_convolutions():
        torch.manual_seed(seed)
        if name == "fast_vlm":
            return tiny_model(tokenizer), tiny_processor(tokenizer)
        model, processor = builders[name](tokenizer)
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
        return LlamaForCausalLM(_text("llama", tokenizer)).float().eval(), tokenizer
