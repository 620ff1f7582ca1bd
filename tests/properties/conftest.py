"""The tiny backbone, once for all properties."""

from collections.abc import Iterator

import pytest

from liveedit_core.backbones.huggingface import HuggingFaceBackbone
from tests.tiny_backbone import plain_convolutions, tiny_backbone


@pytest.fixture(scope="session")
def backbone() -> Iterator[HuggingFaceBackbone]:
    with plain_convolutions():
        yield tiny_backbone()
