"""What each routing feature may and may not depend on (Eq. 3, 4)."""

import pytest
import torch

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.features import FeatureExtractor, Features
from liveedit_core.states import Padded
from tests.tiny_backbone import TINY_CONFIG

LEARNED = TINY_CONFIG.with_changes(visual_query="learned")


def extractor(config: GeneratorConfig, *, has_sentinel: bool = True) -> FeatureExtractor:
    torch.manual_seed(0)
    return FeatureExtractor(config, has_sentinel=has_sentinel).eval().requires_grad_(False)


def padded(seed: int, count: int, width: int) -> Padded:
    draw = torch.Generator().manual_seed(seed)
    return Padded.pad([torch.randn(count, width, generator=draw)])


def features(config: GeneratorConfig, prompt_seed: int, image_seed: int) -> Features:
    prompt = padded(prompt_seed, 5, config.hidden_size)
    visual = padded(image_seed, config.num_image_tokens, config.hidden_size)
    result: Features = extractor(config)(prompt, visual)
    return result


@pytest.mark.parametrize("config", [TINY_CONFIG, LEARNED])
def test_the_image_changes_the_visual_feature_only(config: GeneratorConfig) -> None:
    first, second = features(config, 1, 2), features(config, 1, 3)
    assert not torch.allclose(first.visual_BQM, second.visual_BQM, atol=1e-3)
    assert torch.equal(first.prompt_BQM, second.prompt_BQM)
    assert first.sentinel_BQM is not None
    assert second.sentinel_BQM is not None
    assert torch.equal(first.sentinel_BQM, second.sentinel_BQM)


def test_after_the_prompt_the_visual_feature_depends_on_the_prompt() -> None:
    first, second = features(TINY_CONFIG, 1, 2), features(TINY_CONFIG, 7, 2)
    assert not torch.allclose(first.visual_BQM, second.visual_BQM, atol=1e-4)
    assert first.sentinel_BQM is not None
    assert second.sentinel_BQM is not None
    assert not torch.allclose(first.sentinel_BQM, second.sentinel_BQM, atol=1e-4)


def test_a_learned_query_does_not_look_at_the_prompt() -> None:
    first, second = features(LEARNED, 1, 2), features(LEARNED, 7, 2)
    assert torch.equal(first.visual_BQM, second.visual_BQM)
    assert not torch.allclose(first.prompt_BQM, second.prompt_BQM, atol=1e-3)


def test_the_sentinel_is_compressed_like_an_image() -> None:
    """Given the sentinel as an image, the visual path gives the threshold feature."""
    module = extractor(TINY_CONFIG)
    shown = module(padded(1, 5, TINY_CONFIG.hidden_size), Padded.pad([module.sentinel[0]]))
    torch.testing.assert_close(shown.visual_BQM, shown.sentinel_BQM)


def test_the_edit_side_has_no_sentinel() -> None:
    module = extractor(TINY_CONFIG, has_sentinel=False)
    assert "sentinel" not in module.state_dict()
    visual = padded(2, TINY_CONFIG.num_image_tokens, TINY_CONFIG.hidden_size)
    assert module(padded(1, 5, TINY_CONFIG.hidden_size), visual).sentinel_BQM is None
