"""What the report shows comes from the store, so a resumed run shows what the first one did."""

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.bank.expert_bank import ExpertBank
from infra.bank.schema import ExpertRow
from infra.reports.data import ReportData
from infra.reports.editing import render_report
from infra.reports.outcomes import outcome_metrics
from infra.storage.object_store import ObjectStore
from liveedit_core.evaluation.probes import TEACHER_FORCED
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.method.config import RefineSection
from liveedit_core.method.expert import Expert
from liveedit_core.schema import EditRequest, ProbeKind
from pipelines.editing.intake import Item
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.report import (
    ReportSources,
    refused_requests,
    report_data,
    similar_edits,
    write_report,
)
from pipelines.editing.run import Outcome
from pipelines.job.recipe_loader import load_recipe
from tests.unit.tiny_editing import OVERRIDES, Driver
from tests.unit.tiny_inputs import case, request
from tests.unit.tiny_models import IDENTITY, TinyModels
from workers.generator_worker import GeneratorWorker
from workers.messages import NumberedRequest

REFUSED_LINE = Rejected(line_number=3, error_type="NotJson", message="line 3 is not JSON", raw="{")


def input_items() -> list[Item]:
    same_image = EditRequest(
        image_bytes=case(0).edit.image_bytes, prompt=case(0).edit.prompt, target="another answer"
    )
    return [case(0), case(1), REFUSED_LINE, request(5, prompt="poison"), case(2), same_image]


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


def data_of(driver: Driver, outcome: Outcome) -> tuple[ReportSources, ReportData]:
    sources = ReportSources(
        config=load_recipe(LifelongEditRecipe, None, OVERRIDES),
        bank=driver.bank,
        request_log=driver.log,
        results=driver.results,
    )
    return sources, report_data(sources, outcome, facts={"python": "3.11"}, duration_s=1.0)


def test_all_of_a_run_is_in_the_report(driver: Driver) -> None:
    outcome = driver.run(input_items())
    sources, data = data_of(driver, outcome)
    assert [item.error_type for item in data.rejects] == ["NotJson", "NumericsError"]
    assert data.num_rejects == 1 + len(refused_requests(sources, outcome)) == 2
    assert (data.num_edits, data.num_edits_before) == (3, 0)
    assert {point.num_edits for point in data.metrics} == {1, 3}
    assert {example.result.kind for example in data.examples} >= {"reliability", "text_locality"}
    assert all(example.result.score < 1 for example in data.worst_cases)
    own = [kept for example in data.examples for kept in example.kept if kept.is_own]
    assert all(kept.edit and kept.edit.image_bytes for kept in own)


def test_edits_refused_as_weak_are_counted(driver: Driver) -> None:
    driver.run([case(0)])
    refine = RefineSection(mode="on", max_steps=1)
    driver.generator = GeneratorWorker(TinyModels(), InputLimits(), refine=refine)
    items: list[Item] = [case(0), case(1), case(2), REFUSED_LINE]
    for _ in range(2):
        _, data = data_of(driver, driver.run(items))
        assert data.num_edits == 1, "one is held from before, the others are refused"
        every, *by_length = data.outcomes
        assert (every.label, every.num_edits, every.num_weak) == ("all", 2, 2)
        assert sum(row.num_weak for row in by_length) == 2
    assert outcome_metrics(data.outcomes)["edits.all.weak"] == 2.0


def test_a_lifelong_curve_is_in_the_report_with_its_groups(driver: Driver) -> None:
    items = [case(number) for number in range(10)]
    _, data = data_of(driver, driver.run(items, "evaluation.curve_at=[1, 4, 1000]"))
    assert [(point.num_edits, point.num_groups) for point in data.curve] == [
        (1, 10),
        (4, 3),
        (10, 1),
    ]
    for point in data.curve:
        assert point.summary[ProbeKind.RELIABILITY, TEACHER_FORCED].num_cases == 10
    html = render_report(data)
    assert "Lifelong curve: what was taught, teacher-forced" in html


def test_a_replaced_answer_is_a_conflict(driver: Driver) -> None:
    _, data = data_of(driver, driver.run(input_items()))
    conflict = data.similar_pairs[0]
    assert conflict.relation == "conflict"
    assert (conflict.first.target, conflict.second.target) == ("entity number 0", "another answer")


def test_a_resumed_run_shows_the_same(driver: Driver) -> None:
    _, first = data_of(driver, driver.run(input_items()))
    _, second = data_of(driver, driver.run(input_items()))
    assert second.num_edits_before == 3
    for name in ("metrics", "examples", "worst_cases", "rejects", "similar_pairs"):
        assert getattr(second, name) == getattr(first, name)
    assert "line 3 is not JSON" in render_report(second)


ANGLES = [0.0, 0.1, 1.5, 1.55, 3.0]


@pytest.fixture
def five_edits(tmp_path: Path) -> ExpertBank:
    """Five edits whose images point into known directions."""
    bank = ExpertBank.open_or_create(ObjectStore(tmp_path), "test", IDENTITY)
    requests = [NumberedRequest(sequence=n + 1, request=request(n)) for n in range(5)]
    batch = GeneratorWorker(TinyModels(), InputLimits()).generate(requests)
    rows = [
        row(item.expert, n, angle)
        for n, (item, angle) in enumerate(zip(batch.experts, ANGLES, strict=True))
    ]
    bank.commit(bank.fragment_writer().write(rows), epoch=bank.acquire_writer())
    return bank


def row(expert: Expert, number: int, angle: float) -> ExpertRow:
    direction = np.array([np.cos(angle), np.sin(angle), 0, 0, 0, 0], dtype=np.float32)
    return ExpertRow(
        expert=expert,
        sequence=number + 1,
        subject_id=request(number).subject_id,
        clip_embedding=direction,
    )


def test_alike_images_are_found_once_most_alike_first(five_edits: ExpertBank) -> None:
    pairs = similar_edits(five_edits, five_edits.edit_ids(), min_similarity=0.99)
    ids = five_edits.edit_ids()
    assert [(pair.first, pair.second) for pair in pairs] == [(ids[2], ids[3]), (ids[0], ids[1])]
    assert [pair.similarity for pair in pairs] == pytest.approx([np.cos(0.05), np.cos(0.1)])


def test_only_pairs_with_an_edit_of_this_run_count(five_edits: ExpertBank) -> None:
    ids = five_edits.edit_ids()
    pairs = similar_edits(five_edits, [ids[0]], min_similarity=0.99)
    assert [(pair.first, pair.second) for pair in pairs] == [(ids[0], ids[1])]
    assert similar_edits(five_edits, [], min_similarity=0.99) == []


@pytest.mark.parametrize("items", [[], [REFUSED_LINE], [request(5, prompt="poison")]])
def test_an_empty_result_is_a_result(driver: Driver, items: list[Item]) -> None:
    outcome = driver.run(items)
    _, data = data_of(driver, outcome)
    assert (data.num_edits, data.num_rejects) == (0, len(items))
    assert similar_edits(driver.bank, [], min_similarity=0.9) == []
    page = render_report(data)
    assert all(item.message in page for item in data.rejects)


def test_a_full_disk_costs_the_report_only(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = driver.run([case(0), case(1)])
    sources, _ = data_of(driver, outcome)
    config = sources.config.with_changes(run_root=str(tmp_path / "runs"))
    sources, said = replace(sources, config=config), list[str]()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("infra.reports.numbers.write_numbers", full)
        assert write_report(sources, outcome, {}, 0.0, said.append) == ([], [])
    assert "No space left on device" in said[0]
    assert "the same command writes it" in said[0]
    (page, numbers), figures = write_report(sources, outcome, {}, 0.0, said.append)
    assert page.exists()
    assert numbers.exists()
    assert figures
    assert len(said) == 1
