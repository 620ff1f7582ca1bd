"""MiniGPT-4's published file, put between a BLIP-2 and a Llama."""

from pathlib import Path

import pytest
import torch

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.loading import load_backbone
from liveedit_core.backbones.minigpt4 import PROMPT_FORMAT, convert_minigpt4
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import ConfigError, InputError
from tests.other_backbones import minigpt4_parts, save_projection
from tests.tiny_backbone import image
from tests.tiny_families import model_and_processor, tiny_llama
from tests.unit.family_parts import WIDTH

SEEN = BackboneInput(prompt="What is shown here?", target="silver", image_bytes=image(1))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP-2 folder, a Llama folder and a projection file."""
    root = tmp_path_factory.mktemp("sources")
    minigpt4_parts(root)
    return root


def test_the_folder_is_loaded_like_any_other(sources: Path, tmp_path: Path) -> None:
    target = convert_minigpt4(
        sources / "projection.pth", sources / "blip2", sources / "llama", tmp_path / "new"
    )
    backbone = load_backbone(str(target), LoadOptions(edit_layer=1))
    assert backbone.reader.format == PROMPT_FORMAT
    (state,) = backbone.encode([SEEN])
    start, stop = state.image_span
    assert (start > 0, stop - start) == (True, 4)  # the image stands within the text
    assert (
        backbone.decode(
            backbone.reader.prepare(SEEN).tokens["input_ids"][: state.target_span[0]].tolist()
        )
        == "###Human: <Img></Img> What is shown here? ###Assistant:"
    )
    (answer,) = backbone.generate([SEEN], None, max_new_tokens=3)
    assert isinstance(answer, str)


def test_each_part_is_where_it_came_from(sources: Path, tmp_path: Path) -> None:
    target = convert_minigpt4(
        sources / "projection.pth", sources / "blip2", sources / "llama", tmp_path / "new"
    )
    model = load_backbone(str(target), LoadOptions(edit_layer=1)).model
    blip2, _ = model_and_processor("blip-2")
    llama, tokenizer = tiny_llama()
    assert torch.equal(model.query_tokens, blip2.query_tokens)
    for name in ("vision_model", "qformer"):
        own, theirs = (m.get_submodule(name).state_dict() for m in (model, blip2))
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[key], theirs[key]) for key in own)
    assert torch.equal(
        model.language_projection.weight,
        save_projection(tmp_path / "x")["llama_proj.weight"],
    )
    for key, value in llama.state_dict().items():
        assert torch.equal(model.language_model.state_dict()[key][: len(value)], value)
    assert len(model.get_input_embeddings().weight) == len(tokenizer) + 1
    ids = torch.tensor([tokenizer.encode("When was it first shown?")])
    with torch.no_grad():
        expected = llama(ids).logits
        found = model.language_model(ids).logits[..., : expected.shape[-1]]
    torch.testing.assert_close(found, expected)


def test_what_does_not_fit_is_refused(sources: Path, tmp_path: Path) -> None:
    folders = sources / "blip2", sources / "llama"
    save_projection(tmp_path / "wide.pth", 2 * WIDTH)
    with pytest.raises(InputError, match="another Llama"):
        convert_minigpt4(tmp_path / "wide.pth", *folders, tmp_path / "a")
    save_projection(tmp_path / "more.pth", WIDTH, extra=torch.zeros(1))
    with pytest.raises(InputError, match="expected llama_proj"):
        convert_minigpt4(tmp_path / "more.pth", *folders, tmp_path / "a")
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(InputError, match="plain tensors"):
        convert_minigpt4(tmp_path / "text.pth", *folders, tmp_path / "a")
    with pytest.raises(ConfigError, match="cannot be read"):
        convert_minigpt4(
            sources / "projection.pth", sources / "llama", sources / "llama", tmp_path / "a"
        )
    with pytest.raises(ConfigError, match="got blip-2 and blip-2"):
        convert_minigpt4(
            sources / "projection.pth", sources / "blip2", sources / "blip2", tmp_path / "a"
        )
    with pytest.raises(ConfigError, match="empty folder"):
        convert_minigpt4(sources / "projection.pth", *folders, sources / "blip2")
    assert not (tmp_path / "a").exists()
