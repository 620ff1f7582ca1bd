"""Chunks keep the prompts of one image together; what is written is what the backbone gives."""

import numpy as np
import torch
from PIL import Image

from infra.cache.state_cache import MissingState, StateCache
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.image_tower import ImageTower
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.inputs.images import encoded
from pipelines.job.state_cache import image_chunks
from tests.tiny_backbone import image, plain_convolutions, tiny_backbone
from workers.state_encoder import StateEncoder


def test_prompts_about_one_image_share_a_chunk_and_nothing_is_lost() -> None:
    images = ["a", "b", "", "a", "c", "c", "", "b", "a", "d"]
    missing = [MissingState(position, name) for position, name in enumerate(images)]
    chunks = list(image_chunks(missing, size=4))
    assert sorted(position for chunk in chunks for position in chunk) == list(range(10))
    assert all(len(chunk) <= 4 for chunk in chunks)
    for name in "abcd":
        homes = [chunk for chunk in chunks if any(images[place] == name for place in chunk)]
        assert len(homes) == 1


def test_a_image_with_more_prompts_than_a_chunk_stays_whole() -> None:
    missing = [MissingState(position, "a") for position in range(5)]
    assert list(image_chunks(missing, size=2)) == [[0, 1, 2, 3, 4]]
    assert list(image_chunks([], size=2)) == []


def test_states_written_are_those_of_the_backbone(store: ObjectStore) -> None:
    backbone = tiny_backbone()
    encoder = StateEncoder(lambda: backbone)
    cache = StateCache(store, encoder.describe("float32"))
    prompts = ("What is shown here?", "Who made this entity, and when was it first shown?")
    inputs = [
        BackboneInput(prompt=prompt, target="raven", image_bytes=image(seed))
        for prompt in prompts
        for seed in (1, 2)
    ]
    for written in encoder.stream([inputs], cache.writer):
        assert written.num_states == 4
        assert cache.commit(written)
    for read, state in zip(cache.read(inputs), backbone.encode(inputs), strict=True):
        assert read is not None
        assert read.prompt_span == state.prompt_span
        assert torch.equal(read.target_ids_O, state.target_ids_O)
        torch.testing.assert_close(read.hidden_TD, state.hidden_TD, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(read.pyramid_E, state.pyramid_E, rtol=1e-3, atol=1e-3)


def test_pyramids_of_images_with_and_without_a_figure_are_equally_long() -> None:
    backbone = tiny_backbone()
    whole = backbone.image_tower
    assert whole is not None
    tower = ImageTower(
        whole.model, whole.processor, whole.path, levels=whole.levels, has_views=True
    )
    backbone.image_tower = tower
    page = Image.new("RGB", (300, 220), (250, 250, 250))
    for width, height, corner in ((120, 6, (20, 12)), (100, 80, (60, 60))):  # text and figure
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        page.paste(Image.fromarray(pixels), corner)
    images = [image(0), encoded(page)]
    with plain_convolutions():
        rows_BE = StateEncoder(lambda: backbone).pyramids(images)
        found = tower.features(images, 2)
    assert [len(found[one].pyramid_E) // tower.pyramid_size for one in images] == [1, 2]
    for row_E, one in zip(rows_BE, images, strict=True):
        assert torch.equal(row_E, found[one].pyramid_E[: tower.pyramid_size].half())
