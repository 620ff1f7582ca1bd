"""Another runtime reads exported experts with PyTorch alone, and answers as the library does."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from liveedit_core import exported_experts, reference_reader
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.edited_model import EditedModel
from liveedit_core.errors import ConfigError
from liveedit_core.exported_experts import export_experts
from liveedit_core.method.editor import Editor
from liveedit_core.method.prompt_key import form_row
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.reference_reader import ExportedExperts
from liveedit_core.schema import EditRequest
from tests.tiny_backbone import (
    OUR_CONFIG,
    TINY_CONFIG,
    answers,
    case,
    image,
    plain_convolutions,
    tiny_backbone,
    tiny_generator,
)
from tests.tiny_families import EDIT_LAYER, family_backbone

QUESTIONS = [
    BackboneInput(prompt="What is shown here?", image_bytes=image(seed)) for seed in range(6)
]


def paper_editor(name: str, **changes: Any) -> Editor:
    backbone = family_backbone(name)
    fields = {"num_image_tokens": backbone.num_image_tokens, "gain": 2000.0, **changes}
    config = TINY_CONFIG.with_changes(**fields)
    editor = Editor(backbone, tiny_generator(config), ExpertRepository.empty(config))
    edits = [
        EditRequest(image_bytes=image(seed), prompt="What is shown here?", target="raven")
        for seed in range(4)
    ]
    return editor.with_edits(edits)


def exported(editor: Editor, folder: Path) -> ExportedExperts:
    file = folder / "experts.safetensors"
    model = EditedModel(editor.backbone, editor.generator, editor.repository)
    assert model.export(file) == len(editor.repository.held_ids)
    return ExportedExperts(str(file))


def answer_by_hook(experts: ExportedExperts, name: str, question: BackboneInput) -> tuple[str, int]:
    """A runtime of its own: transformers' model, and a hook on its layer l_e. Also the number of
    experts that were kept."""
    backbone = family_backbone(name)
    (state,) = backbone.encode([question])
    weights: list[Tensor] = []

    def add(layer: Any, inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if not weights:
            spans = (state.image_span, state.prompt_span)
            weights.append(experts.weights(*(hidden[0, slice(*span)] for span in spans)))
        edited = hidden + experts.residual(hidden, weights[0])
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    prepared = backbone.reader.prepare(question)
    inputs = {key: row_T[None] for key, row_T in prepared.tokens.items()} | prepared.images
    handle = backbone.decoder.layers[EDIT_LAYER].register_forward_hook(add)
    try:
        done = backbone.model.generate(
            **inputs, max_new_tokens=6, do_sample=False, pad_token_id=backbone.pad_id
        )
    finally:
        handle.remove()
    new = done[0, inputs["input_ids"].shape[1] :].tolist()
    kept = int((weights[0] > 0).sum())
    return backbone.decode([i for i in new if i not in backbone.end_ids]), kept


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
@pytest.mark.parametrize("visual_query", ["prompt", "learned"])
def test_the_reader_gives_the_answers_of_the_library(
    name: str, visual_query: str, tmp_path: Path
) -> None:
    with plain_convolutions():
        editor = paper_editor(name, visual_query=visual_query)
        experts = exported(editor, tmp_path)
        expected = answers(editor, QUESTIONS, 6)
        found = [answer_by_hook(experts, name, question) for question in QUESTIONS]
    assert [text for text, _ in found] == [one.text for one in expected]
    kept = [len(one.routing.kept) if one.routing else 0 for one in expected]
    assert [number for _, number in found] == kept
    assert max(kept) > 0
    unedited = editor.backbone.generate(QUESTIONS, None, max_new_tokens=6)
    assert [text for text, _ in found] != unedited


def test_other_routing_is_exported_whole_and_refused_by_the_reader(tmp_path: Path) -> None:
    with plain_convolutions():
        editor = Editor(
            tiny_backbone(), tiny_generator(OUR_CONFIG), ExpertRepository.empty(OUR_CONFIG)
        ).with_edits([case(seed).edit for seed in range(3)])
        with pytest.raises(ValueError, match=r"tower_pyramid.*routes as in the paper"):
            exported(editor, tmp_path)
    with safe_open(str(tmp_path / "experts.safetensors"), "pt") as opened:
        metadata, names = opened.metadata(), set(opened.keys())
        assert opened.get_tensor("down").shape[0] == int(opened.get_tensor("rank").sum())
    assert json.loads(metadata["edit_ids"]) == list(editor.repository.held_ids)
    assert float(metadata["offset"]) == editor.calibration.offset
    assert any(name.startswith("router.visual_key.") for name in names)


def test_an_empty_bank_cannot_be_exported(tmp_path: Path) -> None:
    editor = paper_editor("llava")
    empty = editor.repository.without(editor.repository.held_ids)
    with pytest.raises(ConfigError, match="no edit to export"):
        export_experts(tmp_path / "x", editor.generator, empty, "digest")


def test_what_has_no_place_in_the_layout_is_left_out_where_that_is_asked_for(
    tmp_path: Path,
) -> None:
    editor, file = paper_editor("llava"), tmp_path / "x"
    held = editor.repository
    forms = {n: form_row(1, 0.5, torch.zeros(4))[None] for n in (0, 2)}
    is_textual_N = torch.tensor([True, False, False, False])
    mixed = replace(held, is_textual_N=is_textual_N, forms=forms)
    with pytest.raises(ConfigError, match=r"an image \(1 here\).*of 2 edits here.*--partial"):
        export_experts(file, editor.generator, mixed, "digest")
    assert export_experts(file, editor.generator, mixed, "digest", is_partial=True) == 3
    with safe_open(str(file), "pt") as opened:
        edit_ids = json.loads(opened.metadata()["edit_ids"])
        ranks, down_LD = opened.get_tensor("rank").tolist(), opened.get_tensor("down")
    assert edit_ids == list(held.edit_ids[1:])
    whole = held.ranks_N.tolist()[1:]
    assert ranks == [whole[0], whole[1] - 1, whole[2]]
    second_RD = held.down_LD.split(held.ranks_N.tolist())[2]
    assert torch.equal(down_LD.split(ranks)[1], second_RD[:-1])


def test_the_reader_is_short_and_needs_nothing_of_ours() -> None:
    source = Path(reference_reader.__file__)
    assert len(source.read_text().splitlines()) <= 60
    code = f"import runpy, sys; runpy.run_path({str(source)!r}); print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & {"liveedit_core", "transformers", "pydantic"}
    assert exported_experts.FORMAT in (exported_experts.__doc__ or "")
