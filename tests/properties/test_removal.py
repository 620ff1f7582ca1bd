"""A bank from which edits were removed is, bit for bit, a bank that never had them."""

from dataclasses import replace
from pathlib import Path

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.evaluation.probes import TEACHER_FORCED
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Case
from tests.random_states import assert_same_experts
from tests.tiny_backbone import OUR_CONFIG, answers, case, question, tiny_generator
from tests.tiny_bank import SmallModels, bank_with_edits

CONFIG = OUR_CONFIG.with_changes(gain=60.0, min_gate=0.0)
CASES = [case(number) for number in range(4)]
# The second edit is taught twice, with another target.
AGAIN = replace(CASES[1], edit=replace(CASES[1].edit, target="quiet lantern"))


class Answers:
    """What a version of a bank makes of all questions, to the last bit."""

    def __init__(self, backbone: VisionLanguageBackbone, bank: ExpertBank, version: int) -> None:
        self.repository = bank.load_repository(CONFIG, version)
        empty = Editor(backbone, tiny_generator(CONFIG), ExpertRepository.empty(CONFIG))
        editor = empty.with_repository(self.repository)
        self.texts = [answer.text for answer in answers(editor, [question(n) for n in range(3)], 4)]
        scorer = CaseScorer(empty)
        prepared = scorer.prepare([CASES[3], AGAIN], has_free_answers=False)
        results = scorer.score(prepared, self.repository, protocols=(TEACHER_FORCED,))
        self.results = list(results)

    def assert_equal(self, other: "Answers") -> None:
        assert_same_experts(self.repository, other.repository)
        assert self.texts == other.texts
        assert self.results == other.results


def taught(folder: Path, cases: list[Case]) -> ExpertBank:
    """A bank and its log; each expert is written alone, so that none depends on its batch."""
    store = ObjectStore(folder)
    RequestLog(store).append([item.edit for item in cases])
    return bank_with_edits(store, SmallModels(), cases, window_edits=2, batch_size=1)


@pytest.mark.parametrize("has_successor", [False, True])
def test_removal_and_restoration(
    backbone: VisionLanguageBackbone, tmp_path: Path, has_successor: bool
) -> None:
    # With a successor, the edit that is removed had superseded another, which answers again.
    gone = AGAIN if has_successor else CASES[3]
    with_it = [*CASES, AGAIN] if has_successor else CASES
    without = [item for item in with_it if item is not gone]
    bank = taught(tmp_path / "with", with_it)
    never = taught(tmp_path / "never", without)
    before = Answers(backbone, bank, bank.version)
    full = bank.version
    epoch = bank.acquire_writer()

    removed = bank.remove([gone.edit.edit_id], author="anna", reason="wrong", epoch=epoch)

    after = Answers(backbone, bank, removed)
    after.assert_equal(Answers(backbone, never, never.version))
    assert after.results != before.results
    Answers(backbone, bank, full).assert_equal(before)
    restored = bank.restore([gone.edit.edit_id], author="anna", reason="right", epoch=epoch)
    Answers(backbone, bank, restored).assert_equal(before)
