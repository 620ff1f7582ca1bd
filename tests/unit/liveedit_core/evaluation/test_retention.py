"""What is left of each edit after others, over the edits that were asked twice."""

import pytest

from liveedit_core.evaluation.retention import retention, retention_values
from liveedit_core.evaluation.statistics import exact_interval
from liveedit_core.schema import ProbeKind
from tests.unit.tiny_results import probe_result


def test_the_same_edits_are_compared() -> None:
    before = [probe_result(f"case-{i}", score=1.0) for i in range(4)]
    after = [probe_result(f"case-{i}", score=float(i > 1)) for i in range(3)]
    after += [probe_result("case-0", kind=ProbeKind.MODAL_LOCALITY, score=0.5)]
    (item,) = retention(before, after, {}, seed=0).values()
    assert item.right_after == 1.0
    assert item.after_all == pytest.approx(1 / 3)
    assert item.difference.mean == pytest.approx(-2 / 3)
    assert item.difference.num_samples == 3
    assert -1.0 <= item.difference.low <= item.difference.mean <= item.difference.high <= 1.0
    few = exact_interval(1, 3)
    assert item.after_all_interval == few
    assert item.right_after_interval == exact_interval(3, 3)


def test_the_mean_difference_is_the_backward_transfer() -> None:
    """Rows of R_ij by hand: edit j after i edits."""
    after = ((1.0,), (0.5, 1.0), (0.25, 0.0, 1.0))
    right_after = [probe_result(f"case-{j}", score=after[j][j]) for j in range(3)]
    after_all = [probe_result(f"case-{j}", score=after[2][j]) for j in range(3)]
    (item,) = retention(right_after, after_all, {}, seed=0, last=["case-2"]).values()
    assert item.difference.mean == ((0.25 - 1.0) + (0.0 - 1.0)) / 2
    assert (item.right_after, item.after_all, item.difference.num_samples) == (1.0, 0.125, 2)
    assert retention(right_after, after_all, {}, seed=0, last=[f"case-{j}" for j in range(3)]) == {}


def test_no_loss_among_few_edits_is_no_proof_of_none() -> None:
    kept = [probe_result(f"case-{i}") for i in range(20)]
    (item,) = retention(kept, kept, {}, seed=0).values()
    # At half of the error of 5 %: none of 20 was lost, so at most 1 - 0.0125 ** (1 / 20) are.
    most = 1 - 0.0125 ** (1 / 20)
    assert (item.difference.low, item.difference.high) == pytest.approx((-most, most))


def test_protocols_stay_apart() -> None:
    forced = [probe_result("case", score=1.0)]
    free = [probe_result("case", protocol="free_generation", score=0.0)]
    assert retention(forced, free, {}, seed=0) == {}
    found = retention([*forced, *free], [*free, *forced], {}, seed=0)
    assert {name: item.after_all for name, item in found.items()} == {
        "teacher_forced": 1.0,
        "free_generation": 0.0,
    }
    values = retention_values(found)
    assert values["retention.right_after.teacher_forced"] == 1.0
    assert values["retention.difference.free_generation"] == 0.0


def test_edits_of_one_entity_count_as_one_sample() -> None:
    before = [probe_result(f"case-{i}", score=1.0) for i in range(8)]
    after = [probe_result(f"case-{i}", score=float(i > 3)) for i in range(8)]
    entities = {f"case-{i}": f"entity {i // 4}" for i in range(8)}
    (apart,) = retention(before, after, {}, seed=0).values()
    (together,) = retention(before, after, entities, seed=0).values()
    assert together.difference.num_entities == 2
    assert together.difference.low < apart.difference.low
