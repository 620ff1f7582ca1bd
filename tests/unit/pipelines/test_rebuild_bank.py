"""A rebuilt bank is the one that the other generator would have written from the beginning."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.bank.expert_bank import ExpertBank
from infra.bank.traffic import write_traffic
from infra.requests.request_log import RequestLog
from infra.requests.request_reader import RequestReader
from infra.storage.object_store import ObjectStore
from liveedit_core.errors import ConfigError, InputError, IntegrityError, RepositoryMismatchError
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.schema import EditRequest
from pipelines.editing.rebuild import (
    RebuildResult,
    lost_forms,
    rebuild,
    source_sequences,
    with_budget_of_source,
)
from pipelines.editing.recipe import LifelongEditRecipe, RebuildRecipe, RebuildSourceSection
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.stages import bank_identity
from pipelines.rebuild_bank import main
from tests.random_states import assert_same_experts
from tests.tiny_bank import EMBEDDER
from tests.unit.tiny_editing import CheckedProgress
from tests.unit.tiny_inputs import HashEmbedder, request
from tests.unit.tiny_models import CONFIG, TinyModels
from workers.expert_embedding_worker import ExpertEmbeddingWorker
from workers.generator_worker import GeneratorWorker
from workers.messages import GeneratedBatch, GeneratorFacts, NumberedRequest


@dataclass(frozen=True)
class OtherModels(TinyModels):
    """The same backbone with another generator."""

    def load_generator(self) -> LiveEditGenerator:
        torch.manual_seed(1)
        generator = LiveEditGenerator(CONFIG).eval().requires_grad_(False)
        generator.digest = "other-generator"
        return generator


@dataclass
class Counting:
    """A generator that notes what it was asked."""

    worker: GeneratorWorker
    asked: list[int] = field(default_factory=list)

    def describe(self) -> GeneratorFacts:
        return self.worker.describe()

    def stream(
        self, batches: Iterable[Sequence[int]], requests: RequestReader
    ) -> Iterator[GeneratedBatch]:
        def noted() -> Iterator[Sequence[int]]:
            for batch in batches:
                self.asked += batch
                yield batch

        return iter(self.worker.stream(noted(), requests))

    def close(self) -> None:
        pass


def settings() -> LifelongEditRecipe:
    overrides = ["bank.window_edits=3", "generator.batch_size=2", "source.bank=main"]
    return load_recipe(RebuildRecipe, None, overrides).editing()


class House:
    """One store: a log of eleven requests, and the bank that the first generator wrote of it.

    Request 11 gives the image of request 3 a new target; edits 5 and 6 were removed.
    """

    def __init__(self, folder: Path) -> None:
        self.store = ObjectStore(folder)
        self.log = RequestLog(self.store)
        requests = [request(n) for n in range(1, 11)] + [request(3, target="another entity")]
        self.log.append(requests)
        self.bank = self.taught("main", TinyModels(), requests)
        gone = [requests[4].edit_id, requests[5].edit_id]
        epoch = self.bank.acquire_writer()
        self.bank.remove(gone, author="ada", reason="test", epoch=epoch)

    def open(self, name: str, models: TinyModels) -> ExpertBank:
        facts = GeneratorWorker(models, InputLimits()).describe()
        return ExpertBank.open_or_create(self.store, name, bank_identity(facts, EMBEDDER))

    def taught(self, name: str, models: TinyModels, requests: Sequence[EditRequest]) -> ExpertBank:
        bank = self.open(name, models)
        numbered = [NumberedRequest(sequence=n + 1, request=r) for n, r in enumerate(requests)]
        batch = GeneratorWorker(models, InputLimits()).generate(numbered)
        written, _ = ExpertEmbeddingWorker(HashEmbedder).write(batch, bank.fragment_writer())
        bank.commit(written.fragments, epoch=bank.acquire_writer())
        return bank

    def rebuild(
        self,
        name: str,
        *,
        source: str = "main",
        version: str = "",
        models: TinyModels | None = None,
        stop_after: int | None = None,
    ) -> tuple[RebuildResult, list[int]]:
        """Rebuild with plain workers; returns the outcome, and which requests were written."""
        models = models or OtherModels()
        bank = self.open(name, models)
        section = RebuildSourceSection(bank=source, version=version)
        generator = Counting(GeneratorWorker(models, InputLimits()))
        before = len(bank.history())

        def should_stop() -> bool:
            return stop_after is not None and len(bank.history()) - before >= stop_after

        outcome = rebuild(
            with_budget_of_source(settings(), section, bank),
            wanted=source_sequences(self.store, section),
            generator=generator,
            embedder=ExpertEmbeddingWorker(HashEmbedder),
            bank=bank,
            request_log=self.log,
            progress=CheckedProgress(),
            should_stop=should_stop,
        )
        return outcome, generator.asked


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "store")


def test_the_new_bank_holds_the_edits_of_the_old_one_as_the_other_generator_writes_them(
    house: House,
) -> None:
    before = house.bank.version
    outcome, asked = house.rebuild("new")
    assert asked == [1, 2, 4, 7, 8, 9, 10, 11]  # neither what was removed nor superseded
    assert (outcome.num_edits, outcome.num_new, outcome.num_refused) == (8, 8, 0)
    new = ExpertBank.open(house.store, "new")
    assert new.edit_ids() == house.bank.edit_ids()
    expected = house.taught("expected", OtherModels(), [item.request for item in house.log.read()])
    written, wanted, old = (b.load_repository(CONFIG) for b in (new, expected, house.bank))
    assert_same_experts(written, wanted, atol=1e-5)
    assert not torch.equal(written.down_LD, old.down_LD)
    assert house.bank.version == before
    assert house.rebuild("new") == (
        RebuildResult(num_edits=8, num_new=0, num_refused=0, was_stopped=False),
        [],
    )


def test_a_rebuild_goes_on_where_it_was_stopped(house: House) -> None:
    stopped, first = house.rebuild("new", stop_after=1)
    assert stopped.was_stopped
    assert 0 < stopped.num_edits < 8
    outcome, rest = house.rebuild("new")
    assert (outcome.num_edits, outcome.was_stopped) == (8, False)
    held = [1, 2, 4, 7, 8, 9, 10, 11]
    assert sorted({*first, *rest}) == held
    assert rest == held[stopped.num_edits :]
    house.rebuild("undisturbed")
    banks = (ExpertBank.open(house.store, name) for name in ("new", "undisturbed"))
    assert_same_experts(*(bank.load_repository(CONFIG) for bank in banks))


def test_a_tagged_version_can_be_the_source(house: House) -> None:
    first = house.bank.history()[0].version
    house.bank.versions.tag("before", first)
    late = request(20)
    house.log.append([late])
    house.rebuild("new", version="before")
    new = ExpertBank.open(house.store, "new")
    assert new.edit_ids() == house.bank.edit_ids()  # what was removed since stays out
    assert late.edit_id not in new.edit_ids()
    with pytest.raises(InputError, match="before"):
        house.rebuild("newer", version="after")
    with pytest.raises(IntegrityError):
        house.rebuild("newer", source="nothing")


def test_the_new_bank_begins_with_the_budget_of_the_old_one_but_without_its_traffic(
    house: House,
) -> None:
    before = house.bank.version
    traffic = write_traffic(house.store, np.eye(2, dtype=np.float32))
    epoch = house.bank.acquire_writer()
    house.bank.calibrate(0.1, traffic=traffic, author="ada", reason="", epoch=epoch)
    house.rebuild("new", stop_after=3)  # the removals, the budget and a window
    new = ExpertBank.open(house.store, "new")
    assert 0 < new.num_edits() < house.bank.num_edits()
    assert {item.false_activation for item in new.history() if item.num_edits} == {0.1}
    assert new.versions.traffic_at(new.version) == ""
    new.calibrate(0.3, author="ada", reason="", epoch=new.acquire_writer())
    house.rebuild("new")
    assert new.versions.false_activation_at(new.version) == 0.3
    house.rebuild("older", version=str(before))
    older = ExpertBank.open(house.store, "older")
    assert {item.false_activation for item in older.history()} == {0.02}


def test_forms_that_the_new_bank_will_lack_are_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(RebuildRecipe, None, ["source.bank=main"])
    assert lost_forms(house.store, recipe) == ""
    monkeypatch.setattr(ExpertBank, "has_forms", lambda self, version: True)
    assert "refine.derived=true" in lost_forms(house.store, recipe)
    for setting in ("refine.derived=true", "source.bank="):
        kept = load_recipe(RebuildRecipe, None, ["source.bank=main", setting])
        assert lost_forms(house.store, kept) == ""


def test_without_a_source_the_whole_log_is_written(house: House) -> None:
    late = request(20)
    house.log.append([late])
    outcome, _ = house.rebuild("new", source="")
    new = ExpertBank.open(house.store, "new")
    assert new.edit_ids() == [*house.bank.edit_ids(), late.edit_id]
    assert outcome.num_edits == 9


def test_what_the_other_generator_cannot_write_is_refused_there_only(house: House) -> None:
    house.log.append([request(20, prompt="poison")])
    poisoned = OtherModels(poisoned_prompt="poison")
    outcome, _ = house.rebuild("new", source="", models=poisoned)
    assert (outcome.num_edits, outcome.num_refused) == (8, 1)
    assert house.bank.pending_sequences(house.log) == [12]
    again, asked = house.rebuild("new", source="", models=poisoned)
    assert (again.num_refused, asked) == (1, [])


def test_a_bank_of_another_generator_is_not_written_to(house: House) -> None:
    with pytest.raises(RepositoryMismatchError, match="generator_digest"):
        house.rebuild("main", source="")


def test_settings_that_cannot_be_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"source\.bank"):
        load_recipe(RebuildRecipe, None, ["source.bank=main", "bank.name=main"])
    with pytest.raises(ConfigError, match="version"):
        load_recipe(RebuildRecipe, None, ["source.version=3"])
    assert main(["--bank", "new"]) == 2
    assert "--store" in capsys.readouterr().err


def test_options_name_settings(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--store", "s3://b/p", "--generator", "folder", "--bank", "new", "--from", "main"]
    assert main([*options, "--dry-run", "generator.gangs=3"]) == 0
    shown = capsys.readouterr().out
    for line in ('store = "s3://b/p"', 'checkpoint = "folder"', 'name = "new"', "gangs = 3"):
        assert line in shown
