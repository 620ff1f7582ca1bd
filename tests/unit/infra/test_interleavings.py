"""Writers, a compactor and readers in any order, killed between any two calls: nothing is lost."""

import os
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
from lance import LanceOperation

from infra.storage import tables
from tests.faults.fault_ledger import page
from tests.faults.interleaving import Story, tell

NUM_SEEDS = 30
NUM_LONG = int(os.environ.get("LIVEEDIT_FAULT_SEEDS", "1000"))
PER_TEST = 10
"""So that the tests share the processes that run them."""


def check(seed: int, folder: Path) -> Story:
    story = tell(seed, folder)
    found = (story.num_lost, story.num_doubled, story.problems)
    replay = f"seed {seed}: replay it with `python -m tests.faults.interleaving {seed}`"
    assert found == (0, 0, []), replay
    return story


@pytest.mark.parametrize("first", range(0, NUM_SEEDS, PER_TEST))
def test_nothing_is_lost_or_doubled(tmp_path: Path, first: int) -> None:
    stories = [check(seed, tmp_path / str(seed)) for seed in range(first, first + PER_TEST)]
    assert sum(story.faults.total() for story in stories) >= PER_TEST


@pytest.mark.long
@pytest.mark.parametrize("first", range(NUM_SEEDS, NUM_LONG, PER_TEST))
def test_nothing_is_lost_or_doubled_in_many_orders(tmp_path: Path, first: int) -> None:
    for seed in range(first, min(first + PER_TEST, NUM_LONG)):
        check(seed, tmp_path / str(seed))


def test_a_seed_tells_one_story(tmp_path: Path) -> None:
    assert tell(5, tmp_path / "a").calls == tell(5, tmp_path / "b").calls != []
    assert tell(6, tmp_path / "c").calls != tell(5, tmp_path / "d").calls


def test_commits_that_do_not_conflict_would_be_found(tmp_path: Path) -> None:
    """Without the oldest fragment in its update, Lance rebases one commit on the other."""

    def appended(base: object, new: list[object], *_: object) -> object:
        return LanceOperation.Append(new)  # type: ignore[arg-type]

    with patch.object(tables, "_update", appended):
        found: list[object] = []
        for seed in range(12):
            try:
                story = tell(seed, tmp_path / str(seed))
                found += [story.num_lost, story.num_doubled, len(story.problems)]
            except Exception as error:
                found.append(repr(error))
            if any(found):
                break
    assert any(found)


def test_the_ledger_counts_what_the_stories_tell(tmp_path: Path) -> None:
    told = [tell(seed, tmp_path / str(seed)) for seed in (5, 6)]
    told[1].num_lost = 3
    text = page(told, Counter({"stall": 4}), num_places=8)
    num_faults = sum(story.faults.total() for story in told) + 4
    assert f"| faults injected | {num_faults:,} |" in text
    assert "| edits lost | 3 |" in text
    assert "no answer before the timeout | 4 |" in text
