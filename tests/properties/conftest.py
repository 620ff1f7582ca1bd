"""The tiny backbone, once for all properties."""

from collections.abc import Iterator

import pytest

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from tests.tiny_backbone import plain_convolutions, tiny_backbone


@pytest.fixture(scope="session")
def backbone() -> Iterator[VisionLanguageBackbone]:
    with plain_convolutions():
        yield tiny_backbone()
