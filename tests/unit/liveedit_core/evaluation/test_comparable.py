"""Results measured differently are told apart, whatever their benchmark is called."""

from dataclasses import replace

import pytest

from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.comparable import ComparableGroup, cases_identity, check_comparable
from liveedit_core.schema import ProbeKind
from tests.unit.tiny_inputs import case

GROUP = ComparableGroup(
    benchmark="E-VQA",
    cases="a" * 64,
    prompts="chat",
    backbone="b" * 64,
    edits="groups of 10 edits",
    max_new_tokens=12,
)
OTHERS = {
    "cases": "c" * 64,
    "prompts": "paper",
    "backbone": "d" * 64,
    "edits": "whole bank",
    "max_new_tokens": 32,
}


@pytest.mark.parametrize("field", OTHERS)
def test_each_difference_makes_another_group(field: str) -> None:
    other = replace(GROUP, **{field: OTHERS[field]})  # type: ignore[arg-type]
    assert str(other).rpartition("#")[2] != str(GROUP).rpartition("#")[2]
    with pytest.raises(ConfigError, match=f"old and new were measured differently .*: {field} "):
        check_comparable({"old": GROUP, "new": other})
    check_comparable({"old": GROUP, "new": other}, except_for=(field,))


def test_a_group_is_readable_and_its_name_does_not_count() -> None:
    assert str(GROUP).startswith(
        "E-VQA, chat prompts, groups of 10 edits, at most 12 new tokens, backbone bbbbbbbb (#"
    )
    check_comparable({"one": GROUP, "other": replace(GROUP, benchmark="vqa_eval.jsonl")})


def test_results_from_before_groups_fit_all() -> None:
    check_comparable({"old": None, "new": GROUP})
    check_comparable({})
    other = replace(GROUP, prompts="paper")
    with pytest.raises(ConfigError, match="second and third"):
        check_comparable({"first": None, "second": GROUP, "third": other})


def test_cases_are_known_by_what_they_ask() -> None:
    cases = [case(1), case(2)]
    probes = cases[0].probes
    fewer = replace(cases[0], probes=probes[:1])
    swapped = replace(probes[0], kind=ProbeKind.PORTABILITY)
    other = replace(cases[0], probes=(swapped, *probes[1:]))
    named = replace(cases[0], probes=(replace(probes[0], variant="polite"), *probes[1:]))
    wanted = replace(cases[0], probes=(replace(probes[0], target="another"), *probes[1:]))
    correcting = replace(cases[0], earlier=(cases[1].edit,))
    assert cases_identity(cases) == cases_identity(cases[::-1])
    all_different = (cases[0], fewer, other, named, wanted, correcting)
    assert len({cases_identity([item, cases[1]]) for item in all_different}) == 6
