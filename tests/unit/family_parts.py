"""What tiny random models of all families share: tokenizer, sizes, configurations of halves."""

from typing import Any

from tests.tiny_backbone import byte_tokenizer

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


def text_config(kind: str, tokenizer: Any, **more: Any) -> Any:
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


def vision_config(kind: str, **more: Any) -> Any:
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


def token_id(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))
