"""How long one edit takes from the image's bytes on, when nothing about it is known."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from liveedit_core.backbones.image_tower import ImageFeatureCache
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.protocol import ComparedEditor
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import Case


def cold_edit_s(
    editor: ComparedEditor, backbone: VisionLanguageBackbone, cases: Sequence[Case]
) -> float:
    """Median over cases, one at a time: image and prompt encoded, the edit learned. The first case
    is not counted. The editor is restored."""
    seconds = []
    with _without_image_cache(backbone):
        for case in cases:
            start_s = time.perf_counter()
            editor.teach([case.edit], backbone.encode([edit_input(case.edit)]))
            seconds.append(time.perf_counter() - start_s)
    editor.restore()
    return statistics.median(seconds[1:] or seconds)


@contextmanager
def _without_image_cache(backbone: VisionLanguageBackbone) -> Iterator[None]:
    tower = backbone.image_tower
    if tower is None:
        yield
        return
    cached, tower.cache = tower.cache, ImageFeatureCache(0)
    try:
        yield
    finally:
        tower.cache = cached
