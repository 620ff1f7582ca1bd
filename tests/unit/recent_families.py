"""Tiny random models of families since Qwen3-VL, with their real processors."""

from typing import Any

import torch

from tests.unit.family_parts import (
    IMAGE,
    PATCH,
    SIDE,
    SPECIAL,
    WIDTH,
    text_config,
    token_id,
    vision_config,
)


def qwen3(tokenizer: Any, version: str) -> tuple[Any, Any]:
    """Qwen3-VL adds image features after its first layer too; Qwen3.5 mixes two kinds of layers."""
    import transformers as t

    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens: Any = dict(
        zip(names, (token_id(tokenizer, token) for token in SPECIAL[5:9]), strict=True)
    )
    vision: dict[str, Any] = {"depth": 2, "hidden_size": WIDTH, "num_heads": 2, "patch_size": PATCH}
    vision |= {"out_hidden_size": WIDTH, "intermediate_size": 64, "num_position_embeddings": 16}
    vision |= {"initializer_range": 0.15}
    more: dict[str, Any] = {"head_dim": 8, "rope_parameters": rope}
    if version == "vl":
        vision["deepstack_visual_indexes"] = [0]
        text = text_config("qwen3_vl_text", tokenizer, **more)
        config: Any = t.Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)
        model: Any = t.Qwen3VLForConditionalGeneration(config)
    else:
        rope["partial_rotary_factor"] = 1.0
        heads = ("key_head_dim", "value_head_dim", "num_key_heads", "num_value_heads")
        sizes = {f"linear_{name}": number for name, number in zip(heads, (8, 8, 2, 4), strict=True)}
        kinds = ["linear_attention", "full_attention"] * 2
        text = text_config("qwen3_5_text", tokenizer, layer_types=kinds, **more, **sizes)
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


def llava_next(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    points = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = t.LlavaNextConfig(
        vision_config=vision_config("clip_vision_model"),
        text_config=text_config("mistral", tokenizer, sliding_window=32),
        image_token_index=token_id(tokenizer, IMAGE),
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


def internvl(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    _named(
        tokenizer,
        start_image_token="<start_of_image>",
        end_image_token="<end_of_image>",
        context_image_token=IMAGE,
        video_token="<video>",
    )
    config = t.InternVLConfig(
        vision_config=vision_config("internvl_vision", layer_scale_init_value=1.0),
        text_config=text_config("qwen2", tokenizer),
        image_token_id=token_id(tokenizer, IMAGE),
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


def mistral3(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    config = t.Mistral3Config(
        vision_config=vision_config("pixtral", head_dim=16, image_size=8 * PATCH),
        text_config=text_config("mistral", tokenizer, head_dim=8),
        image_token_index=token_id(tokenizer, IMAGE),
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


def gemma3(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    image_id = token_id(tokenizer, IMAGE)
    _named(tokenizer, image_token=IMAGE, boi_token="<start_of_image>", eoi_token="<end_of_image>")
    kinds = ["sliding_attention", "full_attention"] * 2
    config = t.Gemma3Config(
        vision_config=vision_config("siglip_vision_model", vision_use_head=False),
        text_config=text_config(
            "gemma3_text", tokenizer, head_dim=8, sliding_window=12, layer_types=kinds
        ),
        mm_tokens_per_image=4,
        image_token_index=image_id,
        boi_token_index=token_id(tokenizer, "<start_of_image>"),
        eoi_token_index=token_id(tokenizer, "<end_of_image>"),
    )
    image_processor = t.Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = t.Gemma3Processor(image_processor, tokenizer, image_seq_length=4)
    model = t.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.15)
    return model, processor


def gemma4(tokenizer: Any) -> tuple[Any, Any]:
    import transformers as t

    image_id = token_id(tokenizer, IMAGE)
    _named(
        tokenizer,
        image_token=IMAGE,
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        audio_token="<audio>",
        boa_token="<start_of_image>",
        eoa_token="<end_of_image>",
    )
    text = text_config(
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
    vision = vision_config(
        "gemma4_vision", num_key_value_heads=2, head_dim=16, patch_size=4, pooling_kernel_size=2
    )
    config = t.Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=None,
        image_token_id=image_id,
        video_token_id=token_id(tokenizer, "<|video|>"),
        audio_token_id=token_id(tokenizer, "<audio>"),
    )
    processor = t.Gemma4Processor(
        t.Gemma4AudioFeatureExtractor(),
        t.Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
        tokenizer,
        t.Gemma4VideoProcessor(),
    )
    return t.Gemma4ForConditionalGeneration(config), processor
