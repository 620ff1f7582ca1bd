"""Random layer states and experts of the tiny shape, for tests that need no backbone."""

import torch

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.expert import Expert
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.states import LayerStates
from tests.tiny_backbone import TINY_CONFIG


def random_states(
    seed: int,
    *,
    num_prompt: int = 5,
    num_target: int = 3,
    num_before: int = 0,
    config: GeneratorConfig = TINY_CONFIG,
) -> LayerStates:
    """States of an input with an image; `num_before` rows of text precede the image rows."""
    draw = torch.Generator().manual_seed(seed)
    image_end = num_before + config.num_image_tokens
    prompt_end = image_end + num_prompt
    width = config.hidden_size
    return LayerStates(
        hidden_TD=torch.randn(prompt_end + num_target, width, generator=draw),
        pyramid_E=torch.randn(config.visual_size, generator=draw),
        target_embeddings_OD=torch.randn(num_target, width, generator=draw),
        image_span=(num_before, image_end),
        prompt_span=(image_end, prompt_end),
        target_span=(prompt_end, prompt_end + num_target),
        target_ids_O=torch.randint(2, 300, (num_target,), generator=draw),
    )


def random_expert(seed: int, config: GeneratorConfig = TINY_CONFIG, rank: int = 0) -> Expert:
    """An expert of random numbers whose edit_id is the seed's; of the config's rank by default."""
    draw = torch.Generator().manual_seed(seed)
    features = (config.num_queries, config.module_dim)
    is_row = config.visual_filter == "runner_up"
    visual = (1, config.visual_rank) if is_row else features
    matrices = (rank or config.rank, config.hidden_size)
    return Expert(
        edit_id=f"edit-{seed}",
        visual_feature_QM=torch.randn(visual, generator=draw),
        prompt_feature_QM=torch.randn(features, generator=draw),
        down_RD=torch.randn(matrices, generator=draw) / 5,
        up_RD=torch.randn(matrices, generator=draw) / 5,
    )


def assert_same_experts(
    first: ExpertRepository, second: ExpertRepository, *, atol: float = 0.0
) -> None:
    """Equal edits, features and matrices; micro-batches of other sizes may round differently."""
    assert tuple(first.edit_ids) == tuple(second.edit_ids)
    for name in ("visual_features_NK", "prompt_features_NK", "ranks_N", "down_LD", "up_LD"):
        one, other = getattr(first, name), getattr(second, name)
        assert torch.allclose(one, other, rtol=0, atol=atol), name
