"""`--teach`: what the API logs is taught beside the server, and then answered from."""

import time

from infra.bank.expert_bank import ExpertBank
from pipelines.serving.service import Service
from pipelines.serving.teacher import teacher_of
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
