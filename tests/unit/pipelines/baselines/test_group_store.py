"""Groups are read back as they were written, under their own identity only."""

from pathlib import Path

import pytest

from liveedit_core.baselines.protocol import EditorMemory
from liveedit_core.errors import IntegrityError
from pipelines.baselines.group_store import GroupStore, RungScores
from tests.unit.tiny_results import probe_result


def test_a_group_is_read_back(tmp_path: Path) -> None:
    store = GroupStore(tmp_path)
    rungs = [
        RungScores(
            num_edits=size,
            teach_s=0.5,
            score_s=1.5,
            memory=EditorMemory(fixed_bytes=3, stored_bytes=size),
            results=(probe_result("case-1", kept=("own of case-1",)), probe_result("case-2")),
            right_after=(probe_result("case-1", score=0.5),),
            unrelated=(probe_result("case-3"),),
        )
        for size in (1, 10)
    ]
    path = store.path("LiveEdit (paper) 1", (1, 10), 7)
    assert path.relative_to(tmp_path) == Path("LiveEdit-paper-1/1-10_7.json.gz")
    assert store.read(path, "one") is None
    store.write(path, "one", rungs)
    assert store.read(path, "one") == rungs
    assert store.read(path, "other") is None
    store.write(path, "other", rungs[:1])
    assert store.read(path, "other") == rungs[:1]


def test_a_damaged_group_says_what_to_do(tmp_path: Path) -> None:
    store = GroupStore(tmp_path)
    path = store.path("FT-L", (1,), 0)
    store.write(path, "one", [])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(IntegrityError, match="delete it"):
        store.read(path, "one")
