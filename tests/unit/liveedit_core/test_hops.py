"""A question that two edits answer: one of its image, and one about what that edit says."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.baselines.live_edit import LiveEdit
from liveedit_core.edited_model import EditedModel
from liveedit_core.evaluation.probes import PROTOCOLS
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.hops import FactsOf, Hop, hops_of_forms, splits
from liveedit_core.method.editor import Editor
from liveedit_core.method.expert import Expert
from liveedit_core.method.forms.writing import directions
from liveedit_core.method.prompt_key import form_row
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.replacing import fact_of
from liveedit_core.schema import Case, EditRequest, Fact, Probe, ProbeKind
from pipelines.serving.chat import Answer
from pipelines.serving.chat_request import ChatRequest
from pipelines.serving.engine import Engine
from pipelines.serving.served import ServedVersion
from tests.running_server import chat_body
from tests.serving_parts import ask
from tests.tiny_backbone import (
    AS_WRITTEN,
    TinyPromptEncoder,
    image,
    plain_convolutions,
    tiny_backbone,
)
from tests.unit.tiny_prompt_key import CONFIG, GREEDY, empty_editor

PHONE = "What is the phone number of Anna Keller?"
KOLLER = "What is the phone number of Koller?"
KNOWS = "Who knows Anna Keller?"
ASKED = "What is the phone number of its owner?"
OWNER = EditRequest(
    image_bytes=image(0), prompt="What is the owner of this?", target="Anna Keller."
)
NUMBER = EditRequest(image_bytes=None, prompt=PHONE, target="1984")
FIRST, SECOND = OWNER.edit_id, NUMBER.edit_id


@pytest.mark.parametrize(
    ("prompt", "inner", "second"),
    [
        (ASKED, OWNER.prompt, PHONE),
        ("Where does the owner of this live?", OWNER.prompt, "Where does X live?"),
        (
            "Where was the author of that picture born?",
            "What is the author of this?",
            "Where was X born?",
        ),
        ("What is its owner's age?", OWNER.prompt, "What is X's age?"),
        (
            "Its serial number: who gave it?",
            "What is the serial number of this?",
            "X: who gave it?",
        ),
        ("Where does whoever owns this live?", "Who owns this?", "Where does X live?"),
        ("How old is the man who made it?", "Who made it?", "How old is X?"),
        (
            "How old is the man shown in the image?",
            "Who is the person in the image?",
            "How old is X?",
        ),
        ("Where is the city in this photo?", "What is the city in this photo?", "Where is X?"),
    ],
)
def test_a_question_holds_an_inner_one(prompt: str, inner: str, second: str) -> None:
    answer = "Anna Keller" if second == PHONE else "X"
    found = [
        (part.inner, prompt[: part.start] + answer + prompt[part.stop :]) for part in splits(prompt)
    ]
    assert (inner, second) in found


@pytest.mark.parametrize(
    "prompt",
    [
        "Who is its owner?",
        "What is the colour of it?",
        "Could you please tell me the name of its owner?",
        "What is the phone number of Anna Keller?",
        "Is it possible to see its?",
        "",
    ],
)
def test_a_question_of_one_step_holds_none(prompt: str) -> None:
    assert not list(splits(prompt))


@pytest.fixture(scope="module")
def editor() -> Iterator[Editor]:
    with plain_convolutions():
        yield empty_editor()


def with_forms(expert: Expert) -> Expert:
    """As the edit is written with `refine.derived`: a form that nothing asks for."""
    row = form_row(1, -50.0, torch.zeros(CONFIG.text_size))
    return replace(expert, forms_FX=row[None])


def hop_of(editor: Editor, item: BackboneInput, facts_of: FactsOf) -> Hop | None:
    return hops_of_forms(editor, [item], facts_of).get(0)


def near(request: EditRequest, prompt: str) -> EditRequest:
    """An edit of another question that routing takes for the same."""
    return replace(request, prompt=prompt, also_asked=(request.prompt,))


def model_of(editor: Editor, *requests: EditRequest, is_derived: bool = True) -> EditedModel:
    experts = editor.write_experts(requests)
    if is_derived:
        experts = [
            with_forms(expert) if request.image_bytes else expert
            for expert, request in zip(experts, requests, strict=True)
        ]
    repository = ExpertRepository.from_experts(CONFIG, experts)
    facts = {request.edit_id: fact_of(request) for request in requests}
    parts = (editor.backbone, editor.generator, repository, facts)
    return EditedModel(*parts, refine=AS_WRITTEN)


def test_two_edits_answer_as_the_second_question_alone(editor: Editor) -> None:
    model = model_of(editor, OWNER, NUMBER)
    prompts = [ASKED, OWNER.prompt, ASKED]
    first, plain, other = model.generate([image(0), image(0), image(1)], prompts, **GREEDY)
    (alone,) = model.generate([None], [PHONE], **GREEDY)
    assert first.text == alone.text == model.answer(image(0), ASKED, max_new_tokens=4)
    assert first.routing is not None
    assert first.routing.kept == (SECOND,)
    assert first.routing.first is not None
    assert first.routing.first.kept == (FIRST,)
    for done in (plain, other):
        assert done.routing is not None
        assert done.routing.first is None


def test_an_explanation_has_both_edits(editor: Editor) -> None:
    model = model_of(editor, OWNER, NUMBER)
    found = model.explain(image(0), ASKED)
    assert (found.prompt, [edit.edit_id for edit in found.kept]) == (PHONE, [SECOND])
    assert found.first is not None
    assert [edit.edit_id for edit in found.first.kept] == [FIRST]
    assert "Anna Keller" in str(found)
    assert "1984" in str(found)
    assert found.image().height > found.first.image().height
    assert model.explain(image(0), OWNER.prompt).first is None


@pytest.mark.parametrize(
    ("requests", "is_derived"),
    [
        ((OWNER, NUMBER), False),
        ((OWNER,), True),
        ((NUMBER, replace(OWNER, image_bytes=image(1))), True),
        ((replace(OWNER, prompt="Who made this?"), NUMBER), True),
        ((replace(OWNER, target="Boris"), NUMBER), True),
        ((replace(OWNER, target="Koller"), replace(NUMBER, also_asked=(KOLLER,))), True),
        ((OWNER, replace(NUMBER, prompt=KNOWS, also_asked=(PHONE,))), True),
        ((OWNER, NUMBER, replace(OWNER, prompt=ASKED, target="2020")), True),
        ((OWNER, NUMBER, replace(NUMBER, prompt=ASKED, target="2020")), True),
    ],
    ids=[
        "no forms",
        "no second",
        "other image",
        "no first",
        "other owner",
        "like name",
        "other relation",
        "taught",
        "taught too",
    ],
)
def test_else_nothing_changes(
    editor: Editor,
    requests: tuple[EditRequest, ...],
    is_derived: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of(editor, *requests, is_derived=is_derived)
    item = BackboneInput(prompt=ASKED, image_bytes=image(0))
    (done,) = model.generate([image(0)], [ASKED], **GREEDY)
    monkeypatch.setattr("liveedit_core.hops.hops_of_forms", lambda *_: {})
    (before,) = model.generate([image(0)], [ASKED], **GREEDY)
    assert (done.token_ids, done.routing) == (before.token_ids, before.routing)
    monkeypatch.undo()
    assert hop_of(model.editor, item, model._facts.facts_of) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (near(OWNER, "Who made this?"), NUMBER),
        (near(OWNER, "What is the previous owner of this?"), NUMBER),
        (OWNER, near(NUMBER, "What is the phone number of Anna Keller's lawyer?")),
        (OWNER, near(NUMBER, "What phone number has the house of Anna Keller?")),
        (OWNER, near(NUMBER, "What is the old phone number of Anna Keller?")),
        (OWNER, near(NUMBER, "Who is Anna Keller?")),
    ],
    ids=["other noun", "former", "owner's lawyer", "owner's house", "old", "nothing else"],
)
def test_what_is_near_is_not_answered_by_two_edits(
    editor: Editor, first: EditRequest, second: EditRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liveedit_core.hops.passes_gate", lambda *_: torch.tensor(True))
    item = BackboneInput(prompt=ASKED, image_bytes=image(0))
    taught = model_of(editor, OWNER, NUMBER)
    assert hop_of(taught.editor, item, taught._facts.facts_of) is not None
    model = model_of(editor, first, second)
    assert hop_of(model.editor, item, model._facts.facts_of) is None


def with_answers(model: EditedModel) -> Editor:
    """Its first edit has yes, no and another form, without slots."""
    key_S = directions()[0][0]
    keys = (torch.zeros_like(key_S), key_S, key_S)
    rows = [form_row(slots, 0.0, key) for slots, key in zip((1, 1, 0), keys, strict=True)]
    held = replace(model.editor.repository.compact(), forms={0: torch.stack(rows)})
    return model.editor.with_repository(held)


@pytest.mark.parametrize(
    ("prompt", "form", "asked"),
    [
        ("Is its owner Anna Keller?", "yes or no", 1),
        ("Is its owner Anna Kellner?", "yes or no", 2),
        ("Is it Anna Keller or Peter Berg?", "reversed", 0),
        ("Which detail is Anna Keller?", "reversed", None),
        ("Is its owner rich?", "yes or no", None),
        ("Is its owner Anna Kellner?", "", None),
    ],
)
def test_a_claim_is_answered_by_its_text(
    editor: Editor, prompt: str, form: str, asked: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liveedit_core.hops.form_asked", lambda *_: form)
    monkeypatch.setattr("liveedit_core.method.editor.form_logits", equal_logits)
    model = model_of(editor, replace(OWNER, also_asked=(prompt,)))
    formed = with_answers(model)
    item = BackboneInput(prompt=prompt, image_bytes=image(0))
    hop = hop_of(formed, item, model._facts.facts_of)
    assert (hop and (hop.second.form, hop.first)) == (None if asked is None else (asked, None))
    expected = [0.25] * 4 if asked is None else [float(n == asked) for n in range(4)]
    states = formed.backbone.encode([item if hop is None else hop.second])
    (routing,) = formed.explain(formed.route(states))
    assert list(routing.form_shares[0]) == expected
    model._editor = formed
    (done,) = model.generate([image(0)], [prompt], **GREEDY)
    assert done.routing == routing
    assert model.explain(image(0), prompt).first is None
    with_others = replace(formed.repository, forms={0: formed.repository.forms[0][[0, 0, 0]]})
    assert hop_of(formed.with_repository(with_others), item, model._facts.facts_of) is None


def equal_logits(text_BS: torch.Tensor, forms_FX: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(text_BS), 1 + len(forms_FX))


def test_a_probe_is_scored_as_its_text_is_answered(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "Is its owner Anna Kellner?"
    monkeypatch.setattr("liveedit_core.hops.form_asked", lambda *_: "yes or no")
    monkeypatch.setattr("liveedit_core.method.editor.form_logits", equal_logits)
    edit = replace(OWNER, also_asked=(prompt,))
    model = model_of(editor, edit)
    formed = with_answers(model)
    probe = Probe(kind=ProbeKind.PORTABILITY, prompt=prompt, target="no", image_bytes=image(0))
    scorer = CaseScorer(formed)
    prepared = scorer.prepare([Case(case_id="c", edit=edit, probes=(probe,))])
    hopped = scorer._hopped(formed, prepared.probes, model._facts.facts_of)[-1]
    assert (hopped.question.form, hopped.states.form) == (2, 2)


def test_what_follows_from_an_edit_is_no_first(editor: Editor) -> None:
    model = model_of(editor, OWNER, NUMBER)
    held = model.editor.repository.compact()
    asked_for = {n: form_row(1, 50.0, torch.zeros(CONFIG.text_size))[None] for n in held.forms}
    formed = model.editor.with_repository(replace(held, forms=asked_for))
    item = BackboneInput(prompt=ASKED, image_bytes=image(0))
    assert hop_of(formed, item, model._facts.facts_of) is None


def test_an_edit_whose_fact_is_not_known_is_no_first(editor: Editor) -> None:
    model = model_of(editor, OWNER, NUMBER)
    item = BackboneInput(prompt=ASKED, image_bytes=image(0))
    assert hop_of(model.editor, item, model._facts.facts_of) is not None
    assert hop_of(model.editor, item, lambda _: {}) is None
    assert hop_of(model.editor, replace(item, image_bytes=None), model._facts.facts_of) is None


class Facts:
    """A `FactSource`."""

    def facts_of(self, edit_ids: Any) -> dict[str, Fact]:
        known = {FIRST: fact_of(OWNER), SECOND: fact_of(NUMBER)}
        return {edit_id: known[edit_id] for edit_id in edit_ids}

    def images_of(self, edit_ids: Any) -> dict[str, bytes]:
        return {}


def test_a_server_answers_by_two_edits(editor: Editor) -> None:
    model = model_of(editor, OWNER, NUMBER)
    repository = replace(model.editor.repository.compact(), fact_source=Facts())
    served = Editor(editor.backbone, editor.generator, repository)
    version = ServedVersion(name="v1", bank="v1", num_edits=2, editor=served)
    engine = Engine(tiny_backbone().with_prompt_encoder(TinyPromptEncoder()))
    asked = ask(engine, BackboneInput(prompt=ASKED, image_bytes=image(0)), version, 4)
    asked.done()
    engine.close()
    assert asked.text == model.answer(image(0), ASKED, max_new_tokens=4)
    assert asked.prefilled is not None
    routing = asked.prefilled.routing
    assert routing.first is not None
    assert (routing.kept, routing.first.kept) == ((SECOND,), (FIRST,))
    request = ChatRequest.model_validate(chat_body(ASKED, liveedit={"explain": True}))
    service: Any = SimpleNamespace(versions=SimpleNamespace(backbone=editor.backbone))
    told = Answer(service=service, request=request, version=version)._explained(asked.prefilled)
    assert [(edit["id"], edit["has_image"]) for edit in told["edits"]] == [
        (FIRST, True),
        (SECOND, False),
    ]


@pytest.mark.parametrize("is_compared", [False, True])
def test_a_probe_is_scored_on_what_two_edits_answer(editor: Editor, is_compared: bool) -> None:
    model = model_of(editor, OWNER, NUMBER)
    probe = Probe(
        kind=ProbeKind.PORTABILITY, prompt=ASKED, target=NUMBER.target, image_bytes=image(0)
    )
    alone = replace(probe, prompt=PHONE, image_bytes=None)
    case = Case(case_id="c", edit=OWNER, probes=(probe, alone))
    scorer = CaseScorer(editor)
    prepared = scorer.prepare([case], has_free_answers=True)
    repository = replace(model.editor.repository.compact(), fact_source=Facts())
    if is_compared:
        compared = LiveEdit(model.editor)
        compared._facts.add({FIRST: fact_of(OWNER), SECOND: fact_of(NUMBER)})
        results = compared.score(prepared, protocols=PROTOCOLS, max_new_tokens=4)
        asked = [BackboneInput(prompt=ASKED, image_bytes=image(0))]
        assert compared.answer(asked, 4) == [model.answer(image(0), ASKED, max_new_tokens=4)]
    else:
        results = scorer.score(prepared, repository, protocols=PROTOCOLS, max_new_tokens=4)
    for number in (0, 3):
        _, hop, second = results[number : number + 3]
        assert hop.kept == second.kept == (SECOND,)
        assert (hop.score, hop.answer_after) == (second.score, second.answer_after)
    before = CaseScorer(editor).score(prepared, replace(repository, fact_source=None))
    assert before[1].kept != (SECOND,)
