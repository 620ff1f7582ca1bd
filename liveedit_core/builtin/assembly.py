"""Assembles the built-in backbone from its parts as a standard FastVLM checkpoint.

    image 128 x 128 -> EfficientNet-Lite0 -> 4 x 4 x 1280 -> projector -> 16 x 576
    "<image>" x 16, prompt tokens                                        -> SmolLM2-135M-Instruct

The image tower and the language model are pretrained and unchanged but for a small LoRA, merged
into the attention weights here; projector and LoRA are the *joint* (`assets/joint.safetensors`,
trained by `build/train_backbone.py`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liveedit_core.errors import IntegrityError

IMAGE_SIDE = 128
NUM_IMAGE_TOKENS = 16
VISUAL_SIZE = 1280
IMAGE_TOKEN = "<image>"
REPLACED_TOKEN = "<gh_stars>"
"""A special token SmolLM2 never saw in chat; its id is given to `IMAGE_TOKEN`."""
LORA_SCALE = 2.0


def make_config(image_token_index: int, text_config: dict[str, Any]) -> Any:
    """The FastVlmConfig of the built-in backbone."""
    from transformers import FastVlmConfig, LlamaConfig, TimmWrapperConfig

    fields: dict[str, Any] = {"num_classes": 0, "hidden_size": VISUAL_SIZE, "model_args": {}}
    vision = TimmWrapperConfig(architecture="tf_efficientnet_lite0", do_pooling=False, **fields)
    return FastVlmConfig(
        vision_config=vision,
        text_config=LlamaConfig(**text_config),
        image_token_index=image_token_index,
        image_seq_length=NUM_IMAGE_TOKENS,
        tie_word_embeddings=True,
    )


def load_tokenizer(gguf: Path) -> Any:
    """SmolLM2's tokenizer, with `IMAGE_TOKEN` in place of an unused special token."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    original = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    text = original.backend_tokenizer.to_str()
    if f'"{REPLACED_TOKEN}"' not in text:
        raise IntegrityError(f"{gguf}: the tokenizer has no {REPLACED_TOKEN}; another file?")
    renamed = Tokenizer.from_str(text.replace(f'"{REPLACED_TOKEN}"', f'"{IMAGE_TOKEN}"'))
    return PreTrainedTokenizerFast(
        tokenizer_object=renamed,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=[IMAGE_TOKEN],
    )


def make_processor(tokenizer: Any) -> Any:
    """The processor: 128-pixel images scaled to [-1, 1], 16 image tokens each."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    image_processor = CLIPImageProcessor(
        size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=IMAGE_SIDE // 4,
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
    )


def load_language_model(gguf: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights (float32) and LlamaConfig fields of the unjoined language model."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    fields = model.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "transformers_version"):
        fields.pop(name, None)
    return dict(model.model.state_dict()), fields


def load_image_tower(path: Path, names: list[str]) -> dict[str, Tensor]:
    """ImageNet weights under timm's names: the tensors come in the same order."""
    weights = torch.load(path, weights_only=True, map_location="cpu")
    weights = weights.get("state_dict", weights)
    return dict(zip(names, weights.values(), strict=False))


def merge_lora(weights: dict[str, Tensor], joint: Mapping[str, Tensor]) -> None:
    """Add `LORA_SCALE * B @ A` of each adapted projection to the language model, in place."""
    for name, down in joint.items():
        if name.startswith("lora.") and name.endswith(".a"):
            target = name.removeprefix("lora.").removesuffix(".a") + ".weight"
            up = joint[name.removesuffix(".a") + ".b"]
            weights[target] = weights[target] + LORA_SCALE * up.float() @ down.float()


def assemble(gguf: Path, tower: Path, joint: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """Model (float32, eval) and processor, from SmolLM2 in GGUF and EfficientNet-Lite0's weights.

    `joint` holds `projector.linear_{1,2}.{weight,bias}` and `lora.<module>.{a,b}`; if it is empty,
    the projector is random.
    """
    from transformers import FastVlmForConditionalGeneration

    tokenizer = load_tokenizer(gguf)
    language, fields = load_language_model(gguf)
    config = make_config(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), fields)
    model = FastVlmForConditionalGeneration(config).float().eval()
    merge_lora(language, joint)
    model.model.language_model.load_state_dict(language)
    vision = model.model.vision_tower
    expected = vision.state_dict()
    pretrained = load_image_tower(tower, list(expected))
    if [t.shape for t in pretrained.values()] != [t.shape for t in expected.values()]:
        raise IntegrityError(f"{tower}: the tensors are not those of EfficientNet-Lite0")
    vision.load_state_dict(pretrained)
    projector = {
        name.removeprefix("projector."): tensor.float()
        for name, tensor in joint.items()
        if name.startswith("projector.")
    }
    if projector:
        model.model.multi_modal_projector.load_state_dict(projector)
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, make_processor(tokenizer)
