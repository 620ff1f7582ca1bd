"""`--teach`: what the API logs is taught beside the server, and then answered from."""

import time

import pytest
from starlette.testclient import TestClient

from infra.bank.expert_bank import ExpertBank
from infra.storage.writer_fence import WriterFencedError
from liveedit_core.errors import IntegrityError
from pipelines.editing.follow import Follower
from pipelines.serving.app import create_app
from pipelines.serving.service import Service
from pipelines.serving.teacher import editing_recipe, teacher_of
from tests.running_server import Place
from tests.tiny_backbone import request
from tests.unit.tiny_operations import Operations, TinyModels

WAIT_S = 120.0


def test_posted_edits_are_taught_and_removed_ones_leave(operations: Operations) -> None:
    place = Place(operations)
    recipe = place.recipe("bank.name=taught", "teach.is_on=true", "teach.poll_s=0.05")
    service = Service.started(recipe, TinyModels(operations.folder))
    said: list[str] = []
    teacher = teacher_of(service.versions, recipe, said.append)
    teacher.start()
    try:
        first, second = (service.knowledge.submit([request(seed)])[0]["id"] for seed in (1, 2))

        def wait_for(*held: str) -> None:
            deadline_s = time.monotonic() + WAIT_S
            while not service.versions.current.editor or set(
                service.versions.current.editor.repository.edit_ids
            ) != set(held):
                assert not teacher.problem
                assert time.monotonic() < deadline_s, said
                time.sleep(0.05)

        wait_for(first, second)
        service.knowledge.change(first, is_removal=True, author="anna", reason="wrong")
        wait_for(second)
    finally:
        teacher.close()
        service.close()
    assert ExpertBank.open(operations.store, "taught").edit_ids() == [second]
    assert teacher.problem == ""


def test_edits_are_refined_as_the_recipe_says(operations: Operations) -> None:
    recipe = Place(operations).recipe("refine.derived=true", "refine.max_steps=7")
    taught = editing_recipe(recipe).refine
    assert (taught.derived, taught.max_steps) == (True, 7)


def test_a_loop_that_ended_by_itself_is_told(
    operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers on, so only /ready and /v1/status can say it."""
    place = Place(operations)
    recipe = place.recipe("bank.name=taught", "teach.is_on=true")
    service = Service.started(recipe, TinyModels(operations.folder))
    service.teacher = teacher_of(service.versions, recipe, lambda text: None)

    def fail(self: Follower) -> None:
        raise WriterFencedError("another writer took over")

    monkeypatch.setattr(Follower, "follow", fail)
    client = TestClient(create_app(service), base_url="http://127.0.0.1")
    try:
        assert client.get("/ready").json()["status"] == "ready"
        service.teacher.start()
        service.teacher.close()
        ready, status = client.get("/ready"), client.get("/v1/status").json()
    finally:
        service.close()
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert "another writer took over" in status["problem"]
    assert "nothing is taught" in status["problem"]


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (IntegrityError("the log is damaged"), True),
        (ZeroDivisionError("a bug"), True),
        (WriterFencedError("another writer took over"), False),
    ],
)
def test_a_replica_tells_that_the_loop_of_another_process_ended(
    operations: Operations, monkeypatch: pytest.MonkeyPatch, error: Exception, is_told: bool
) -> None:
    recipe = Place(operations).recipe("bank.name=taught", "teach.is_on=true")
    replica = Service.started(recipe, TinyModels(operations.folder))
    teacher = teacher_of(replica.versions, recipe, lambda text: None)

    def fail(self: Follower) -> None:
        raise error

    def told(is_there: bool) -> str:
        deadline_s = time.monotonic() + WAIT_S
        while bool(replica.problem) != is_there and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return replica.problem

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Follower, "follow", fail)
            teacher.start()
            teacher.close()
        assert (str(error) in told(is_told)) == is_told
        monkeypatch.setattr(Follower, "follow", lambda self: None)
        teacher.start()  # the next one runs
        teacher.close()
        assert told(False) == ""
    finally:
        replica.close()
