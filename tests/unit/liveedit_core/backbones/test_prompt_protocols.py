"""Under the protocol "paper" a prompt reaches the model as LiveEdit's authors feed it."""

from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from liveedit_core.backbones.families import paper_format
from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.loading import load_backbone, store_format
from liveedit_core.backbones.minigpt4 import PROMPT_FORMAT
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.state_source import StateIdentity
from tests.other_backbones import saved_family
from tests.tiny_backbone import image

ASKED = "Which tool is it? The answer is:"
SEEN = BackboneInput(prompt=ASKED, target="a plane", image_bytes=image(1))
TEXT = BackboneInput(prompt="Who built the boat?", target="Ann")


def loaded(folder: Path, protocol: str) -> VisionLanguageBackbone:
    options = LoadOptions(edit_layer=1).with_changes(prompt_protocol=protocol)
    return load_backbone(str(folder), options)


def saved(name: str, folder: Path) -> Path:
    """A checkpoint folder whose tokenizer starts texts with its bos token, as published ones do."""
    saved_family(name, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    return folder


def written(backbone: VisionLanguageBackbone, item: BackboneInput) -> str:
    """The whole input as text, image tokens as one "<image>"."""
    ids = backbone.reader.prepare(item).tokens["input_ids"].tolist()
    marked = [
        i for n, i in enumerate(ids) if i != backbone.reader.image_token_id or i != ids[n - 1]
    ]
    return str(backbone.tokenizer.decode(marked, skip_special_tokens=False))


@pytest.mark.parametrize(
    ("name", "with_image"),
    [
        ("llava", "<bos><image>\nWhich tool is it? The answer is: a plane"),
        ("blip-2", "<image><bos>Which tool is it? The answer is: a plane"),
        ("minigpt4", "<bos><image>\nWhich tool is it? The answer is: a plane"),
    ],
)
def test_raw_prompts_of_the_papers_backbones(tmp_path: Path, name: str, with_image: str) -> None:
    folder = saved(name, tmp_path)
    if name == "minigpt4":
        store_format(folder, PROMPT_FORMAT)  # as the converter does
    backbone = loaded(folder, "paper")
    assert written(backbone, SEEN) == with_image
    assert written(backbone, TEXT) == "<bos>Who built the boat? Ann"
    assert written(loaded(folder, "chat"), SEEN) != with_image


def test_states_and_experts_of_both_protocols_never_mix(tmp_path: Path) -> None:
    folder = saved("llava", tmp_path)
    chat, paper = (loaded(folder, protocol) for protocol in ("chat", "paper"))
    assert chat.digest == load_backbone(str(folder), LoadOptions(edit_layer=1)).digest
    assert chat.digest != paper.digest
    ids = {StateIdentity.of(item, "float32").state_id(TEXT) for item in (chat, paper)}
    assert len(ids) == 2


def test_families_without_added_words_keep_their_format(tmp_path: Path) -> None:
    backbone = loaded(saved("qwen2_vl", tmp_path), "paper")
    assert backbone.reader.format == backbone.family.prompt_format
    assert paper_format(backbone.model.config, backbone.tokenizer) == backbone.reader.format
