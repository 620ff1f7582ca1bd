"""The tiny backbone on the GPU of `fake_cuda.fake_gpu`."""

import copy

from liveedit_core.backbones.image_tower import ImageTower
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.builtin.backbone import FAMILY
from liveedit_core.method.config import GeneratorConfig
from tests.tiny_backbone import TinyPromptEncoder, tiny_backbone


def tiny_backbone_on(device: str, config: GeneratorConfig) -> VisionLanguageBackbone:
    """A copy of the tiny backbone with the pyramids of a generator."""
    backbone = tiny_backbone()
    model, tower = copy.deepcopy(backbone.model).to(device), backbone.image_tower
    assert tower is not None
    return VisionLanguageBackbone(
        model,
        backbone.processor,
        edit_layer=backbone.edit_layer,
        digest=backbone.digest,
        family=FAMILY,
        image_tower=ImageTower(
            model,
            backbone.processor,
            levels=tower.levels,
            has_views=config.has_image_views,
            cache_bytes=0,
        ),
        prompt_encoder=TinyPromptEncoder() if config.prompt_size else None,
        batch_size=backbone.batch_size,
    )
