"""False activations against a bank that is filled up with further edits."""

from pathlib import Path

from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import ProbeKind
from liveedit_core.state_source import BackboneStates
from pipelines.final.large_bank import KINDS, score_large_bank
from tests.tiny_backbone import OUR_CONFIG, case, tiny_backbone, tiny_generator

CONFIG = OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0)


def test_the_large_bank_scores_as_one_repository(tmp_path: Path) -> None:
    editor = Editor(tiny_backbone(), tiny_generator(CONFIG), ExpertRepository.empty(CONFIG))
    cases = [case(seed) for seed in range(2)]
    requests = [case(seed).edit for seed in range(20)]
    said: list[str] = []
    source = BackboneStates(editor.backbone)
    file = tmp_path / "large.jsonl"
    results = score_large_bank(editor, cases, requests, file, source, said.append)
    assert {result.kind for result in results} == set(KINDS)
    filled = editor.with_edits(requests).repository
    scorer = CaseScorer(editor)
    every = scorer.score(scorer.prepare(cases), filled)
    wanted = {item.key: item for item in every if item.kind in KINDS}
    assert {item.key: item.kept for item in results} == {k: i.kept for k, i in wanted.items()}
    assert {item.key: item.answer_after for item in results} == {
        key: item.answer_after for key, item in wanted.items()
    }
    own = [item for item in results if item.kind is ProbeKind.RELIABILITY]
    assert any(item.kept for item in own)
    assert score_large_bank(editor, cases, requests[:1], file, source, said.append) == results
