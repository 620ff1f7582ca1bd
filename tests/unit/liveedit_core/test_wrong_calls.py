"""What a programmer gets wrong is an error of ours that says so, and changes nothing."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from liveedit_core.edited_model import EditedModel, open_model
from liveedit_core.errors import ConfigError, InputError, LiveEditError
from liveedit_core.inputs.rejects import RefusedInputError
from liveedit_core.method.config import checked_budget
from tests.tiny_backbone import AS_WRITTEN, OUR_CONFIG, image, tiny_backbone, tiny_generator

WHAT = "What is shown here?"
CONFIG = OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0)


@pytest.fixture(scope="module")
def model() -> EditedModel:
    model = EditedModel(tiny_backbone(), tiny_generator(CONFIG), refine=AS_WRITTEN)
    model.edit(image(0), WHAT, "a kettle")
    return model


@pytest.mark.parametrize(
    "facts", [[1, 2], 5, None, "abc", [None], [{}], [(image(1), WHAT)], (image(1), WHAT, "a cup")]
)
def test_what_is_no_edit(model: EditedModel, facts: Any) -> None:
    for call in (model.edit_many, model.would_replace):
        with pytest.raises(InputError, match=r"expected a list of edits|an edit is an EditRequest"):
            call(facts)
    assert len(model.edits) == 1


@pytest.mark.parametrize("edit_id", [5, None, b"x", ["a"], "a"])
def test_what_is_no_edit_cannot_be_removed(model: EditedModel, edit_id: Any) -> None:
    with pytest.raises(InputError, match="no such edits"):
        model.remove(*model.edits, edit_id)
    assert len(model.edits) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_new_tokens": -1},
        {"max_new_tokens": "x"},
        {"num_beams": 0},
        {"do_sample": True, "temperature": -1},
        {"no_argument": 1},
        {"num_return_sequences": 3},
        {"inputs": 4},
        {"input_ids": 3},
        {"pixel_values": 1},
        {"eos_token_id": "x"},
        {"generation_config": 3},
        {"custom_generate": "no/folder"},
    ],
    ids=str,
)
def test_arguments_that_cannot_be_used(model: EditedModel, arguments: Any) -> None:
    with pytest.raises(ConfigError, match=f"generate cannot use.*{next(iter(arguments))}"):
        model.generate([image(0)], [WHAT], **arguments)
    with pytest.raises(ConfigError, match="generate cannot use"):
        model.answer(image(0), WHAT, max_new_tokens=-1)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("a" * 5_000, "prompt has 5,000 characters; at most 2,000"), ("? ! " * 400, "at most 256")],
    ids=["characters", "tokens"],
)
def test_a_text_that_is_too_long(model: EditedModel, prompt: str, message: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: model.answer(image(0), prompt),
        lambda: model.generate([image(0), None], [WHAT, prompt], max_new_tokens=1),
        lambda: model.explain(image(0), prompt),
        lambda: model.edit(image(0), prompt, "a kettle"),
    ]
    for call in calls:
        with pytest.raises(RefusedInputError, match=message):
            call()


def test_a_fault_of_the_program_is_not_called_one_of_the_arguments(
    model: EditedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise ValueError("in the router")

    monkeypatch.setattr(type(model.editor), "router", lambda *arguments: broken)
    with pytest.raises(ValueError, match="in the router") as caught:
        model.generate([image(0)], [WHAT], max_new_tokens=2)
    assert not isinstance(caught.value, LiveEditError)


@pytest.mark.parametrize(
    ("images", "prompts"), [(5, [WHAT]), ([image(0)], WHAT), (None, None), ([], [WHAT])]
)
def test_questions_come_in_lists(model: EditedModel, images: Any, prompts: Any) -> None:
    with pytest.raises(InputError, match="expected a list of prompts"):
        model.generate(images, prompts)


@pytest.mark.parametrize("place", ["file/child", "file", "s3://bucket/key", "a\0b", "", 5, None])
def test_places_that_cannot_be_written(model: EditedModel, tmp_path: Path, place: Any) -> None:
    (tmp_path / "file").mkdir() if place == "file" else (tmp_path / "file").write_text("mine")
    where = tmp_path / place if str(place).startswith("file") else place
    calls: list[Callable[[Any], Any]] = [model.export]
    calls += [model.save] if place != "file" else []
    for call in calls:
        with pytest.raises(ConfigError, match=r"cannot be written|no path of a file or folder"):
            call(where)
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("backbone", 5), ("generator", 5), ("experts", [1]), ("options", "x"), ("refine", True)],
)
def test_a_model_is_not_opened_with_what_is_none(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} cannot be {re.escape(repr(value))}"):
        open_model(**{name: value})


@pytest.mark.parametrize("edit_id", [5, None, [], {}])
def test_what_is_no_edit_has_no_outcome_and_no_fact(model: EditedModel, edit_id: Any) -> None:
    assert model.outcome(edit_id) is None
    assert model.fact(edit_id) is None


def test_options_that_are_none() -> None:
    parts = tiny_backbone(), tiny_generator(CONFIG)
    with pytest.raises(ConfigError, match="refuse, commit"):
        EditedModel(*parts, weak="comit")  # type: ignore[arg-type]
    for budget in ("x", None, float("nan"), 0.7):
        with pytest.raises(ConfigError, match="false_activation must be"):
            checked_budget(budget)
