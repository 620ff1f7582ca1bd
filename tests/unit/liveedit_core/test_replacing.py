"""Corrections win: by content, by the key's test of the image and by the gate of the prompt."""

import io
from collections.abc import Iterator

import pytest
import torch
from PIL import Image
from torch import Tensor

from liveedit_core.builtin.backbone import JOINT
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.edited_model import EditedModel, open_model
from liveedit_core.inputs.images import decode_image
from liveedit_core.method import corrections, quantized, shortlist
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.method.shortlist import Search, found_as_stored
from liveedit_core.schema import EditRequest, Fact
from tests.tiny_backbone import (
    AS_WRITTEN,
    OUR_CONFIG,
    image,
    plain_convolutions,
    tiny_backbone,
    tiny_generator,
)

WHAT, CALLED = "What is shown here?", "What is this called?"


@pytest.fixture
def model() -> Iterator[EditedModel]:
    """Without a prompt gate: equal content alone corrects."""
    with plain_convolutions():
        yield EditedModel(
            tiny_backbone(),
            tiny_generator(OUR_CONFIG.with_changes(min_gate=0.0)),
            refine=AS_WRITTEN,
        )


def encoded(image_bytes: bytes, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    decode_image(image_bytes).save(buffer, kind, **options)
    return buffer.getvalue()


def with_exif(image_bytes: bytes) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    return encoded(image_bytes, "PNG", exif=exif)


@pytest.mark.parametrize(
    ("shown", "prompt"),
    [
        (encoded(image(0), "BMP"), WHAT),
        (with_exif(image(0)), WHAT),
        (image(0), f" {WHAT}  "),
        (image(0), WHAT.upper()),
        (encoded(image(0), "WEBP", lossless=True), "what  is\tshown here\uff1f"),
    ],
    ids=["other bytes", "metadata", "spaces", "case", "everything"],
)
def test_equal_pixels_and_an_equal_prompt_are_one_subject(
    model: EditedModel, shown: bytes, prompt: str
) -> None:
    first, other = model.edit_many([(image(0), WHAT, "A"), (image(1), WHAT, "C")])
    assert [item.supersedes for item in model.would_replace([(shown, prompt, "B")])] == [first]
    assert model.edits == (first, other), "a dry run changes nothing"
    second = model.edit(shown, prompt, "B")
    assert model.edits == (other, second)
    assert [(c.edit_id, c.supersedes, c.similarity) for c in model.corrections] == [
        (second, first, 1.0)
    ]
    assert model.edit(image(0), CALLED, "D") in model.edits
    assert len(model.edits) == 3, "without a gate, another wording is another question"


def test_later_wins_and_a_change_of_mind_too(model: EditedModel) -> None:
    facts = [(image(0), WHAT, target) for target in ("A", "B", "A")]
    first, second, third = model.edit_many(facts)
    assert {first, second, third} == set(model.edits), "ids that exist"
    assert first == third
    later = model.edit(*facts[1])
    assert model.edits == (later,)
    assert model.edit(*facts[0]) == first
    assert model.edits == (first,)
    model.remove(first)
    assert model.edits == (later,)
    model.remove(later)
    assert set(model.edits) == set(), "what was removed does not come back"
    assert model.corrections == ()


def test_two_targets_for_one_subject_give_ids_that_exist(model: EditedModel) -> None:
    ids = model.edit_many([(image(0), WHAT, "A"), (image(1), WHAT, "C"), (image(0), WHAT, "B")])
    assert ids[0] == ids[2] != ids[1]
    assert set(ids) == set(model.edits)
    assert [fact.target for key in ids if (fact := model.fact(key))] == ["B", "C", "B"]


@pytest.mark.parametrize(("gate", "num_left"), [(1e-9, 1), (1.0 - 1e-9, 2)])
def test_the_prompt_gate_says_what_means_the_same(
    gate: float, num_left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corrections, "LEAST_GATE", gate)
    with plain_convolutions():
        generator = tiny_generator(OUR_CONFIG.with_changes(min_gate=gate))
        model = EditedModel(tiny_backbone(), generator, refine=AS_WRITTEN)
        ids = model.edit_many([(image(0), WHAT, "A"), (image(0), CALLED, "B")])
        assert len(set(ids)) == len(model.edits) == num_left
        again = EditedModel(tiny_backbone(), generator, refine=AS_WRITTEN)
        again.edit(image(0), WHAT, "A")
        assert again.edit(image(0), CALLED, "B") == ids[1]
        assert again.edits == model.edits[-len(again.edits) :]
        same = EditedModel(tiny_backbone(), generator, refine=AS_WRITTEN)
        same.edit_many([(image(0), WHAT, "A"), (image(0), CALLED, "A")])
        assert len(same.edits) == 2, "the same answer in other words corrects nothing"
        apart = EditedModel(tiny_backbone(), generator, refine=AS_WRITTEN)
        apart.edit_many([(image(0), "Who owns it?", "A"), (image(0), "Who made it?", "B")])
        assert len(apart.edits) == 2, "another question"


def test_images_of_held_edits_are_found_as_questions_find_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In int8, and so are the same as in float32."""
    monkeypatch.setattr(corrections, "LEAST_GATE", 1e-9)
    compared = []

    def as_stored(search: Search, features_NK: Tensor) -> Tensor:
        compared.append(len(features_NK))
        return found_as_stored(search, features_NK)

    monkeypatch.setattr(shortlist, "found_as_stored", as_stored)
    corrected = []
    for least in (1, 100):
        monkeypatch.setattr(quantized, "LEAST_EXPERTS", least)
        with plain_convolutions():
            generator = tiny_generator(OUR_CONFIG.with_changes(min_gate=1e-9))
            model = EditedModel(tiny_backbone(), generator, refine=AS_WRITTEN)
            model.edit_many([(image(number), WHAT, "A") for number in range(4)])
            compared.clear()
            model.edit(image(2), CALLED, "B")
        assert max(compared) == (1 if least == 1 else 4)
        corrected.append([item.supersedes for item in model.corrections])
    assert corrected[0] == corrected[1]
    assert len(corrected[0]) == 1


def test_facts_of_stored_experts_come_along(model: EditedModel) -> None:
    request = EditRequest(image_bytes=image(0), prompt=WHAT, target="A")
    model.edit_many([request])

    class Log:
        def facts_of(self, edit_ids: object) -> dict[str, Fact]:
            fact = Fact(prompt=WHAT, target="A", subject_id=request.subject_id)
            return {request.edit_id: fact}

        def images_of(self, edit_ids: object) -> dict[str, bytes]:
            return {request.edit_id: request.image_bytes or b""}

    stored = model.editor.repository
    known = ExpertRepository(**{**vars(stored), "fact_source": Log()})
    again = EditedModel(model.editor.backbone, model.editor.generator, known, refine=AS_WRITTEN)
    second = again.edit(image(0), WHAT, "B")
    assert again.edits == (second,)


@pytest.mark.slow
@pytest.mark.skipif(not JOINT.exists(), reason="the built-in backbone has not been trained yet")
def test_a_trained_key_knows_wordings_and_compressed_images() -> None:
    case, other = load_builtin_cases("validation")[:2]
    shown = encoded(case.edit.image_bytes or b"", "PNG")
    with open_model() as model:
        first = model.edit(shown, WHAT, "red thing")
        elsewhere = model.edit(other.edit.image_bytes, WHAT, "blue thing")
        second = model.edit(shown, CALLED, "green thing")
        assert model.edits == (elsewhere, second)
        assert model.corrections[0].supersedes == first
        assert 0.5 <= model.corrections[0].similarity < 1.0
        third = model.edit(encoded(shown, "JPEG", quality=92), WHAT, "grey thing")
        assert model.edits == (elsewhere, third)


def test_a_correction_needs_more_than_the_gate_of_routing() -> None:
    similarities = torch.tensor([-1.0, 1.0, 3.0])
    passes = corrections.passes_gate(similarities, OUR_CONFIG.with_changes(min_gate=0.5))
    assert passes.tolist() == [False, False, True]
    passes = corrections.passes_gate(similarities, OUR_CONFIG.with_changes(min_gate=0.99))
    assert not passes.any()
