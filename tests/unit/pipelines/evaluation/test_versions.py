"""Two versions are compared by stored results alone, and the exit code says what was found."""

from pathlib import Path

import numpy as np
import pytest
import torch

from infra.bank.expert_bank import BankIdentity, ExpertBank, ExpertRow
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.results import EvaluationKey, ResultsTable
from liveedit_core.evaluation.metrics import ProbeResult
from liveedit_core.method.expert import Expert
from liveedit_core.schema import EditRequest, ProbeKind
from pipelines.compare_versions import main
from tests.report_examples import image
from tests.unit.tiny_results import probe_result

NUM_CASES = 12


def edit(number: int) -> EditRequest:
    return EditRequest(
        image_bytes=image("navy", side=20 + number), prompt=f"Who is {number}?", target="Zürich"
    )


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """A store on disk."""
    return filled(ObjectStore(tmp_path / "store"))


def filled(store: ObjectStore) -> ObjectStore:
    """With a bank whose version holds all edits, and their requests."""
    RequestLog(store).append([edit(i) for i in range(NUM_CASES)])
    identity = BankIdentity(
        backbone_digest="b",
        generator_digest="g",
        edit_layer=1,
        hidden_size=2,
        module_dim=2,
        num_queries=1,
        rank=1,
        embedding_model="tower",
        embedding_size=2,
    )
    bank = ExpertBank.open_or_create(store, "main", identity)
    epoch = bank.acquire_writer()
    for half in (range(NUM_CASES // 2), range(NUM_CASES // 2, NUM_CASES)):
        fragments = bank.fragment_writer().write([row(i) for i in half])
        bank.commit(fragments, epoch=epoch, message="window")
    return store


def row(number: int) -> ExpertRow:
    request = edit(number)
    return ExpertRow(
        expert=Expert(
            edit_id=request.edit_id,
            visual_feature_QM=torch.ones(1, 2),
            prompt_feature_QM=torch.ones(1, 2),
            down_RD=torch.ones(1, 2),
            up_RD=torch.ones(1, 2),
        ),
        sequence=number + 1,
        subject_id=request.subject_id,
        clip_embedding=np.ones(2, dtype=np.float32),
        provenance={},
    )


def result(number: int, score: float) -> ProbeResult:
    return probe_result(
        edit(number).edit_id, kind=ProbeKind.RELIABILITY, score=score, kept=(edit(0).edit_id,)
    )


def put(store: ObjectStore, run: str, version: int, num_cases: int, score: float) -> None:
    ResultsTable(store, run).append(
        [result(i, score) for i in range(num_cases)],
        EvaluationKey(bank="main", bank_version=version, num_edits=num_cases),
    )


def compare(store: ObjectStore, page: Path, *options: str) -> int:
    return main(["--store", store.root_uri, "--results", "run", "--output", str(page), *options])


def versions(store: ObjectStore) -> list[int]:
    return [window.version for window in ExpertBank.open(store, "main").history()]


def test_a_regression_is_reported_and_shown(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = versions(store)
    put(store, "run", older, NUM_CASES // 2, 1.0)
    put(store, "run", newer, NUM_CASES, 0.0)
    page = tmp_path / "page.html"
    assert compare(store, page, "--old", str(older)) == 3
    shown = capsys.readouterr()
    assert "WORSE   reliability.teacher_forced: 1.000 -> 0.000" in shown.out
    assert "6 of 12 results of version" in shown.err  # the cases that the older one lacked
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") == NUM_CASES // 2
    assert "Who is 0?" in text
    assert f"version {newer} against version {older}" in text


def test_equal_versions_are_fine(store: ObjectStore, tmp_path: Path) -> None:
    older, newer = versions(store)
    put(store, "run", older, 4, 1.0)
    put(store, "run", newer, 4, 1.0)
    assert compare(store, tmp_path / "page.html", "--old", str(older)) == 0


def test_missing_results_are_named_with_what_there_is(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, "run", 2, 4, 1.0)
    assert compare(store, tmp_path / "page.html", "--old", "77") == 1
    assert "it has: main version 2 (4 edits)" in capsys.readouterr().err


def test_settings_are_checked_before_anything_is_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    assert "store is not set" in capsys.readouterr().err
    assert main(["old.nonsense=1"]) == 2
    assert main(["--dry-run", "--old", "3"]) == 0
    assert "version = 3" in capsys.readouterr().out
