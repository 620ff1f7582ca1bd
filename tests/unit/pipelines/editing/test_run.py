"""The whole job on plain workers, without Ray: what a run does, and what a second one does not."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from infra.bank.fragments import FragmentWriter
from infra.requests.request_reader import RequestReader
from liveedit_core.errors import ConfigError, StorageUnavailableError
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import ProbeKind
from pipelines.editing.intake import Item
from pipelines.job.stages import Generator
from tests.unit.tiny_editing import CheckedProgress, Driver, DyingEmbedder
from tests.unit.tiny_inputs import HashEmbedder, case, request
from tests.unit.tiny_models import CONFIG
from workers.expert_embedding_worker import ExpertEmbeddingWorker
from workers.messages import AskedEdit, GeneratedBatch, GeneratorFacts, WrittenBatch


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


def test_windows_end_at_multiples_and_points(driver: Driver) -> None:
    outcome = driver.run([case(number) for number in range(10)])
    assert [window.num_edits for window in driver.bank.history()] == [1, 4, 5, 8, 10]
    assert [item.num_edits for item in outcome.evaluations] == [1, 5, 10]
    assert outcome.num_edits == 10
    assert outcome.timings.num_processed == 10


class WaitingEmbedder(ExpertEmbeddingWorker):
    """Writes the second batch once something has happened."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__(HashEmbedder)
        self._event = event

    def stream(
        self, batches: Iterable[GeneratedBatch], writer: FragmentWriter
    ) -> Iterator[tuple[WrittenBatch, tuple[AskedEdit, ...]]]:
        for index, answer in enumerate(super().stream(batches, writer)):
            assert not index or self._event.wait(120)
            yield answer


def test_a_commit_is_said_before_the_next_batch_is_there(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_said = threading.Event()
    monkeypatch.setattr(CheckedProgress, "say", lambda self, text: is_said.set())
    driver.embedder = WaitingEmbedder(is_said)
    assert driver.run([case(number) for number in range(3)]).num_edits == 3


def test_the_caller_hears_of_the_first_window_and_of_the_end(driver: Driver) -> None:
    heard: list[int] = []
    driver.run(
        [case(number) for number in range(5)],
        on_window=lambda: heard.append(driver.bank.num_edits()),
    )
    assert (heard[0], heard[-1]) == (1, 5)
    heard.clear()
    driver.run([], on_window=lambda: heard.append(driver.bank.num_edits()))
    assert heard == [5]


def test_each_point_is_scored_on_the_cases_it_holds(driver: Driver) -> None:
    outcome = driver.run([case(number) for number in range(10)])
    for evaluation in outcome.evaluations:
        reliability = evaluation.summary[ProbeKind.RELIABILITY, "teacher_forced"]
        assert reliability.num_samples == evaluation.num_cases == evaluation.num_edits
        locality = evaluation.summary[ProbeKind.TEXT_LOCALITY, "teacher_forced"]
        assert locality.mean == 1.0


def test_the_recipe_sets_the_budget_before_the_first_window(driver: Driver) -> None:
    driver.run([case(number) for number in range(2)], "filter.false_activation=0.05")
    first, *windows = driver.bank.history()
    assert (first.kind, first.num_edits, first.author) == ("calibrate", 0, "")
    assert {window.kind for window in windows} == {"window"}
    driver.run([case(number) for number in range(2)])  # keeps what the bank has
    assert driver.bank.version == windows[-1].version
    driver.run([case(number) for number in range(2)], "filter.false_activation=0.1")
    assert driver.bank.load_repository(CONFIG).false_activation == 0.1
    assert driver.bank.load_repository(CONFIG, windows[-1].version).false_activation == 0.05


@pytest.mark.parametrize("share", ["-0.1", "0.6", "nan"])
def test_a_budget_that_is_none_is_refused(driver: Driver, share: str) -> None:
    with pytest.raises(ConfigError, match="false_activation"):
        driver.run([], f"filter.false_activation={share}")


def test_a_second_run_does_nothing_and_reads_the_same_results(driver: Driver) -> None:
    first = driver.run([case(number) for number in range(10)])
    version = driver.bank.version
    second = driver.run([case(number) for number in range(10)])
    assert driver.bank.version == version
    assert second.timings.num_processed == 0
    assert second.num_edits_before == second.num_edits == 10
    assert [e.summary for e in second.evaluations] == [e.summary for e in first.evaluations]
    assert sum(e.num_new_results for e in second.evaluations) == 0


@pytest.mark.parametrize("num_batches", range(5))
def test_after_any_death_the_bank_is_that_of_an_undisturbed_run(
    tmp_path: Path, num_batches: int
) -> None:
    items = [case(number) for number in range(10)]
    undisturbed = Driver(tmp_path / "undisturbed")
    expected = undisturbed.run(items)
    killed = Driver(tmp_path / "killed")
    killed.embedder = DyingEmbedder(num_batches)
    with pytest.raises(StorageUnavailableError):
        killed.run(items)
    killed.embedder = ExpertEmbeddingWorker(HashEmbedder)
    outcome = killed.run(items)
    assert killed.rows() == undisturbed.rows()
    windows = [[w.num_edits for w in d.bank.history()] for d in (killed, undisturbed)]
    assert windows[0] == windows[1]
    assert [e.summary for e in outcome.evaluations] == [e.summary for e in expected.evaluations]


def test_a_stop_ends_with_the_window(driver: Driver) -> None:
    items = [case(number) for number in range(10)]
    outcome = driver.run(items, stop_after=4)
    assert outcome.was_stopped
    assert driver.bank.num_edits() == 4
    assert driver.run(items).num_edits == 10


def test_what_cannot_be_taught_is_on_record_and_not_tried_again(driver: Driver) -> None:
    items: list[Item] = [
        request(0),
        Rejected(line_number=2, error_type="NotJson", message="not JSON", raw="{"),
        request(1, target="far too many words in this answer"),
        request(2, prompt="poison"),
        Rejected(line_number=5, error_type="Duplicate", message="same as line 1"),
        request(3),
    ]
    outcome = driver.run(items)
    assert outcome.num_edits == 2
    assert [item.error_type for item in outcome.intake.rejected] == ["NotJson"]
    assert outcome.intake.num_duplicates == 1
    assert [item.error_type for item in outcome.rejected] == ["TooManyTokens", "NumericsError"]
    assert len(driver.log.rejects.read()) == 4
    again = driver.run(items)
    assert again.timings.num_processed == 0
    assert len(driver.log.rejects.read()) == 4


def test_a_new_target_supersedes_the_old_edit(driver: Driver) -> None:
    outcome = driver.run([request(0, target="old"), request(1), request(0, target="new")])
    old, new = request(0, target="old"), request(0, target="new")
    assert driver.bank.edit_ids() == [request(1).edit_id, new.edit_id]
    assert outcome.intake.superseded_by == {old.edit_id: new.edit_id}
    last = outcome.evaluations[-1]
    assert (last.num_edits, last.num_cases) == (2, 2)


def test_the_limit_counts_valid_inputs(driver: Driver) -> None:
    bad = Rejected(line_number=1, error_type="NotJson", message="not JSON")
    outcome = driver.run([bad, *(request(number) for number in range(5))], "requests.limit=3")
    assert outcome.num_edits == 3


def test_only_some_cases_are_examined_when_asked(driver: Driver) -> None:
    both = 'evaluation.protocols=["teacher_forced", "free_generation"]'
    outcome = driver.run(
        [case(number) for number in range(10)],
        "evaluation.max_cases=4",
        "evaluation.free_generation_cases=2",
        both,
    )
    summary = outcome.evaluations[-1].summary
    assert summary[ProbeKind.RELIABILITY, "teacher_forced"].num_samples == 4
    assert summary[ProbeKind.RELIABILITY, "free_generation"].num_samples == 2


def test_a_curve_counts_all_cases_at_each_number_of_edits(driver: Driver) -> None:
    items = [case(number) for number in range(10)]
    assert driver.run(items).curve == []
    curve = driver.run(items, "evaluation.curve_at=[1, 4, 1000]").curve
    assert [point.num_edits for point in curve] == [1, 4, 10]
    for point in curve:
        assert point.summary[ProbeKind.RELIABILITY, "teacher_forced"].num_samples == 10
        assert point.is_complete
    again = driver.run(items, "evaluation.curve_at=[1, 4, 1000]").curve
    assert [point.results for point in again] == [point.results for point in curve]
    assert sum(point.num_new_results for point in again) == 0


def test_requests_are_generated_only_as_there_is_room(driver: Driver) -> None:
    """The job takes micro-batches one by one: it never reads the whole log ahead."""
    watching = WatchingGenerator(driver.generator)
    driver.generator = watching
    driver.run([case(number) for number in range(10)])
    assert watching.taken == [1, 3, 1, 3, 2]
    assert watching.num_ahead_most == 1


class WatchingGenerator:
    """Counts the micro-batches that were taken before earlier ones were through."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.taken: list[int] = []
        self.num_ahead_most = 0

    def describe(self) -> GeneratorFacts:
        return self._generator.describe()

    def stream(
        self, batches: Iterable[Sequence[int]], requests: RequestReader
    ) -> Iterator[GeneratedBatch]:
        answers = self._generator.stream(self._watched(batches), requests)
        for num_through, answer in enumerate(answers):
            self.num_ahead_most = max(self.num_ahead_most, len(self.taken) - num_through)
            yield answer

    def _watched(self, batches: Iterable[Sequence[int]]) -> Iterator[Sequence[int]]:
        for batch in batches:
            self.taken.append(len(batch))
            yield batch

    def close(self) -> None:
        """Has nothing."""


def test_a_stop_before_all_is_logged_leaves_windows_as_they_are(driver: Driver) -> None:
    items = [request(number) for number in range(150)]
    wide = ("bank.window_edits=140", "generator.batch_size=70", "evaluation.at=[]")
    outcome = driver.run(items, *wide, stop_after=0)
    assert (outcome.was_stopped, len(driver.log)) == (True, 128)
    assert driver.bank.history() == []
    driver.run(items, *wide)
    assert [window.num_edits for window in driver.bank.history()] == [140, 150]


def test_a_refusal_counts_once_it_is_stored(driver: Driver) -> None:
    items = [request(number, prompt="poison" if number == 4 else "What?") for number in range(8)]
    outcome = driver.run(items, "evaluation.at=[]", stop_after=4)
    assert outcome.rejected == []
    assert driver.log.rejects.read() == []
    again = driver.run(items, "evaluation.at=[]")
    assert [item.edit_id for item in again.rejected] == [items[4].edit_id]


def test_a_window_whose_edits_were_all_removed_changes_nothing(driver: Driver) -> None:
    items = [case(number) for number in range(12)]
    driver.embedder = RemovingEmbedder(driver, [item.edit.edit_id for item in items[8:]])
    merging = ("generator.batch_size=2", "growth.every_windows=1")
    outcome = driver.run(items, "evaluation.at=[]", *merging)
    assert driver.bank.version > driver.bank.history()[-1].version
    assert driver.bank.edit_ids() == [item.edit.edit_id for item in items[:8]]
    assert [item.num_edits for item in outcome.evaluations] == [8]


class RemovingEmbedder(ExpertEmbeddingWorker):
    """Somebody removes edits while the second window is written."""

    def __init__(self, driver: Driver, edit_ids: Sequence[str]) -> None:
        super().__init__(HashEmbedder)
        self._driver, self._edit_ids = driver, edit_ids

    def stream(
        self, batches: Iterable[GeneratedBatch], writer: FragmentWriter
    ) -> Iterator[tuple[WrittenBatch, tuple[AskedEdit, ...]]]:
        for number, answer in enumerate(super().stream(batches, writer)):
            if number == 2:
                self._driver.bank.remove(self._edit_ids, author="a", reason="r", epoch=None)
            yield answer
