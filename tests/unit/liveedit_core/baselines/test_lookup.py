"""Lookup says the stored target where the router is sure, and otherwise what the backbone says."""

from dataclasses import replace

import pytest

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.live_edit import LiveEdit
from liveedit_core.baselines.lookup import Lookup
from liveedit_core.evaluation.probes import (
    FREE_GENERATION,
    PROTOCOLS,
    TEACHER_FORCED,
    PreparedCases,
    ProbeResult,
)
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.method.editor import NOTHING_KEPT, Editor, Routing, edit_input
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import ProbeKind
from tests.tiny_backbone import OUR_CONFIG, case, tiny_generator

CONFIG = OUR_CONFIG.with_changes(min_gate=0.0, visual_gate=0.0)
CASES = [case(seed) for seed in range(3)]
REQUESTS = [item.edit for item in CASES]


@pytest.fixture(scope="module")
def editor(backbone: VisionLanguageBackbone) -> Editor:
    return Editor(backbone, tiny_generator(CONFIG), ExpertRepository.empty(CONFIG))


@pytest.fixture(scope="module")
def prepared(editor: Editor) -> PreparedCases:
    return CaseScorer(editor).prepare(CASES, has_free_answers=True, max_new_tokens=8)


def sure(model: Lookup, monkeypatch: pytest.MonkeyPatch, weight: float) -> None:
    """The router finds the first edit for every question with an image."""
    routing = Routing(kept=(REQUESTS[0].edit_id,), weights=(weight,), visual_margins=(1.0,))
    monkeypatch.setattr(
        model, "routings", lambda states: [routing if s.has_image else NOTHING_KEPT for s in states]
    )


def taught(editor: Editor) -> Lookup:
    model = Lookup(editor)
    model.teach(REQUESTS, editor.backbone.encode([edit_input(item) for item in REQUESTS]))
    return model


def score(model: Lookup, prepared: PreparedCases) -> dict[tuple[str, int, str], ProbeResult]:
    results = model.score(prepared, protocols=PROTOCOLS, max_new_tokens=8)
    return {result.key: result for result in results}


def test_it_routes_as_liveedit_does(editor: Editor, prepared: PreparedCases) -> None:
    model, live_edit = taught(editor), LiveEdit(editor)
    live_edit.teach(REQUESTS, editor.backbone.encode([edit_input(item) for item in REQUESTS]))
    expected = live_edit.score(prepared, protocols=PROTOCOLS, max_new_tokens=1)
    found = score(model, prepared)
    assert any(result.kept for result in expected)
    for result in expected:
        assert found[result.key].kept == result.kept
        assert found[result.key].weights == pytest.approx(result.weights)


def test_the_stored_target_is_said_verbatim(
    editor: Editor, prepared: PreparedCases, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = taught(editor)
    sure(model, monkeypatch, 0.6)
    found = score(model, prepared)
    target = REQUESTS[0].target
    own = [r for r in found.values() if r.case_id == CASES[0].case_id and r.kind == "reliability"]
    assert [result.score for result in own] == [1.0, 1.0]
    for result in found.values():
        if result.kind is ProbeKind.TEXT_LOCALITY:
            assert result.answer_after == result.answer_before
        else:
            assert result.answer_after == target
    inputs = [edit_input(REQUESTS[1])]
    assert model.answer(inputs, 1) == [target]


def test_half_the_weight_is_not_enough(
    editor: Editor, prepared: PreparedCases, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = taught(editor)
    sure(model, monkeypatch, 0.5)
    assert all(r.answer_after == r.answer_before for r in score(model, prepared).values())
    inputs = [edit_input(item) for item in REQUESTS]
    assert model.answer(inputs, 3) == editor.backbone.generate(inputs, None, max_new_tokens=3)


def test_an_answer_of_another_length_is_wrong_where_one_ends(
    editor: Editor, prepared: PreparedCases, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = taught(editor)
    sure(model, monkeypatch, 0.6)
    own = next(p for p in prepared.probes if p.case_id == CASES[0].case_id)
    ids = model.targets[REQUESTS[0].edit_id][1]
    for stored, share in (
        (ids[:-1], (len(ids) - 1) / len(ids)),
        ((*ids, 5), len(ids) / (len(ids) + 1)),
    ):
        model.targets[REQUESTS[0].edit_id] = "said", stored
        (forced, free) = model.score(
            PreparedCases(probes=(replace(own, unedited_answer="before"),)),
            protocols=PROTOCOLS,
            max_new_tokens=1,
        )
        assert (forced.protocol, free.protocol) == (TEACHER_FORCED, FREE_GENERATION)
        assert forced.score == pytest.approx(share)
        assert not forced.is_exact
        assert (free.score, free.answer_after) == (0.0, "said")
