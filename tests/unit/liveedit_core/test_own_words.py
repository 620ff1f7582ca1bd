"""A question in other words than the edit it keeps is asked in the edit's."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.baselines.lookup import Lookup
from liveedit_core.edited_model import EditedModel
from liveedit_core.evaluation.probes import PROTOCOLS
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.hops import hops_of
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.replacing import KnownFacts, fact_of
from liveedit_core.schema import Case, EditRequest, Probe, ProbeKind
from tests.tiny_backbone import AS_WRITTEN, image, plain_convolutions
from tests.unit.tiny_prompt_key import CONFIG, GREEDY, empty_editor

OTHER = "Whose is it?"
EDIT = EditRequest(
    image_bytes=image(0), prompt="Who owns this?", target="Anna Keller", also_asked=(OTHER,)
)
TEXTUAL = replace(EDIT, image_bytes=None)
FACTS = {edit.edit_id: fact_of(edit) for edit in (EDIT, TEXTUAL)}


@pytest.fixture(scope="module")
def editor() -> Iterator[Editor]:
    with plain_convolutions():
        yield empty_editor()


def repository_of(editor: Editor, *requests: EditRequest) -> ExpertRepository:
    return ExpertRepository.from_experts(CONFIG, editor.write_experts(requests))


def model_of(editor: Editor, *requests: EditRequest) -> EditedModel:
    facts = {request.edit_id: FACTS[request.edit_id] for request in requests}
    parts = (editor.backbone, editor.generator, repository_of(editor, *requests), facts)
    return EditedModel(*parts, refine=AS_WRITTEN)


@pytest.mark.parametrize("edit", [EDIT, TEXTUAL], ids=["image", "textual"])
def test_other_words_are_answered_as_the_own_ones(editor: Editor, edit: EditRequest) -> None:
    model, shown = model_of(editor, edit), edit.image_bytes
    other, own = model.generate([shown] * 2, [OTHER, edit.prompt], **GREEDY)
    assert other.token_ids == own.token_ids
    assert other.routing == own.routing
    assert model.explain(shown, OTHER).prompt == OTHER, "what was asked is explained"


def test_only_what_means_the_fact_itself_is_asked_in_its_words(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = editor.with_repository(repository_of(editor, EDIT))
    asked = BackboneInput(prompt=OTHER, image_bytes=image(0))
    facts_of = KnownFacts(FACTS).facts_of
    (hop,) = hops_of(edited, [asked], facts_of).values()
    assert hop.second == replace(asked, prompt=EDIT.prompt)
    for item in (hop.second, replace(asked, form=0), replace(asked, image_bytes=image(9))):
        assert not hops_of(edited, [item], facts_of)
    assert not hops_of(edited, [asked], lambda _: {}), "nobody knows its words"
    assert not hops_of(editor, [asked], facts_of), "no edits"
    of_yes_or_no = {OTHER}
    monkeypatch.setattr(
        "liveedit_core.hops.form_asked", lambda *a: "yes or no" if a[2] in of_yes_or_no else ""
    )
    assert not hops_of(edited, [asked], facts_of)
    of_yes_or_no.add(EDIT.prompt)
    assert hops_of(edited, [asked], facts_of)


def test_two_edits_that_a_question_may_mean_leave_it_as_it_is(editor: Editor) -> None:
    both = [EDIT, replace(EDIT, target="Boris")]
    edited = editor.with_repository(repository_of(editor, *both))
    facts = KnownFacts({edit.edit_id: fact_of(edit) for edit in both})
    assert not hops_of(edited, [BackboneInput(prompt=OTHER, image_bytes=image(0))], facts.facts_of)


def test_routing_runs_no_layer(editor: Editor) -> None:
    edited = editor.with_repository(repository_of(editor, EDIT, TEXTUAL))
    items = [BackboneInput(prompt=OTHER, image_bytes=image(n)) for n in range(2)]
    read, unread = editor.backbone.encode(items), edited.routing_states(items)
    assert all(state.hidden_TD.count_nonzero() == 0 for state in unread)
    first, second = edited.route(read), edited.route(unread)
    assert torch.equal(first.kept_BN, second.kept_BN)
    assert torch.equal(first.weights_BN, second.weights_BN)


class Counted:
    """A `FactSource` that counts."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []

    def facts_of(self, edit_ids: Any) -> dict[str, Any]:
        self.asked.append(set(edit_ids))
        return {edit_id: FACTS[edit_id] for edit_id in edit_ids}

    def images_of(self, edit_ids: Any) -> dict[str, bytes]:
        return {}


def test_a_probe_in_other_words_is_scored_as_the_edit(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And costs no forward of its own; lookup scores nothing better."""
    wording = Probe(
        kind=ProbeKind.TEXT_GENERALITY, prompt=OTHER, target=EDIT.target, image_bytes=image(0)
    )
    elsewhere = replace(wording, kind=ProbeKind.MODAL_GENERALITY, image_bytes=image(1))
    case = Case(case_id="c", edit=EDIT, probes=(wording, elsewhere))
    scorer = CaseScorer(editor)
    prepared = scorer.prepare([case], has_free_answers=True)
    source = Counted()
    repository = replace(repository_of(editor, EDIT), fact_source=source)
    encode = Mock(return_value=[])
    monkeypatch.setattr(editor.backbone, "encode", encode)
    results = scorer.score(prepared, repository, protocols=PROTOCOLS, max_new_tokens=4)
    monkeypatch.undo()
    assert all(call.args == ([],) for call in encode.call_args_list)
    assert source.asked == [{EDIT.edit_id}]
    for number in (0, 3):
        own, other, far = results[number : number + 3]
        assert own.kept == other.kept == (EDIT.edit_id,)
        assert (own.score, own.answer_after) == (other.score, other.answer_after)
        assert other.target == EDIT.target
        assert not far.kept
    lookup = Lookup(editor)
    lookup.teach([EDIT], editor.edit_states([EDIT]))
    found = lookup.score(prepared, protocols=PROTOCOLS, max_new_tokens=4)
    assert [result.kept for result in found] == [result.kept for result in results]
