"""Failures are sorted into those that may pass and those that will not."""

import pytest
import ray.exceptions

from liveedit_core.errors import InputError, LiveEditError, StorageUnavailableError, WorkerLostError
from workers import failures
from workers.failures import MAX_ATTEMPTS, WorkerStartError, converted_failures, from_ray, retried


def task_error(cause: Exception) -> ray.exceptions.RayTaskError:
    return ray.exceptions.RayTaskError(
        "generate", "Traceback ...\nthe cause", cause, proctitle="worker", pid=1, ip="127.0.0.1"
    )


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ConnectionResetError("peer"), StorageUnavailableError),
        (TimeoutError("slow"), StorageUnavailableError),
        (MemoryError(), WorkerLostError),
        (InputError("bad"), InputError),
        (ZeroDivisionError("bug"), ZeroDivisionError),
    ],
)
def test_inside_a_worker(raised: Exception, expected: type[Exception]) -> None:
    @converted_failures
    def work() -> None:
        raise raised

    with pytest.raises(expected) as caught:
        work()
    assert type(caught.value) is expected


def test_our_own_errors_come_back_as_they_were() -> None:
    error = InputError("prompt is empty")
    assert from_ray(task_error(error), "pool") is error


def test_a_dead_actor_may_be_tried_again() -> None:
    error = from_ray(ray.exceptions.ActorDiedError(), "generator group")
    assert isinstance(error, WorkerLostError)
    assert "generator group" in error.message


def test_an_actor_that_cannot_start_may_not() -> None:
    died = ray.exceptions.ActorDiedError(task_error(InputError("no such folder")))
    error = from_ray(died, "generator group")
    assert isinstance(error, WorkerStartError)
    assert not error.retryable


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    error = task_error(ZeroDivisionError("bug"))
    assert from_ray(error, "pool") is error


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses instead of sleeping through them."""
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    return pauses


def test_infrastructure_is_tried_a_bounded_number_of_times(attempts: list[float]) -> None:
    def fail() -> None:
        raise StorageUnavailableError("503")

    with pytest.raises(StorageUnavailableError):
        retried(fail)
    assert len(attempts) == MAX_ATTEMPTS - 1
    assert attempts == sorted(attempts)


def test_data_errors_are_not(attempts: list[float]) -> None:
    def fail() -> None:
        raise InputError("bad")

    with pytest.raises(LiveEditError):
        failures.retried(fail)
    assert attempts == []
