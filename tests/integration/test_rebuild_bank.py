"""A bank is rebuilt with another generator on a real Ray, and goes on after a kill."""

from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.builtin.backbone import builtin_generator_folder
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.method.generator import load_generator, save_generator
from tests.integration.edit_job import Run, kill_at, needs_builtin_models

pytestmark = [needs_builtin_models, pytest.mark.long]

NUM_EDITS = 6


def other_generator(folder: Path) -> str:
    """The built-in generator with all weights a little larger; returns its digest."""
    generator = load_generator(builtin_generator_folder())
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(1.01)
    return save_generator(generator, folder)


def test_a_killed_rebuild_goes_on_and_is_registered(tmp_path: Path) -> None:
    digest = other_generator(tmp_path / "generator")
    store = ObjectStore(tmp_path / "store")
    requests = [case.edit for case in load_builtin_cases("development")[:NUM_EDITS]]
    RequestLog(store).append(requests)
    run = Run(tmp_path)
    command = (
        *("--store", str(tmp_path / "store"), "--generator", str(tmp_path / "generator")),
        *("--bank", "new", "bank.window_edits=2", "generator.batch_size=2"),
        "ray.object_store_memory_bytes=100000000",
    )
    process = run.start(*command, job="rebuild_bank")
    kill_at(process, "committed bank version 2")
    held = ExpertBank.open(store, "new").num_edits()
    assert 0 < held <= NUM_EDITS

    code, output = run.do(*command, job="rebuild_bank")
    assert code == 0, output
    assert f"{NUM_EDITS} edits in bank 'new'" in output
    assert f"{NUM_EDITS - held} of them new; none refused" in output
    bank = ExpertBank.open(store, "new")
    assert bank.identity.generator_digest == digest
    assert bank.edit_ids() == [request.edit_id for request in requests]
    client = MlflowClient(f"sqlite:///{run.root / 'mlflow.db'}")
    challenger = client.get_model_version_by_alias("liveedit-bank", "challenger")
    assert challenger.tags["bank"] == "new"
    assert challenger.tags["generator_digest"] == digest
    newest = bank.history()[-1].version
    assert bank.versions.tags() == {f"registered-{newest}": newest}
