"""Scores agree with the whole model run end to end, and summaries with sums by hand."""

import pickle
from dataclasses import replace

import pytest
import torch

from liveedit_core.backbones.huggingface import HuggingFaceBackbone
from liveedit_core.editor import Editor
from liveedit_core.metrics import (
    FREE_GENERATION,
    PROTOCOLS,
    TEACHER_FORCED,
    CaseScorer,
    PreparedCases,
    PreparedProbe,
    ProbeResult,
    normalize_answer,
    paper_average,
    summarize,
)
from liveedit_core.repository import ExpertRepository
from liveedit_core.schema import ProbeKind
from tests.tiny_backbone import EDIT_LAYER, OUR_CONFIG, case, tiny_generator

CONFIG = replace(OUR_CONFIG, gain=60.0, min_gate=0.0)
CASES = [case(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def scorer(backbone: HuggingFaceBackbone) -> CaseScorer:
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
    assert isinstance(backbone, HuggingFaceBackbone)
    bare = replace(probe.question, target="")
    residual = editor.residual(editor.route(backbone.encode([bare])))
    ids, *_, target = backbone.tokenize(probe.question)
    features = backbone._image_features([probe.question])
    embeds = backbone._embed(ids, probe.question, features)[None]

    def hook(module: object, arguments: object, output: torch.Tensor) -> torch.Tensor:
        return output if residual is None else output + residual(output)

    handle = backbone.decoder.layers[EDIT_LAYER].register_forward_hook(hook)
    try:
        with torch.no_grad():
            hidden = backbone.decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state
            logits = backbone.model.lm_head(hidden[0, target[0] - 1 : target[1] - 1])
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


def test_an_empty_bank_changes_no_answer(scorer: CaseScorer, prepared: PreparedCases) -> None:
    empty = ExpertRepository.empty(CONFIG)
    for result in scorer.score(prepared, empty, protocols=PROTOCOLS, max_new_tokens=5):
        assert result.answer_after == result.answer_before
        assert result.kept == ()
        if result.kind.is_locality:
            assert result.score == 1.0


def test_a_locality_probe_without_target_is_scored_on_the_backbones_own_answer(
    prepared: PreparedCases,
) -> None:
    probes = [probe for probe in prepared.probes if probe.kind is ProbeKind.MODAL_LOCALITY]
    assert all(probe.question.target for probe in probes)
    assert all(len(probe.unedited_ids) == len(probe.states.target_ids_O) for probe in probes)


def test_free_generation_scores_accuracy_probes_by_exact_match(
    scorer: CaseScorer, prepared: PreparedCases, bank: ExpertRepository
) -> None:
    results = scorer.score(prepared, bank, protocols=[FREE_GENERATION], max_new_tokens=5)
    asked = [probe for probe in prepared.probes if not probe.kind.is_locality]
    questions = [replace(probe.question, target="") for probe in asked]
    answers = scorer.editor.with_repository(bank).answer(questions, 5)
    for probe, result, answer in zip(asked, results, answers, strict=True):
        assert (result.case_id, result.probe_index) == (probe.case_id, probe.probe_index)
        assert result.answer_after == answer.text
        assert result.answer_before == probe.unedited_answer
        assert result.score == float(normalize_answer(answer.text) == result.target.lower())


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


def result(kind: ProbeKind, protocol: str, score: float, kept: tuple[str, ...]) -> ProbeResult:
    return ProbeResult(
        case_id="c",
        edit_id="own",
        probe_index=0,
        kind=kind,
        protocol=protocol,
        score=score,
        target="t",
        answer_before="b",
        answer_after="a",
        kept=kept,
        weights=(1.0,) * len(kept),
        own_expert_kept="own" in kept,
    )


def test_summaries_by_hand() -> None:
    kind = ProbeKind.RELIABILITY
    summary = summarize(
        [
            result(kind, TEACHER_FORCED, 1.0, ("own", "x")),
            result(kind, TEACHER_FORCED, 0.5, ("x",)),
            result(kind, TEACHER_FORCED, 0.0, ()),
            result(kind, TEACHER_FORCED, 0.0, ("own",)),
            result(kind, FREE_GENERATION, 1.0, ("own",)),
            result(ProbeKind.PORTABILITY, TEACHER_FORCED, 1.0, ()),
        ]
    )
    forced = summary[kind, TEACHER_FORCED]
    assert (forced.mean, forced.num_samples) == (0.375, 4)
    assert (forced.empty_fraction, forced.own_kept_fraction) == (0.25, 0.5)
    assert summary[kind, FREE_GENERATION].mean == 1.0
    assert summary[ProbeKind.PORTABILITY, TEACHER_FORCED].empty_fraction == 1.0


def test_the_papers_average_leaves_out_all_but_its_five_metrics() -> None:
    scores = {
        ProbeKind.RELIABILITY: 1.0,
        ProbeKind.TEXT_GENERALITY: 0.8,
        ProbeKind.MODAL_GENERALITY: 0.6,
        ProbeKind.TEXT_LOCALITY: 1.0,
        ProbeKind.MODAL_LOCALITY: 0.6,
        ProbeKind.PORTABILITY: 0.0,
        ProbeKind.IMAGE_SWAP_LOCALITY: 0.0,
    }
    results = [result(kind, TEACHER_FORCED, score, ()) for kind, score in scores.items()]
    results.append(result(ProbeKind.RELIABILITY, FREE_GENERATION, 0.0, ()))
    assert paper_average(summarize(results)) == pytest.approx(0.8)
