"""Scores agree with the whole model run end to end."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from liveedit_core.backbones.protocol import BackboneInput, RouteOnce
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.evaluation import edited_answers
from liveedit_core.evaluation.probes import (
    FREE_GENERATION,
    PROTOCOLS,
    TEACHER_FORCED,
    PreparedCases,
    PreparedProbe,
    ProbeResult,
    normalize_answer,
    probe_input,
)
from liveedit_core.evaluation.scoring import CaseScorer, decided_length
from liveedit_core.evaluation.unedited_answers import UneditedAnswer, UneditedQuery
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Case, ProbeKind
from liveedit_core.states import LayerStates
from tests.tiny_backbone import EDIT_LAYER, OUR_CONFIG, answers, case, tiny_generator, whole_model

CONFIG = OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0)
CASES = [case(seed) for seed in range(3)]
Free = Callable[[CaseScorer, ExpertRepository], list[ProbeResult]]


@pytest.fixture(scope="module")
def scorer(backbone: VisionLanguageBackbone) -> CaseScorer:
    editor = Editor(backbone, tiny_generator(CONFIG), ExpertRepository.empty(CONFIG))
    return CaseScorer(editor, batch_size=5)


@pytest.fixture(scope="module")
def prepared(scorer: CaseScorer) -> PreparedCases:
    return scorer.prepare(CASES, has_free_answers=True, max_new_tokens=5)


@pytest.fixture(scope="module")
def bank(scorer: CaseScorer) -> ExpertRepository:
    return scorer.editor.with_edits([case.edit for case in CASES]).repository


def end_to_end_ids(editor: Editor, probe: PreparedProbe) -> list[int]:
    """Argmax ids of the whole, hooked decoder; routing from the question without its target."""
    backbone = editor.backbone
    assert isinstance(backbone, VisionLanguageBackbone)
    bare = replace(probe.question, target="")
    residual = editor.residual(editor.route(backbone.encode([bare])))
    start, stop = backbone.reader.prepare(probe.question).target

    def hook(module: object, arguments: object, output: torch.Tensor) -> torch.Tensor:
        return output if residual is None else output + residual(output)

    handle = backbone.decoder.layers[EDIT_LAYER].register_forward_hook(hook)
    try:
        logits = whole_model(backbone, probe.question).logits[0, start - 1 : stop - 1]
    finally:
        handle.remove()
    return [int(token) for token in logits.argmax(-1)]


def test_scores_are_those_of_the_whole_model(
    scorer: CaseScorer, prepared: PreparedCases, bank: ExpertRepository
) -> None:
    editor = scorer.editor.with_repository(bank)
    results = scorer.score(prepared, bank)
    assert any(result.kept for result in results)
    assert any(result.answer_before != result.answer_after for result in results)
    for probe, result in zip(prepared.probes, results, strict=True):
        if probe.states.has_image:
            ids = end_to_end_ids(editor, probe)
        else:
            ids = list(probe.unedited_ids)
            assert result.kept == ()
        expected = probe.unedited_ids if probe.kind.is_locality else probe.states.target_ids_O
        right = [int(a) == int(b) for a, b in zip(ids, expected, strict=True)]
        assert result.score == pytest.approx(sum(right) / len(right))
        assert result.answer_after == scorer.backbone.decode(ids)
        assert result.own_expert_kept == (probe.edit_id in result.kept)


def test_a_locality_probe_without_target_is_scored_on_the_backbones_own_answer(
    prepared: PreparedCases,
) -> None:
    probes = [probe for probe in prepared.probes if probe.kind is ProbeKind.MODAL_LOCALITY]
    assert all(probe.question.target for probe in probes)
    assert all(len(probe.unedited_ids) == len(probe.states.target_ids_O) for probe in probes)


def test_free_answers_are_those_of_the_editor(
    scorer: CaseScorer, prepared: PreparedCases, bank: ExpertRepository
) -> None:
    results = scorer.score(prepared, bank, protocols=[FREE_GENERATION], max_new_tokens=5)
    assert any(result.answer_before != result.answer_after for result in results)
    questions = [replace(probe.question, target="") for probe in prepared.probes]
    found = answers(scorer.editor.with_repository(bank), questions, 5)
    for probe, result, answer in zip(prepared.probes, results, found, strict=True):
        assert (result.case_id, result.probe_index) == (probe.case_id, probe.probe_index)
        assert result.answer_after == answer.text
        assert result.answer_before == probe.unedited_answer
        assert result.kept == (answer.routing.kept if answer.routing else ())
        expected = result.answer_before if probe.kind.is_locality else result.target
        is_exact = normalize_answer(answer.text) == normalize_answer(expected)
        assert (result.is_exact, result.score) == (is_exact, float(is_exact))


END = 9


@pytest.mark.parametrize(
    ("ids", "max_new_tokens", "length"),
    [
        ((5, 6, END), 8, 2),
        ((5, END, 7), 8, 1),  # it ends early
        ((END, 1, 1), 8, 0),
        ((5, 6, 7), 8, None),  # it goes on after the target
        ((5, 7, END), 8, None),
        ((5, 6, 7), 2, 2),  # it is cut there
        ((5, 7, 7), 1, 1),
    ],
)
def test_a_teacher_forced_pass_decides_answers_that_are_the_target_or_its_beginning(
    ids: tuple[int, ...], max_new_tokens: int, length: int | None
) -> None:
    assert decided_length(ids, (5, 6), END, max_new_tokens) == length


def test_an_answer_that_is_decided_is_not_generated(
    scorer: CaseScorer, bank: ExpertRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(cases: Sequence[Case]) -> list[ProbeResult]:
        prepared = scorer.prepare(cases, has_free_answers=True, max_new_tokens=3)
        return scorer.score(prepared, bank, protocols=[FREE_GENERATION], max_new_tokens=3)

    generated = free(CASES)
    said = {result.key: result.answer_after for result in generated if result.kept}
    cases = [
        replace(
            one,
            probes=tuple(
                replace(probe, target=said.get((one.case_id, n, FREE_GENERATION), probe.target))
                for n, probe in enumerate(one.probes, start=1)
            ),
        )
        for one in CASES
    ]
    asked: list[BackboneInput] = []
    generate = type(scorer.backbone).generate

    def counted(
        self: Any, inputs: Sequence[BackboneInput], route: RouteOnce | None, **options: Any
    ) -> list[str]:
        asked.extend(inputs if route else ())
        return generate(self, inputs, route, **options)

    monkeypatch.setattr(type(scorer.backbone), "generate", counted)
    scorer._texts.clear()
    decided = free(cases)
    assert len(asked) < len(said), "some answers are decided"
    assert [r.answer_after for r in decided] == [r.answer_after for r in generated]


def without_weights(result: ProbeResult) -> ProbeResult:
    """Weights differ in their last bit with the batch; nothing else may."""
    return replace(result, weights=(), own_weight=0.0)


def test_free_answers_can_be_asked_of_some_cases_only(
    scorer: CaseScorer, prepared: PreparedCases, bank: ExpertRepository
) -> None:
    some = scorer.prepare(CASES, free_case_ids=[CASES[1].case_id], max_new_tokens=5)
    results = scorer.score(some, bank, protocols=PROTOCOLS, max_new_tokens=5)
    whole = scorer.score(prepared, bank, protocols=PROTOCOLS, max_new_tokens=5)
    assert [without_weights(result) for result in results] == [
        without_weights(result)
        for result in whole
        if result.protocol == TEACHER_FORCED or result.case_id == CASES[1].case_id
    ]


def test_an_unedited_answer_that_is_the_target_is_not_generated(
    scorer: CaseScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unedited(cases: Sequence[Case]) -> dict[BackboneInput, str | None]:
        done = scorer.prepare(cases, has_free_answers=True, max_new_tokens=3)
        return {replace(probe.question, target=""): probe.unedited_answer for probe in done.probes}

    said = unedited(CASES)
    rest = (said[replace(probe_input(p), target="")] for one in CASES for p in one.all_probes())
    cases = []
    for one in CASES:
        edit = replace(one.edit, target=next(rest) or "x")
        probes = tuple(replace(probe, target=next(rest) or "x") for probe in one.probes)
        cases.append(replace(one, edit=edit, probes=probes))
    asked: list[BackboneInput] = []
    generate = type(scorer.backbone).generate

    def counted(self: Any, inputs: Sequence[BackboneInput], *others: Any, **options: Any) -> Any:
        asked.extend(inputs)
        return generate(self, inputs, *others, **options)

    monkeypatch.setattr(type(scorer.backbone), "generate", counted)
    assert unedited(cases) == said
    assert len(asked) < len(said), "some answers are decided"


def test_rank_and_weight_are_those_of_the_probes_own_expert(
    scorer: CaseScorer, prepared: PreparedCases, bank: ExpertRepository
) -> None:
    results = scorer.score(prepared, bank)
    assert {result.own_rank for result in results} >= {-1, 0}
    for result in results:
        pairs = dict(zip(result.kept, result.weights, strict=True))
        assert result.own_weight == pairs.get(result.edit_id, 0.0)
        better = sum(weight > result.own_weight for weight in result.weights)
        assert result.own_rank == (better if result.edit_id in pairs else -1)
        assert result.is_exact == (result.score == 1.0)


class DictCache:
    """Keeps answers in a dictionary."""

    def __init__(self) -> None:
        self.answers: dict[UneditedQuery, UneditedAnswer] = {}

    def read(self, queries: Sequence[UneditedQuery]) -> list[UneditedAnswer | None]:
        return [self.answers.get(query) for query in queries]

    def write(self, answers: Mapping[UneditedQuery, UneditedAnswer]) -> None:
        self.answers |= answers


def refuse(*arguments: object, **named: object) -> None:
    raise AssertionError("the backbone was asked again")


def test_unedited_answers_are_computed_once(
    scorer: CaseScorer, prepared: PreparedCases, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DictCache()
    first = scorer.prepare(CASES, has_free_answers=True, max_new_tokens=5, answer_cache=cache)
    num_kept = len(cache.answers)
    monkeypatch.setattr(type(scorer.backbone), "generate", refuse)
    monkeypatch.setattr(type(scorer.backbone), "target_logits", refuse)
    again = scorer.prepare(CASES, has_free_answers=True, max_new_tokens=5, answer_cache=cache)
    assert len(cache.answers) == num_kept
    for probes in (first.probes, again.probes):
        for probe, plain in zip(probes, prepared.probes, strict=True):
            assert probe.unedited_ids == plain.unedited_ids
            assert probe.unedited_answer == plain.unedited_answer
            assert probe.question == plain.question


def test_prepared_cases_travel_between_processes(
    scorer: CaseScorer, prepared: PreparedCases, bank: ExpertRepository
) -> None:
    copy = pickle.loads(pickle.dumps(prepared))
    assert scorer.score(copy, bank) == scorer.score(prepared, bank)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" The  Golden\nRaven. ", "the golden raven"),
        ("'1984'", "1984"),
        ("H2O!?", "h2o"),
        ("U.S.A.", "u.s.a"),
        ("...", ""),
    ],
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


@pytest.fixture
def free(prepared: PreparedCases) -> Free:
    """Scores under free generation alone."""
    return lambda scorer, repository: scorer.score(
        prepared, repository, protocols=[FREE_GENERATION], max_new_tokens=5
    )


def test_a_question_that_keeps_the_same_experts_again_is_not_generated_again(
    scorer: CaseScorer,
    free: Free,
    bank: ExpertRepository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = CaseScorer(scorer.editor, batch_size=5)
    first = free(fresh, bank)
    expected = free(CaseScorer(scorer.editor, batch_size=5), bank.take([1, 2]))
    numbers: list[int] = []
    generate = fresh.backbone.generate

    def count(inputs: Sequence[BackboneInput], *rest: Any, **more: Any) -> list[str]:
        numbers.append(len(inputs))
        return generate(inputs, *rest, **more)

    monkeypatch.setattr(fresh.backbone, "generate", count)
    assert free(fresh, bank) == first
    assert numbers == [0]
    assert free(fresh, bank.take([1, 2])) == expected
    assert numbers[1] > 0


def test_the_same_edits_written_in_another_way_are_generated_again(
    scorer: CaseScorer, free: Free, bank: ExpertRepository
) -> None:
    other = replace(bank, up=bank.up_LD.flip(0))
    first, expected = (free(CaseScorer(scorer.editor, batch_size=5), r) for r in (bank, other))
    assert first != expected
    fresh = CaseScorer(scorer.editor, batch_size=5)
    assert [free(fresh, bank), free(fresh, other)] == [first, expected]


def test_dropping_what_is_remembered_changes_no_answer(
    scorer: CaseScorer,
    free: Free,
    bank: ExpertRepository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = CaseScorer(scorer.editor, batch_size=5)
    expected = [free(fresh, part) for part in (bank.take([0]), bank)]
    monkeypatch.setattr(edited_answers, "MAX_SHARED_ANSWERS", 1)
    small = CaseScorer(scorer.editor, batch_size=5)
    assert [free(small, part) for part in (bank.take([0]), bank)] == expected


def test_a_question_that_keeps_the_same_experts_again_is_not_asked_again(
    scorer: CaseScorer,
    prepared: PreparedCases,
    bank: ExpertRepository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = CaseScorer(scorer.editor, batch_size=5)
    other = replace(bank, up=bank.up_LD.flip(0))
    first = fresh.score(prepared, bank)
    expected = CaseScorer(scorer.editor, batch_size=5).score(prepared, other)
    asked: list[int] = []
    target_logits = fresh.backbone.target_logits

    def count(states: Sequence[LayerStates], *rest: Any, **more: Any) -> list[torch.Tensor]:
        asked.append(len(states))
        return target_logits(states, *rest, **more)

    monkeypatch.setattr(fresh.backbone, "target_logits", count)
    assert fresh.score(prepared, bank) == first
    assert not asked
    assert fresh.score(prepared, other) == expected != first
    assert sum(asked) == sum(bool(result.kept) for result in first)
