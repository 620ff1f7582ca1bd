"""The measured share beside the budget, and when it is more than chance."""

import pytest

from liveedit_core.evaluation.false_activations import (
    FalseActivations,
    false_activation_values,
    false_activations,
    untouched,
)
from liveedit_core.evaluation.probes import FREE_GENERATION
from liveedit_core.evaluation.statistics import exact_interval
from liveedit_core.evaluation.summaries import summarize
from liveedit_core.schema import ProbeKind
from tests.unit.tiny_results import probe_result


def measured(num_kept: int, num_probes: int, budget: float | None) -> FalseActivations:
    results = [
        probe_result(
            f"case-{n}",
            kind=ProbeKind.IMAGE_SWAP_LOCALITY,
            kept=("another",) if n < num_kept else (),
        )
        for n in range(num_probes)
    ]
    found = false_activations(summarize(results), budget)
    assert found is not None
    return found


def test_it_is_the_share_of_questions_about_other_images_that_keep_an_edit() -> None:
    found = measured(3, 100, 0.02)
    expected = exact_interval(3, 100)
    assert [found.share, found.interval.low, found.interval.high] == pytest.approx(
        [0.03, expected.low, expected.high]
    )
    assert found.sentence() == "budget 2 %, measured 3.0 % (n = 100)"
    assert measured(3, 100, None).sentence() == "no budget, measured 3.0 % (n = 100)"


@pytest.mark.parametrize(
    ("num_kept", "num_probes", "budget", "is_exceeded"),
    [
        (0, 100, 0.02, False),
        (4, 100, 0.02, False),  # twice the budget
        (1, 10, 0.02, False),  # more than twice, but by chance
        (9, 100, 0.02, True),
        (9, 100, 0.05, False),  # surely more than the budget, not twice
        (100, 100, None, False),
    ],
)
def test_a_budget_is_exceeded_from_twice_on_if_that_is_no_chance(
    num_kept: int, num_probes: int, budget: float | None, is_exceeded: bool
) -> None:
    assert measured(num_kept, num_probes, budget).is_exceeded is is_exceeded


def test_other_probes_tell_nothing_and_any_protocol_does() -> None:
    other = probe_result(kind=ProbeKind.MODAL_LOCALITY, kept=("another",))
    assert false_activations(summarize([other]), 0.02) is None
    assert false_activation_values(summarize([other]), 0.02) == {}
    free = probe_result(
        kind=ProbeKind.IMAGE_SWAP_LOCALITY, protocol=FREE_GENERATION, kept=("another",)
    )
    assert false_activation_values(summarize([free]), 0.02) == {
        "false_activations.measured": 1.0,
        "false_activations.budget": 0.02,
    }
    assert false_activation_values(summarize([free]), None) == {"false_activations.measured": 1.0}


def test_probes_of_one_entity_are_no_more_evidence_than_one() -> None:
    results = [
        probe_result("c", kind=ProbeKind.IMAGE_SWAP_LOCALITY, probe_index=n, kept=("another",))
        for n in range(50)
    ]
    found = false_activations(summarize(results), 0.02)
    assert found is not None
    assert found.interval.low == pytest.approx(0.025)


def test_untouched_counts_what_was_kept_and_what_changed() -> None:
    """Of four questions one kept an expert and changed, one kept one in vain."""
    kind = ProbeKind.MODAL_LOCALITY
    results = [
        probe_result("a", kind=kind, kept=("another",), score=0.5),
        probe_result("b", kind=kind, kept=("another",)),
        probe_result("c", kind=kind),
        probe_result("d", kind=kind),
    ]
    found = untouched(results, {}, seed=0)
    assert found is not None
    assert (found.kept, found.changed, found.num_changed_unkept) == (0.5, 0.25, 0)
    assert found.changed_interval == exact_interval(1, 4)
    assert (found.num_questions, found.num_entities) == (4, 4)
    plain = untouched([probe_result("a", kind=kind, score=0.0)], {}, seed=0)
    assert plain is not None
    assert (plain.kept, plain.changed, plain.num_changed_unkept) == (0.0, 1.0, 1)
    assert untouched([], {}, seed=0) is None


def test_questions_about_one_entity_are_one_sample() -> None:
    results = [
        probe_result(f"case {n}", kind=ProbeKind.MODAL_LOCALITY, score=float(n > 2))
        for n in range(6)
    ]
    found = untouched(results, {f"case {n}": f"entity {n // 3}" for n in range(6)}, seed=0)
    assert found is not None
    assert (found.num_questions, found.num_entities) == (6, 2)
    assert found.changed_interval == exact_interval(1, 2)
