"""What a comparison asks beside the probes: edits right after each, and what no edit is about."""

from dataclasses import replace
from pathlib import Path

import pytest

from liveedit_core.baselines.fine_tuning import FineTuning
from liveedit_core.baselines.settings import FineTuningConfig
from liveedit_core.evaluation.probes import TEACHER_FORCED
from liveedit_core.evaluation.scoring import ProbePreparer
from liveedit_core.method.editor import edit_input
from pipelines.baselines.compare import Comparison, cut_after, plan
from tests.tiny_backbone import tiny_backbone
from tests.unit.pipelines.baselines.tiny_comparison import CASES, NAMES, RECIPE, compared, of


def test_edits_are_asked_right_after_each_was_taught(tmp_path: Path) -> None:
    """As a new editor answers that was taught the same edits and no further ones."""
    config = FineTuningConfig(max_steps=60, learning_rate=3e-2)
    recipe = RECIPE.with_changes(
        edits=(3, 2), groups=(1,), editors=("ft-l",), free_cases=0, fine_tuning=config
    )
    two, three = compared(recipe, tmp_path).scores
    backbone = tiny_backbone()
    scorer = ProbePreparer(backbone)
    (group,) = plan(recipe, CASES)
    model = FineTuning(backbone, config)
    right_after, states = [], backbone.encode([edit_input(item.edit) for item in group.cases])
    for number, item in enumerate(group.cases):
        model.teach([item.edit], states[number : number + 1])
        prepared = scorer.prepare([replace(item, probes=())])
        right_after += model.score(prepared, protocols=[TEACHER_FORCED], max_new_tokens=4)
    after_all = model.score(
        scorer.prepare([replace(item, probes=()) for item in group.cases]),
        protocols=[TEACHER_FORCED],
        max_new_tokens=4,
    )
    kept = three.retention[TEACHER_FORCED]
    assert kept.right_after == pytest.approx(sum(r.score for r in right_after[:2]) / 2)
    assert kept.after_all == pytest.approx(sum(r.score for r in after_all[:2]) / 2)
    assert kept.difference.num_samples == 2  # the last edit has nothing after it
    assert two.retention[TEACHER_FORCED].difference.num_samples == 1
    assert two.retention[TEACHER_FORCED].right_after == pytest.approx(right_after[0].score)


def test_teaching_stops_after_the_cases_that_are_asked() -> None:
    cut = [[case.case_id for case in part] for part in cut_after(CASES[:4], [CASES[1].case_id])]
    ids = [case.case_id for case in CASES]
    assert cut == [ids[:2], ids[2:4]]
    assert [*map(len, cut_after(CASES[:2], [CASES[1].case_id]))] == [2]
    assert [*map(len, cut_after(CASES[:3], ids))] == [1, 1, 1]


def test_unrelated_questions_are_about_entities_and_images_that_are_not_taught(
    tmp_path: Path,
) -> None:
    named = [replace(item, entity=f"entity {n // 2}") for n, item in enumerate(CASES)]
    shown_again = replace(CASES[3], case_id="again", edit=replace(CASES[3].edit, prompt="Who?"))
    recipe = RECIPE.with_changes(edits=(1,), groups=(4,), unrelated_questions=8)
    for group in plan(recipe, [*named, replace(shown_again, entity="another")]):
        assert len(group.unrelated) == 2
        taught = group.cases[0]
        for other in group.unrelated:
            assert other.entity != taught.entity
            assert other.edit.image_bytes != taught.edit.image_bytes
    asked = plan(recipe.with_changes(edits=(4,), groups=(1,)), CASES)[0].unrelated
    assert len(asked) == 1  # the only case left
    assert plan(recipe.with_changes(unrelated_questions=0), CASES)[0].unrelated == ()
    all_taught = recipe.with_changes(edits=(5,), groups=(1,), editors=("unedited",), free_cases=0)
    (scores,) = compared(all_taught, tmp_path).scores
    assert scores.unrelated is None


def test_answers_to_unrelated_questions_stay_where_no_expert_is_kept(
    comparison: Comparison,
) -> None:
    """Only fine-tuning changes what no edit is about without saying so."""
    for size in (1, 3):
        found = {name: of(comparison, name, size).unrelated for name in NAMES}
        for name, item in found.items():
            assert item is not None
            assert item.num_questions == (3 * 4 if size == 1 else 2), name
            assert (item.num_changed_unkept > 0) <= (name not in ("LiveEdit", "lookup", "unedited"))
        unedited, tuned = found["unedited"], found["FT-L"]
        assert unedited is not None
        assert tuned is not None
        assert (unedited.kept, unedited.changed) == (0.0, 0.0)
        assert tuned.changed > 0
