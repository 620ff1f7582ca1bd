"""A damaged bank is made whole again from the request log, with plain workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.bank.integrity import verify_version
from infra.requests.log_integrity import repair_log
from infra.requests.request_log import RequestLog
from liveedit_core.errors import (
    ConfigError,
    IntegrityError,
    RepositoryMismatchError,
    StorageUnavailableError,
)
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.generator import LiveEditGenerator
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.repair import Repair, repair_bank
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.stages import ExpertWriters
from tests.unit.tiny_editing import Driver, DyingEmbedder
from tests.unit.tiny_inputs import HashEmbedder, request
from tests.unit.tiny_models import TinyModels
from workers.expert_embedding_worker import ExpertEmbeddingWorker
from workers.generator_worker import GeneratorWorker


class OtherModels(TinyModels):
    """The same backbone with another generator."""

    def load_generator(self) -> LiveEditGenerator:
        generator = super().load_generator()
        generator.digest = "another"
        return generator


class Repairer:
    """A taught bank, and who repairs it."""

    def __init__(self, folder: Path) -> None:
        self.driver = Driver(folder)
        self.driver.run([request(number) for number in range(1, 11)])
        self.embedder: ExpertEmbeddingWorker | DyingEmbedder = ExpertEmbeddingWorker(HashEmbedder)
        self.models = TinyModels()
        self.was_opened = False

    @contextmanager
    def workers(self) -> Iterator[ExpertWriters]:
        self.was_opened = True
        generator = GeneratorWorker(self.models, InputLimits(max_target_tokens=4))
        yield ExpertWriters(generator=generator, embedder=self.embedder)

    def repair(self, *overrides: str) -> Repair:
        config = load_recipe(
            LifelongEditRecipe,
            None,
            ["generator.batch_size=2", "bank.window_edits=4", *overrides],
        )
        return repair_bank(
            self.driver.bank,
            self.driver.log,
            self.workers,
            config,
            author="anna",
            reason="bad disk",
        )

    def files(self) -> list[Path]:
        bank = self.driver.bank
        fragments = bank.dataset(bank.version).get_fragments()
        return [Path(bank.uri) / "data" / item.data_files()[0].path for item in fragments]


@pytest.fixture
def repairer(tmp_path: Path) -> Repairer:
    return Repairer(tmp_path)


def test_lost_experts_are_written_again_to_the_same_numbers(repairer: Repairer) -> None:
    undisturbed = repairer.driver.rows()
    first, second, *_ = repairer.files()
    first.unlink()
    second.unlink()
    repair = repairer.repair()
    assert repairer.driver.rows().equals(undisturbed)
    assert repair.after.is_whole
    assert repair.num_rewritten == len(repair.before.damaged_edits) > 2
    kinds = {(item.kind, item.author, item.message) for item in repairer.driver.bank.history()[-2:]}
    assert kinds == {("repair", "anna", "bad disk")}
    assert repairer.driver.bank.pending_sequences(repairer.driver.log) == []


def test_a_whole_bank_starts_no_worker_and_gets_no_version(repairer: Repairer) -> None:
    before = repairer.driver.bank.version
    assert repairer.repair().num_rewritten == 0
    assert repairer.driver.bank.version == before
    assert not repairer.was_opened


def test_the_next_repair_finishes_one_that_was_killed(repairer: Repairer) -> None:
    undisturbed = repairer.driver.rows()
    for file in repairer.files():
        file.unlink()
    repairer.embedder = DyingEmbedder(2)
    with pytest.raises(StorageUnavailableError):
        repairer.repair()
    repairer.embedder = ExpertEmbeddingWorker(HashEmbedder)
    repair = repairer.repair()
    assert repair.num_rewritten > 0
    assert repairer.driver.rows().equals(undisturbed)


def test_so_does_the_next_editing_job(repairer: Repairer) -> None:
    undisturbed = repairer.driver.rows()
    bank, log = repairer.driver.bank, repairer.driver.log
    repairer.files()[0].unlink()
    report = verify_version(bank, request_log=log)
    bank.drop_damaged(report, author="anna", reason="", epoch=bank.acquire_writer())
    assert bank.num_edits() < len(undisturbed)
    repairer.driver.run([])
    assert repairer.driver.rows().equals(undisturbed)


def test_another_generator_must_not_repair(repairer: Repairer) -> None:
    repairer.files()[0].unlink()
    repairer.models = OtherModels()
    with pytest.raises(RepositoryMismatchError, match="generator_digest"):
        repairer.repair()


def test_experts_are_not_written_again_without_their_forms(
    repairer: Repairer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExpertBank, "has_forms", lambda self: True)
    undisturbed = repairer.driver.rows()
    repairer.files()[0].unlink()
    with pytest.raises(ConfigError, match=r"refine\.derived=true"):
        repairer.repair()
    assert not repairer.was_opened
    repairer.repair("refine.derived=true")
    assert repairer.driver.rows().equals(undisturbed)


def test_nothing_is_dropped_whose_request_is_lost_too(tmp_path: Path) -> None:
    repairer = Repairer(tmp_path)
    bank, log = repairer.driver.bank, repairer.driver.log
    version = bank.version
    for folder in (log.table.uri, bank.uri):
        for file in (Path(folder) / "data").iterdir():
            file.unlink()
    log = repairer.driver.log = RequestLog(repairer.driver.store)
    repair_log(log)
    with pytest.raises(IntegrityError, match="10 damaged edits have no request in the log"):
        repairer.repair()
    assert bank.version == version
