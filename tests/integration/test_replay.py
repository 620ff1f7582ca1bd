"""Replay by real actors: one copy of the experts a node, and one set of numbers whoever dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from infra.object_store import ObjectStore
from infra.results import ResultsTable
from liveedit_core.repository import ExpertRepository
from pipelines.bank_evaluation import BankEvaluation
from pipelines.session import open_session
from tests.integration.edit_job import ROOT, end_group, environment, wait_for_line
from tests.integration.replay_job import CASES, NUM_RESULTS, SESSION, evaluate, slow_pool
from tests.tiny_bank import taught_bank
from tests.unit.tiny_models import TinyModels
from workers.evaluation_pool import InlineEvaluator
from workers.evaluation_worker import EvaluationWorker
from workers.shared_repository import SharedRepository


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with open_session(SESSION, needed_cpus=4):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    """Holds a bank of all cases."""
    store = ObjectStore(tmp_path_factory.mktemp("store"))
    taught_bank(store, TinyModels(), CASES)
    return store


@pytest.fixture(scope="module")
def undisturbed(store: ObjectStore) -> BankEvaluation:
    """By one plain worker."""
    done = evaluate(store, InlineEvaluator(EvaluationWorker(TinyModels())), "undisturbed")
    assert len(done.results) == NUM_RESULTS
    assert any(result.kept for result in done.results)
    return done


def assert_equal(done: BankEvaluation, undisturbed: BankEvaluation) -> None:
    assert done.is_complete
    assert done.results == undisturbed.results, "bit for bit, weights included"
    assert done.summary == undisturbed.summary


class Reader:
    """Says where in memory the experts lie that it was given."""

    def place(self, shared: SharedRepository) -> tuple[int, str, float]:
        tensor = shared.repository().down_NRD
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, _, offset, _, inode, *_ = line.split()
            start, stop = (int(number, 16) for number in span.split("-"))
            if start <= tensor.data_ptr() < stop:
                position = tensor.data_ptr() - start + int(offset, 16)
                return os.getpid(), f"{inode}:{position}", float(tensor.sum())
        raise AssertionError("the tensor lies nowhere")


@pytest.mark.usefixtures("session")
def test_the_actors_of_a_node_read_the_same_memory() -> None:
    experts = ExpertRepository(
        edit_ids=tuple(str(n) for n in range(200)),
        visual_features_NK=torch.rand(200, 8),
        prompt_features_NK=torch.rand(200, 8),
        down_NRD=torch.rand(200, 4, 64),
        up_NRD=torch.rand(200, 4, 64),
    )
    shared = ray.put(SharedRepository.of(experts))
    actor: Any = ray.remote(Reader)
    readers = [actor.options(num_cpus=0.1).remote() for _ in range(2)]
    first, second = ray.get([reader.place.remote(shared) for reader in readers])
    assert first[0] != second[0], "two processes"
    assert first[1] == second[1], "one file of shared memory, one place in it"
    assert first[1] != "0:0"
    assert first[2] == second[2] == float(experts.down_NRD.sum())
    for reader in readers:
        ray.kill(reader)


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_a_killed_actor_changes_no_number(
    store: ObjectStore, undisturbed: BankEvaluation, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(num_done: int, num_units: int) -> None:
        pids = [int(path.name) for path in tmp_path.iterdir()]
        if num_done >= 2 and not killed and len(pids) == 2:
            killed.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)

    pool = slow_pool(store, tmp_path)
    done = evaluate(store, pool, "killed actor", kill)
    pool.close()
    assert killed
    assert len(list(tmp_path.iterdir())) > 2, "another process took its place"
    assert_equal(done, undisturbed)


@pytest.mark.slow
def test_a_killed_driver_goes_on_where_it_was(
    store: ObjectStore, undisturbed: BankEvaluation, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    arguments = [store.root_uri, "killed driver", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.replay_job", *arguments],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for_line(process, "scored 3 of 8")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        end_group(process)
    num_stored = len(ResultsTable(store, "killed driver").read())
    assert 0 < num_stored < NUM_RESULTS
    request.getfixturevalue("session")
    pool = slow_pool(store, tmp_path, num_workers=1)
    done = evaluate(store, pool, "killed driver")
    pool.close()
    assert done.num_new_results == NUM_RESULTS - num_stored
    assert_equal(done, undisturbed)
