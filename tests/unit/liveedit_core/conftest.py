"""The tiny backbone and editors over it."""

from collections.abc import Iterator

import pytest

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from tests.tiny_backbone import TINY_CONFIG, plain_convolutions, tiny_backbone, tiny_generator


@pytest.fixture(scope="session")
def backbone() -> Iterator[VisionLanguageBackbone]:
    with plain_convolutions():
        yield tiny_backbone()


@pytest.fixture(scope="session")
def empty_editor(backbone: VisionLanguageBackbone) -> Editor:
    generator = tiny_generator(TINY_CONFIG)
    return Editor(backbone, generator, ExpertRepository.empty(generator.config))
