"""A bank of two versions with results of any score, for comparing them."""

from pathlib import Path

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.results import EvaluationKey, ResultsTable
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.schema import EditRequest, ProbeKind
from pipelines.compare_versions import main
from tests.report_examples import image
from tests.small_rows import SMALL_IDENTITY, row_of
from tests.unit.tiny_results import probe_result

NUM_CASES = 12


def edit(number: int) -> EditRequest:
    return EditRequest(
        image_bytes=image("navy", side=20 + number), prompt=f"Who is {number}?", target="Zürich"
    )


def filled(store: ObjectStore) -> ObjectStore:
    """With a bank whose version holds all edits, and their requests."""
    RequestLog(store).append([edit(i) for i in range(NUM_CASES)])
    bank = ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    epoch = bank.acquire_writer()
    for half in (range(NUM_CASES // 2), range(NUM_CASES // 2, NUM_CASES)):
        fragments = bank.fragment_writer().write([row_of(i + 1, edit(i)) for i in half])
        bank.commit(fragments, epoch=epoch, message="window")
    return store


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
