"""What is asked, and how it is cut: the same whenever it is planned, and nothing is left out."""

import random

import pytest

from liveedit_core.evaluation.probes import FREE_GENERATION, TEACHER_FORCED
from pipelines.evaluation.bank_evaluation import (
    UNIT_CASES,
    EvaluationSettings,
    plan_evaluation,
    wanted_by,
)
from tests.unit.tiny_inputs import case

CASES = [case(number) for number in range(21)]
PROBES = 4


def test_every_probe_is_asked_once_the_last_piece_included() -> None:
    plan = plan_evaluation(CASES, EvaluationSettings(free_generation_cases=0))
    assert [len(unit.cases) for unit in plan.units] == [UNIT_CASES, UNIT_CASES, 5]
    assert len(set(plan.wanted)) == len(plan.wanted) == 21 * PROBES * 2


def test_free_generation_is_asked_of_the_drawn_cases_only() -> None:
    plan = plan_evaluation(CASES, EvaluationSettings(free_generation_cases=6))
    asked = {case_id for case_id, _, protocol in plan.wanted if protocol == FREE_GENERATION}
    assert len(asked) == 6
    forced = [key for key in plan.wanted if key[2] == TEACHER_FORCED]
    assert len(forced) == 21 * PROBES
    other = plan_evaluation(CASES, EvaluationSettings(free_generation_cases=6, seed=1))
    assert asked != {key[0] for key in other.wanted if key[2] == FREE_GENERATION}


def test_what_is_drawn_does_not_depend_on_the_order_of_cases() -> None:
    settings = EvaluationSettings(max_cases=9, free_generation_cases=4)
    shuffled = random.Random(0).sample(CASES, len(CASES))
    assert set(plan_evaluation(shuffled, settings).wanted) == set(
        plan_evaluation(CASES, settings).wanted
    )


def test_a_piece_with_anything_missing_is_done_again_whole() -> None:
    plan = plan_evaluation(CASES, EvaluationSettings(free_generation_cases=0))
    missing = {wanted_by(plan.units[1])[3]}
    assert plan.units_for(missing) == [plan.units[1]]
    assert plan.units_for(set()) == []


@pytest.mark.parametrize(("size", "num_groups"), [(1, 21), (10, 3), (21, 1)])
def test_groups_hold_all_cases_the_last_one_what_is_left(size: int, num_groups: int) -> None:
    settings = EvaluationSettings(protocols=(TEACHER_FORCED,))
    plan = plan_evaluation(CASES, settings, group_size=size)
    groups = [group for unit in plan.units for group in unit.groups]
    assert len(set(groups)) == num_groups
    for item, group in zip(CASES, groups, strict=True):
        assert item.edit.edit_id in group
    assert len(plan.wanted) == 21 * PROBES
