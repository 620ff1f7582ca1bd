"""On the built-in model no score depends on how probes are put into batches."""

from dataclasses import replace

import pytest

from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from tests.integration.edit_job import needs_builtin_models

pytestmark = [needs_builtin_models, pytest.mark.long]

NUM_CASES = 20


def without_weights(result: ProbeResult) -> ProbeResult:
    """Weights differ in their last bits."""
    return replace(result, weights=(), own_weight=0.0)


def test_the_batch_size_changes_no_score() -> None:
    from liveedit_core.builtin.backbone import builtin_generator_folder, load_builtin_backbone
    from liveedit_core.builtin.benchmark import load_builtin_cases
    from liveedit_core.method.generator import load_generator

    cases = load_builtin_cases("evaluation")[:NUM_CASES]
    generator = load_generator(builtin_generator_folder())
    empty = Editor(load_builtin_backbone(), generator, ExpertRepository.empty(generator.config))
    editor = empty.with_edits([case.edit for case in cases])
    prepared = CaseScorer(editor).prepare(cases)
    expected, other_results = (
        CaseScorer(editor, batch_size=size).score(prepared, editor.repository) for size in (3, 64)
    )
    assert any(result.kept for result in expected)
    assert len({result.score for result in expected}) > 2
    for one, other in zip(expected, other_results, strict=True):
        assert without_weights(other) == without_weights(one)
