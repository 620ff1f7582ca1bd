"""The tiny backbone and editors over it."""

import pytest

from liveedit_core.backbones.huggingface import HuggingFaceBackbone
from liveedit_core.editor import Editor
from liveedit_core.repository import ExpertRepository
from tests.tiny_backbone import TINY_CONFIG, tiny_backbone, tiny_generator


@pytest.fixture(scope="session")
def backbone() -> HuggingFaceBackbone:
    return tiny_backbone()


@pytest.fixture(scope="session")
def empty_editor(backbone: HuggingFaceBackbone) -> Editor:
    generator = tiny_generator(TINY_CONFIG)
    return Editor(backbone, generator, ExpertRepository.empty(generator.config))
