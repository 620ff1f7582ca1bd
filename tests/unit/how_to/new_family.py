"""A family as liveedit_core/backbones/README.md says, beside the package: a plugin of pytest.

ViP-LLaVA: a model like LLaVA that joins several layers of its image tower.
"""

from typing import Any

from liveedit_core.backbones.families import Family, PromptFormat, register_family
from tests import tiny_families

NAME = "vipllava"

# Step 2: where the parts are (the defaults), and the prompt format.
FAMILY = Family(
    prompt_format=PromptFormat(
        with_image="USER: {image}\n{prompt} ASSISTANT:", text_only="USER: {prompt} ASSISTANT:"
    )
)
register_family(NAME, FAMILY)


def tiny(tokenizer: Any) -> tuple[Any, Any]:
    """Step 1: a tiny random model with the family's processor."""
    import transformers as t

    llava, processor = tiny_families.FAMILIES["llava"].build(tokenizer)
    config = t.VipLlavaConfig(
        vision_config=llava.config.vision_config,
        text_config=llava.config.text_config,
        image_token_index=llava.config.image_token_index,
        vision_feature_layer=[-1, -2],
    )
    return t.VipLlavaForConditionalGeneration(config), processor


tiny_families.FAMILIES[NAME] = tiny_families.TinyFamily(tiny)
