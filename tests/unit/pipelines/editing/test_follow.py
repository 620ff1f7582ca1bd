"""The continuous mode on plain workers: windows by number and time, outages, fencing, draining."""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.bank.fragments import FragmentWriter
from infra.requests.log_integrity import repair_log
from infra.storage.writer_fence import WriterFencedError
from liveedit_core.errors import StorageUnavailableError
from pipelines.editing.follow import Follower
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.recipe_loader import load_recipe
from tests.unit.tiny_editing import Driver, Notes
from tests.unit.tiny_inputs import HashEmbedder, drop, request
from workers.expert_embedding_worker import ExpertEmbeddingWorker
from workers.messages import AskedEdit, GeneratedBatch, WrittenBatch


@dataclass
class Lines:
    """What the job said."""

    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def edits(self, num_done: int, num_total: int) -> None:
        assert 0 < num_done <= num_total

    def evaluations(self, num_waiting: int) -> None:
        raise AssertionError("nothing is evaluated here")


@dataclass
class Place:
    """A store, an inbox, and followers whose pauses the test fills with events."""

    root: Path
    said: Lines = field(default_factory=Lines)
    notes: Notes = field(default_factory=Notes)
    num_pauses: int = 0

    def __post_init__(self) -> None:
        self.driver = Driver(self.root / "store")
        (self.root / "run").mkdir()

    @property
    def inbox(self) -> Path:
        return self.root / "inbox"

    def follower(
        self, *overrides: str, events: Iterable[Callable[[], object]] = (), **options: object
    ) -> Follower:
        """One that is told to stop after the last event; each event happens in a pause."""
        config = load_recipe(
            LifelongEditRecipe,
            None,
            [
                "generator.batch_size=2",
                "bank.window_edits=4",
                "follow.is_on=true",
                f"follow.inbox={self.inbox}",
                f"run_root={self.root}",
                "run_name=run",
                "follow.poll_s=0.01",
                "follow.window_s=0.0",
                "follow.wait_s=0.01",
                *overrides,
            ],
        )
        todo = list(events)
        is_over = False

        def pause(duration_s: float) -> None:
            nonlocal is_over
            self.num_pauses += 1
            time.sleep(duration_s + 0.001)  # one call is one whole pause
            if todo:
                todo.pop(0)()
            else:
                is_over = True

        driver = Driver(self.root / "store")
        return Follower(
            config=config,
            bank=driver.bank,
            request_log=driver.log,
            generator=driver.generator,
            embedder=options.get("embedder", driver.embedder),  # type: ignore[arg-type]
            records=self.notes,
            progress=self.said,
            should_stop=lambda: is_over,
            pause=pause,
        )

    def status(self) -> dict[str, object]:
        content: dict[str, object] = json.loads((self.root / "run" / "follow.json").read_text())
        return content


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def edit_ids(*numbers: int) -> list[str]:
    return [request(number).edit_id for number in numbers]


def test_files_that_arrive_are_taught_one_after_the_other(place: Place) -> None:
    drop(place.inbox, "a.jsonl", [1, 2], age_s=30)
    later = [lambda: drop(place.inbox, "b.jsonl", [3]), lambda: drop(place.inbox, "c.jsonl", [4])]
    outcome = place.follower(events=later).follow()
    assert place.driver.bank.edit_ids() == edit_ids(1, 2, 3, 4)
    assert [window.num_edits for window in place.driver.bank.history()] == [2, 3, 4]
    assert (outcome.num_edits, outcome.intake.num_new, outcome.was_stopped) == (4, 4, False)
    assert 30 <= place.notes.lags[0] < 300
    assert any("lag 3" in line for line in place.said.lines)
    status = place.status()
    assert (status["state"], status["num_edits"], status["lag_s"]) == ("ended", 4, 0.0)


def test_a_window_waits_for_company_until_it_is_full(place: Place) -> None:
    """With much time to wait, only a full window is committed; the rest is drained at the end."""
    drop(place.inbox, "a.jsonl", [1, 2, 3])
    seen: list[int] = []

    def look() -> None:
        seen.append(place.driver.bank.num_edits())

    place.follower(
        "follow.window_s=1000", events=[look, lambda: drop(place.inbox, "b.jsonl", [4, 5]), look]
    ).follow()
    assert seen == [0, 5]
    windows = [window.num_edits for window in place.driver.bank.history()]
    assert windows == [4, 5], "windows end at multiples, then with what is there"
    place.said.lines.clear()
    drop(place.inbox, "c.jsonl", [6])
    place.follower("follow.window_s=1000", events=[look]).follow()
    assert seen[-1] == 5
    assert place.driver.bank.edit_ids() == edit_ids(1, 2, 3, 4, 5, 6)


class FlakyEmbedder:
    """The store is away for the batches that a pattern names; after its end it stays up."""

    def __init__(self, is_away: Iterable[bool]) -> None:
        self._worker = ExpertEmbeddingWorker(HashEmbedder)
        self._is_away = iter(is_away)

    def stream(
        self, batches: Iterable[GeneratedBatch], writer: FragmentWriter
    ) -> Iterator[tuple[WrittenBatch, tuple[AskedEdit, ...]]]:
        for batch in batches:
            if next(self._is_away, False):
                raise StorageUnavailableError("the store is gone")
            yield self._worker.write(batch, writer)

    def close(self) -> None:
        """Has nothing."""


def test_an_outage_is_waited_out_and_said(place: Place) -> None:
    drop(place.inbox, "a.jsonl", range(10))
    nothing = [lambda: None] * 10
    place.follower(
        embedder=FlakyEmbedder([False, True, True, False, True]), events=nothing
    ).follow()
    assert place.driver.bank.edit_ids() == edit_ids(*range(10))
    said = [line for line in place.said.lines if line.startswith("waiting ")]
    assert len(said) == 3
    assert "the store is gone" in said[0]
    assert "nothing is lost" in said[0]


def test_a_stop_during_an_outage_ends_with_an_error_and_the_next_start_goes_on(
    place: Place,
) -> None:
    drop(place.inbox, "a.jsonl", range(3))
    with pytest.raises(StorageUnavailableError, match="the same command resumes"):
        place.follower(embedder=FlakyEmbedder(itertools.repeat(True)), events=[]).follow()
    assert place.driver.bank.num_edits() == 0
    assert len(place.driver.log) == 3
    place.follower(events=[]).follow()
    assert place.driver.bank.edit_ids() == edit_ids(0, 1, 2)


def test_an_older_driver_stops_at_its_next_look_and_loses_nothing(place: Place) -> None:
    drop(place.inbox, "a.jsonl", [1])

    def another_one_comes() -> None:
        drop(place.inbox, "b.jsonl", [2])
        place.follower(events=[]).follow()

    with pytest.raises(WriterFencedError, match="fenced by a newer writer"):
        place.follower(events=[another_one_comes, lambda: None]).follow()
    assert place.driver.bank.edit_ids() == edit_ids(1, 2)


def test_the_recipe_sets_the_budget_before_anything_arrives(place: Place) -> None:
    place.follower("filter.false_activation=0.05").follow()
    (record,) = place.driver.bank.history()
    assert (record.kind, record.false_activation) == ("calibrate", 0.05)


def test_it_can_end_when_nothing_comes(place: Place) -> None:
    drop(place.inbox, "a.jsonl", [1])
    place.follower("follow.stop_when_idle_s=0.001", events=[lambda: None] * 99).follow()
    assert place.num_pauses < 99
    assert place.driver.bank.num_edits() == 1


def test_newest_versions_are_registered_now_and_then(place: Place) -> None:
    drop(place.inbox, "a.jsonl", [1])
    place.follower("follow.register_s=0.01", events=[lambda: None]).follow()
    assert place.notes.num_registered == 1


def test_a_lost_request_that_arrives_again_is_taught(place: Place) -> None:
    log = place.driver.log
    log.append([request(1), request(2)])
    for file in (Path(log.table.uri) / "data").iterdir():
        file.unlink()
    repair_log(log)
    again = [lambda: drop(place.inbox, "a.jsonl", [2]), lambda: None]
    place.follower(events=again).follow()
    assert place.driver.bank.edit_ids() == edit_ids(2)
