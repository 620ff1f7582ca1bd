"""The edited model as a library: any request, in batches and threads, and no trace left."""

import copy
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from liveedit_core.edited_model import EditedModel
from liveedit_core.errors import ConfigError, InputError, IntegrityError, RepositoryMismatchError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.model_folder import read_model
from tests.tiny_backbone import (
    AS_WRITTEN,
    OUR_CONFIG,
    TINY_CONFIG,
    image,
    plain_convolutions,
    tiny_backbone,
    tiny_generator,
)
from tests.tiny_families import family_backbone

WHAT = "What is shown here?"
IMAGES: tuple[bytes | None, ...] = (image(0), None, image(1))
PROMPTS = (WHAT, "The opposite of hot is", "Who made this?")
QUESTIONS = tuple(zip(IMAGES, PROMPTS, strict=True))
GREEDY: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}


@pytest.fixture(scope="module", params=["builtin", "qwen2_vl"])
def backbone(request: pytest.FixtureRequest) -> Iterator[Any]:
    with plain_convolutions():
        yield tiny_backbone() if request.param == "builtin" else family_backbone(request.param)


def config_of(backbone: Any) -> GeneratorConfig:
    if backbone.visual_size:
        return OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0)
    rows = backbone.num_image_tokens
    return TINY_CONFIG.with_changes(gain=200.0, num_image_tokens=rows, has_hard_filter=False)


def edited(backbone: Any, number: int = 3) -> EditedModel:
    model = EditedModel(backbone, tiny_generator(config_of(backbone)), refine=AS_WRITTEN)
    model.edit_many([(image(i), WHAT, f"entity {i}") for i in range(number)])
    return model


def own_tokens(backbone: Any, image: bytes | None, prompt: str, **arguments: Any) -> list[Any]:
    """What transformers itself generates for one prompt."""
    from liveedit_core.backbones.protocol import BackboneInput

    (batch,) = backbone.generation_batches([BackboneInput(prompt=prompt, image_bytes=image)])
    done = backbone.model.generate(**batch.arguments, pad_token_id=backbone.pad_id, **arguments)
    start = batch.arguments["input_ids"].shape[1]
    return [[i for i in row if i not in backbone.end_ids] for row in done[:, start:].tolist()]


@pytest.mark.parametrize("arguments", [GREEDY, GREEDY | {"use_cache": False, "num_beams": 2}])
def test_without_edits_it_generates_as_transformers_does(
    backbone: Any, arguments: dict[str, Any]
) -> None:
    done = EditedModel(backbone, tiny_generator(config_of(backbone)), refine=AS_WRITTEN).generate(
        IMAGES, PROMPTS, **arguments
    )
    for one, shown, prompt in zip(done, IMAGES, PROMPTS, strict=True):
        assert one.routing is None
        assert [list(ids) for ids in one.token_ids] == own_tokens(
            backbone, shown, prompt, **arguments
        )


@pytest.mark.parametrize(
    "arguments",
    [GREEDY, GREEDY | {"use_cache": False}, GREEDY | {"num_beams": 3, "num_return_sequences": 2}],
    ids=["greedy", "no cache", "beams"],
)
def test_a_batch_answers_as_its_requests_do_alone(backbone: Any, arguments: dict[str, Any]) -> None:
    model = edited(backbone)
    together = model.generate(IMAGES, PROMPTS, **arguments)
    for one, shown, prompt in zip(together, IMAGES, PROMPTS, strict=True):
        (alone,) = model.generate([shown], [prompt], **arguments)
        assert one.token_ids == alone.token_ids
        assert len(one.texts) == arguments.get("num_return_sequences", 1)
    assert together[0].routing is not None
    assert together[0].routing.kept
    assert together[1].routing is None
    assert [list(ids) for ids in together[1].token_ids] == own_tokens(
        backbone, None, PROMPTS[1], **arguments
    )


def test_sampling_follows_the_seed(backbone: Any) -> None:
    model = edited(backbone)
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        (done,) = model.generate(
            [image(0)], [WHAT], do_sample=True, max_new_tokens=5, num_return_sequences=3
        )
        drawn.append(done.token_ids)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1


def test_the_output_of_transformers_is_there_when_asked_for(backbone: Any) -> None:
    options = GREEDY | {"return_dict_in_generate": True, "output_logits": True}
    (done,) = edited(backbone).generate([image(0)], [WHAT], **options)
    assert done.details.logits[0][done.row].argmax().item() == done.token_ids[0][0]


def test_an_edit_can_be_replaced_and_taken_back(backbone: Any) -> None:
    model = EditedModel(backbone, tiny_generator(config_of(backbone)), refine=AS_WRITTEN)
    before = model.generate(IMAGES, PROMPTS, **GREEDY)
    first = model.edit(image(0), WHAT, "silver kettle")
    assert model.edit(image(0), WHAT, "silver kettle") == first
    assert model.edits == (first,)
    second = model.edit(image(0), WHAT, "golden raven")
    assert model.edits == (second,)
    fact = model.fact(second)
    assert fact is not None
    assert fact.target == "golden raven"
    assert model.fact(first) is None
    with pytest.raises(InputError, match="no such edits"):
        model.remove(second, first)
    assert model.edits == (second,)
    model.remove(second)
    assert model.edits == (first,), "what it replaced answers again"
    model.remove(first)
    assert set(model.edits) == set()
    after = model.generate(IMAGES, PROMPTS, **GREEDY)
    assert [g.token_ids for g in after] == [g.token_ids for g in before]


def test_what_cannot_be_taught_changes_nothing(backbone: Any) -> None:
    model = edited(backbone, 1)
    with pytest.raises(InputError):
        model.edit_many([(image(7), WHAT, "raven"), (b"no image", WHAT, "raven")])
    with pytest.raises(InputError):
        model.edit(image(7), "", "raven")
    assert len(model.edits) == 1
    with pytest.raises(InputError, match="for each of them"):
        model.generate([None], ["Who?", "What?"])
    with pytest.raises(ConfigError, match="prefill_chunk_size"):
        model.generate([image(0)], [WHAT], prefill_chunk_size=2)


def test_it_can_be_saved_and_read_again(backbone: Any, tmp_path: Path) -> None:
    model = edited(backbone)
    model.save(tmp_path)
    generator = tiny_generator(config_of(backbone))
    again = EditedModel(
        backbone, generator, *read_model(tmp_path, backbone.digest, generator), refine=AS_WRITTEN
    )
    one, other = (m.generate(IMAGES, PROMPTS, **GREEDY) for m in (model, again))
    assert [g.token_ids for g in one] == [g.token_ids for g in other]
    again.edit(image(0), WHAT, "another entity")  # the fact of the old one is known
    assert len(again.edits) == 3
    with pytest.raises(RepositoryMismatchError, match="backbone_digest"):
        read_model(tmp_path, "another", generator)
    (file,) = tmp_path.glob("experts-*.safetensors")
    file.write_bytes(b"short")
    with pytest.raises(IntegrityError, match=file.name):
        read_model(tmp_path, backbone.digest, generator)


def opened(backbone: Any, folder: Path) -> EditedModel:
    generator = tiny_generator(config_of(backbone))
    stored = read_model(folder, backbone.digest, generator)
    return EditedModel(backbone, generator, *stored, refine=AS_WRITTEN)


def saved_files(folder: Path) -> dict[str, int]:
    files = [file for file in folder.iterdir() if file.name != ".lock"]
    return {file.name: file.stat().st_mtime_ns for file in files}


def test_saving_again_adds_what_is_new(backbone: Any, tmp_path: Path) -> None:
    model = edited(backbone)
    model.save(tmp_path)
    first = saved_files(tmp_path)
    model.edit(image(11), WHAT, "one more")
    model.remove(model.edits[0])
    model.save(tmp_path)
    second = saved_files(tmp_path)
    assert {name for name in first if second[name] == first[name]} == set(first) - {"edits.json"}
    assert len(second) == len(first) + 2
    again = opened(backbone, tmp_path)
    assert again.edits == model.edits
    one, other = (m.generate(IMAGES, PROMPTS, **GREEDY) for m in (model, again))
    assert [g.token_ids for g in one] == [g.token_ids for g in other]
    again.edit(image(12), WHAT, "another one")
    again.save(tmp_path)
    assert len(saved_files(tmp_path)) == len(second) + 2
    assert opened(backbone, tmp_path).edits == again.edits
    again.remove(*again.edits[1:])
    again.save(tmp_path)
    assert len(saved_files(tmp_path)) == 3, "most rows did not answer, so it was written anew"
    assert opened(backbone, tmp_path).edits == again.edits
    again.edit(image(13), WHAT, "after that")
    again.save(tmp_path)
    assert len(saved_files(tmp_path)) == 5
    assert opened(backbone, tmp_path).edits == again.edits


def test_another_model_writes_a_folder_anew(backbone: Any, tmp_path: Path) -> None:
    """Equal edits may have been written in another way."""
    model, other = edited(backbone, 2), edited(backbone, 2)
    model.save(tmp_path)
    other.remove(other.edits[0])
    other.save(tmp_path)
    assert opened(backbone, tmp_path).edits == other.edits
    model.save(tmp_path)
    assert opened(backbone, tmp_path).edits == model.edits
    assert len(saved_files(tmp_path)) == 3


def test_a_folder_of_the_first_release_is_read_and_saved_again(
    backbone: Any, tmp_path: Path
) -> None:
    model = edited(backbone, 2)
    repository = model.editor.repository
    names = ("visual_features_NK", "prompt_features_NK", "ranks_N", "down_LD", "up_LD")
    tensors = {name: getattr(repository, name).clone() for name in names}
    save_file(tensors | {"traffic_MR": torch.eye(3)}, tmp_path / "experts.safetensors")
    facts = {key: asdict(fact) for key in model.edits if (fact := model.fact(key))}
    content = {
        "backbone_digest": backbone.digest,
        "generator_digest": tiny_generator(config_of(backbone)).digest,
        "edit_ids": model.edits,
        "facts": facts,
    }
    (tmp_path / "edits.json").write_text(json.dumps(content))
    for _ in range(2):
        again = opened(backbone, tmp_path)
        assert again.edits == model.edits
        assert [again.fact(key) for key in model.edits] == [model.fact(key) for key in model.edits]
        traffic = again.editor.repository.traffic_MR
        assert traffic is not None
        assert torch.equal(traffic, torch.eye(3))
        again.save(tmp_path)
    assert not (tmp_path / "experts.safetensors").exists()


def test_an_edit_that_another_object_removed_is_written_anew(backbone: Any, tmp_path: Path) -> None:
    model = edited(backbone, 3)
    model.save(tmp_path)
    first = model.edits[0]
    model.remove(first)
    model.save(tmp_path)
    again = opened(backbone, tmp_path)
    assert first in again._experts
    assert again.edit(image(0), WHAT, "entity 0") == first
    assert again.outcome(first) is not None
    assert set(again.edits) == {*model.edits, first}
    again.save(tmp_path)
    assert opened(backbone, tmp_path).edits == again.edits


def test_images_of_the_traffic_stay_with_the_model(backbone: Any, tmp_path: Path) -> None:
    generator = tiny_generator(config_of(backbone))
    opened = replace(ExpertRepository.empty(generator.config), traffic_MR=torch.eye(3)[:2])
    model = EditedModel(backbone, generator, opened, refine=AS_WRITTEN)
    model.edit(image(0), WHAT, "an entity")
    model.edit(image(0), WHAT, "another entity")
    model.remove(*model.edits)
    model.save(tmp_path)
    held, _ = read_model(tmp_path, backbone.digest, generator)
    assert held.traffic_MR is not None
    assert torch.equal(held.traffic_MR, torch.eye(3)[:2])


def test_the_budget_stays_with_the_model(backbone: Any, tmp_path: Path) -> None:
    generator = tiny_generator(config_of(backbone))
    empty = EditedModel(backbone, generator, refine=AS_WRITTEN, false_activation=0.1)
    empty.edit(image(0), WHAT, "an entity")
    empty.edit(image(0), WHAT, "another entity")
    empty.remove(*empty.edits)
    empty.save(tmp_path)
    held, _ = read_model(tmp_path, backbone.digest, generator)
    for model, budget in (
        (EditedModel(backbone, generator, held, refine=AS_WRITTEN), 0.1),
        (EditedModel(backbone, generator, held, refine=AS_WRITTEN, false_activation=0.3), 0.3),
    ):
        assert model.editor.repository.false_activation == budget
    edits = tmp_path / "edits.json"
    content = json.loads(edits.read_text())
    edits.write_text(json.dumps(content | {"false_activation": 2.0, "sha256": ""}))
    with pytest.raises(IntegrityError, match="above 0 and at most"):
        read_model(tmp_path, backbone.digest, generator)
    with pytest.raises(ConfigError, match="above 0 and at most"):
        EditedModel(backbone, generator, false_activation=1.0)


def test_the_backbone_is_untouched_during_and_after(backbone: Any) -> None:
    weights = copy.deepcopy(backbone.model.state_dict())

    def hooks() -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.model.modules()]

    before = hooks()
    model = edited(backbone)
    model.generate(IMAGES, PROMPTS, **GREEDY)
    with model, pytest.raises(ConfigError, match="prefill"):
        model.generate(IMAGES, PROMPTS, prefill_chunk_size=1)
    assert hooks() == before
    assert all(torch.equal(weights[k], v) for k, v in backbone.model.state_dict().items())
    with pytest.raises(ConfigError, match="closed"):
        model.answer(image(0), WHAT)


def test_threads_read_at_once_while_another_teaches(backbone: Any) -> None:
    """Each sees one state of the experts, and none sees another's question."""
    models = [
        edited(backbone),
        EditedModel(backbone, tiny_generator(config_of(backbone)), refine=AS_WRITTEN),
    ]
    expected = [[m.answer(i, p, max_new_tokens=4) for i, p in QUESTIONS] for m in models]
    taught = edited(backbone, 1)

    def ask(number: int) -> list[str]:
        model = models[number % 2]
        if number % 5 == 0:
            taught.edit(image(50 + number), WHAT, "raven")
        return [model.answer(image, prompt, max_new_tokens=4) for image, prompt in QUESTIONS]

    with ThreadPoolExecutor(4) as pool:
        for number, answers in enumerate(pool.map(ask, range(12))):
            assert answers == expected[number % 2]
    assert len(taught.edits) == 4


def test_an_explanation_agrees_with_the_routing_of_an_answer(backbone: Any) -> None:
    model = edited(backbone, 5)
    (done,) = model.generate([image(0)], [WHAT], **GREEDY)
    why = model.explain(image(0), WHAT)
    assert done.routing is not None
    assert tuple(edit.edit_id for edit in why.kept) == done.routing.kept
    assert [edit.weight for edit in why.kept] == pytest.approx(list(done.routing.weights), rel=1e-3)
    for edit, margin in zip(why.kept, done.routing.visual_margins, strict=True):
        assert edit.visual_similarity - why.threshold == pytest.approx(margin, abs=1e-3)
    assert why.num_edits == 5
    assert all(edit.fact is not None and edit.fact.target in str(why) for edit in why.edits)
    shown = why.image()
    plain = replace(why, edits=()).image()
    assert shown.size[0] > shown.size[1] > 0
    assert shown.tobytes() != plain.tobytes()


def test_an_explanation_of_an_empty_bank_keeps_nothing(backbone: Any) -> None:
    why = EditedModel(backbone, tiny_generator(config_of(backbone)), refine=AS_WRITTEN).explain(
        image(0), WHAT
    )
    assert why.kept == ()
    assert "0 of 0 edits kept" in str(why)
    assert why.image().size[0] > 0


def test_a_text_in_place_of_a_list_of_wordings_is_refused(backbone: Any) -> None:
    model = EditedModel(backbone, tiny_generator(config_of(backbone)), refine=AS_WRITTEN)
    with pytest.raises(InputError, match="also_asked must be a list of texts"):
        model.edit(image(0), WHAT, "a kettle", also_asked="Who made this?")
