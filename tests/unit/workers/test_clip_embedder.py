"""The built-in embedder computes what OpenCLIP's own model and transform compute, up to rounding:
its batch norms are folded."""

import io
import subprocess
import sys

import numpy as np
import torch
from PIL import Image

from liveedit_core.builtin.assembly import load_image_tower
from liveedit_core.parts import IMAGE_TOWER, default_cache_dir, fetch_part
from tests.integration.edit_job import needs_builtin_models
from workers.clip_embedder import load_clip_embedder

SIZES = ((8, 8), (300, 200), (129, 500), (37, 1000))


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@needs_builtin_models
def test_the_builtin_embedder_is_an_openclip_model() -> None:
    import open_clip

    ours = load_clip_embedder()
    theirs = open_clip.CLIP(
        embed_dim=ours.size,
        vision_cfg=open_clip.CLIPVisionCfg(
            image_size=128,
            timm_model_name="tf_efficientnet_lite0",
            timm_pool="avg",
            timm_proj="none",
        ),
        text_cfg=open_clip.CLIPTextCfg(context_length=1, vocab_size=2, width=8, heads=1, layers=1),
    ).eval()
    weights = fetch_part(IMAGE_TOWER, default_cache_dir() / "parts", print)
    trunk = theirs.visual.trunk
    trunk.load_state_dict(load_image_tower(weights, list(trunk.state_dict())))
    half = (0.5, 0.5, 0.5)
    transform = open_clip.image_transform(128, is_train=False, mean=half, std=half)
    for size in SIZES:
        image = noise(*size)
        with torch.inference_mode():
            expected = theirs.encode_image(transform(image)[None])
        unit = torch.nn.functional.normalize(expected, dim=-1).numpy()
        np.testing.assert_allclose(ours.embed([encoded(image)]), unit, atol=1e-6)
    norms = [part for part in ours._model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert not norms  # they are folded


def test_openclip_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, workers.clip_embedder; sys.exit('open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
