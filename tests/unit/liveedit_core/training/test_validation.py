"""Validation: held-out entities stay out, and the numbers are those of the evaluation protocol."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.evaluation.summaries import paper_average, summarize
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Case, ProbeKind
from liveedit_core.states import LayerStates
from liveedit_core.training.recipe import DiagnosticsRecipe
from liveedit_core.training.validation import Validator, split_by_entity
from tests.tiny_backbone import OUR_CONFIG, case, tiny_backbone, tiny_generator
from tests.unit.tiny_models import TinyBackbone, TinyModels

LIMITS = DiagnosticsRecipe()


def cases(count: int) -> list[Case]:
    """Two cases of each entity."""
    return [replace(case(i), entity=f"entity {i // 2}") for i in range(count)]


def test_a_held_out_entity_is_not_trained_on() -> None:
    split = split_by_entity(cases(20), num_held_out=5, seed=1)
    assert len(split.held_out) == 5
    assert split.held_out_entities.isdisjoint(case.entity for case in split.training)
    # three entities were needed for five edits, two cases each; their sixth case is not trained on
    assert len(split.training) == 20 - 6


def test_the_split_depends_on_seed_and_names_only() -> None:
    forward = split_by_entity(cases(20), num_held_out=6, seed=1)
    backward = split_by_entity(cases(20)[::-1], num_held_out=6, seed=1)
    assert forward.held_out == backward.held_out
    assert [c.case_id for c in forward.training] == [c.case_id for c in backward.training[::-1]]
    others = [split_by_entity(cases(20), num_held_out=6, seed=seed).held_out for seed in (2, 3)]
    assert any(other != forward.held_out for other in others)


def test_one_subject_is_taught_once() -> None:
    twice = [*cases(8), replace(case(0), case_id="again", entity="entity 0")]
    held_out = split_by_entity(twice, num_held_out=4, seed=0).held_out
    assert len({case.edit.subject_id for case in held_out}) == 4


def test_nothing_is_held_out_when_nothing_is_asked_for() -> None:
    split = split_by_entity(cases(6), num_held_out=0, seed=0)
    assert (list(split.training), split.held_out) == (cases(6), ())


def test_half_of_the_entities_stay_for_training() -> None:
    with pytest.raises(ConfigError, match="more than half"):
        split_by_entity(cases(8), num_held_out=6, seed=0)


@pytest.mark.parametrize("config", [OUR_CONFIG, OUR_CONFIG.with_changes(max_kept=0, min_gate=0.0)])
def test_figures_are_those_of_the_evaluation_protocol(config: GeneratorConfig) -> None:
    backbone = tiny_backbone()
    generator = tiny_generator(config)
    held_out = cases(6)
    validator = Validator(backbone, held_out, num_cases=4, limits=LIMITS, batch_size=3)
    report = validator(generator)

    empty = Editor(backbone, generator, ExpertRepository.empty(generator.config))
    editor = empty.with_edits([case.edit for case in held_out])
    scorer = CaseScorer(editor, batch_size=5)
    results = scorer.score(scorer.prepare(held_out[:4]), editor.repository)
    summary = summarize(results)
    for (kind, _), item in summary.items():
        assert report.figures[f"validation.{kind}"] == pytest.approx(item.mean)
    assert report.score == pytest.approx(paper_average(summary))
    taught = ("reliability", "text_generality", "modal_generality")
    kept = [result.own_expert_kept for result in results if result.kind in taught]
    assert report.figures["routing.own_kept"] == pytest.approx(sum(kept) / len(kept))
    empty_sets = [not result.kept for result in results if result.kind in taught]
    assert report.figures["routing.empty_candidates"] == sum(empty_sets) / len(empty_sets)
    assert len(report.samples.own_margins) == len(kept)
    swaps = [result for result in results if result.kind is ProbeKind.PROMPT_SWAP_LOCALITY]
    assert len(report.samples.other_question_gates) == len(swaps)


class CountingBackbone(TinyBackbone):
    """Counts what it encodes."""

    num_encoded = 0

    def encode(self, inputs: Sequence[BackboneInput]) -> list[LayerStates]:
        self.num_encoded += len(inputs)
        return super().encode(inputs)


def test_what_no_generator_changes_is_computed_once() -> None:
    backbone = CountingBackbone()
    validator = Validator(backbone, cases(4), num_cases=2, limits=LIMITS)
    generator = TinyModels().load_generator()
    first = validator(generator)
    # generate() of the locality probes without a target encodes them once more
    num_encoded = backbone.num_encoded
    assert num_encoded == sum(len(case.all_probes()) + 1 for case in cases(2)) + 2
    assert validator(generator).figures == first.figures
    assert backbone.num_encoded == num_encoded


def test_growth_is_measured_from_the_first_validation() -> None:
    validator = Validator(TinyBackbone(), cases(4), num_cases=1, limits=LIMITS)
    generator = TinyModels().load_generator()
    assert not any("grew" in text for text in validator(generator).warnings)
    generator.config = generator.config.with_changes(gain=100.0)
    assert any("grew" in text for text in validator(generator).warnings)
