"""What the library takes as an image, and where generation stops."""

from pathlib import Path

import pytest
from PIL import Image

from liveedit_core.edited_model import EditedModel
from liveedit_core.errors import InputError
from liveedit_core.method.repository import ExpertRepository
from tests.tiny_backbone import PROMPTS, image, tiny_backbone, tiny_generator


def test_images_come_decoded_and_by_file_uris_too(tmp_path: Path) -> None:
    generator = tiny_generator()
    model = EditedModel(tiny_backbone(), generator, ExpertRepository.empty(generator.config))
    path = tmp_path / "Grüße 50%.png"
    path.write_bytes(image(1))
    expected = model.answer(image(1), PROMPTS[0])
    with Image.open(path) as decoded:
        assert model.answer(decoded, PROMPTS[0]) == expected
        assert model.answer(decoded.convert("CMYK"), PROMPTS[0])
    assert model.answer(path.as_uri(), PROMPTS[0]) == expected
    with pytest.raises(InputError, match="pass the image's bytes"):
        model.answer("s3://bucket/key.png", PROMPTS[0])
    with pytest.raises(InputError, match="got int"):
        model.answer(5, PROMPTS[0])  # type: ignore[arg-type]


def test_generation_stops_at_a_text() -> None:
    generator = tiny_generator()
    model = EditedModel(tiny_backbone(), generator, ExpertRepository.empty(generator.config))
    options = {"max_new_tokens": 16, "do_sample": False}
    (whole,) = model.generate([image(1)], [PROMPTS[0]], **options)
    stop = whole.text[2:4]
    (cut,) = model.generate([image(1)], [PROMPTS[0]], stop_strings=[stop], **options)
    assert cut.text == whole.text[: whole.text.index(stop) + len(stop)]
