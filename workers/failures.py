"""Failures between driver and workers, sorted into two kinds.

Data errors (`retryable` is False) are never retried, infrastructure errors (`retryable` is True) a
bounded number of times. Any other exception is a bug and is raised unchanged, with its traceback;
unless one input causes it: then it is its refusal (`outcomes`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import ray.exceptions
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from liveedit_core.errors import (
    InputError,
    LiveEditError,
    StorageUnavailableError,
    WorkerLostError,
)

MAX_ATTEMPTS = 4
"""Attempts of one piece of work before its infrastructure error ends the job."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_P = ParamSpec("_P")
_T = TypeVar("_T")

_LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.LocalRayletDiedError,
)


class WorkerStartError(LiveEditError):
    """A worker cannot be constructed; a retry would fail the same way."""


def is_retryable(error: BaseException) -> bool:
    """Whether a retry may help."""
    return isinstance(error, LiveEditError) and error.retryable


def converted_failures(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a worker's method raise our errors in place of connection and memory errors."""

    @functools.wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(*args, **kwargs)
        except LiveEditError:
            raise
        except MemoryError as error:
            raise WorkerLostError(
                f"{method.__qualname__}: out of memory; use smaller batches or fewer workers"
            ) from error
        except (ConnectionError, TimeoutError) as error:
            raise StorageUnavailableError(f"{method.__qualname__}: {error}") from error

    return call


def from_ray(error: Exception, pool: str) -> Exception:
    """The cause of what `ray.get` raised; `pool` is its name, for the message."""
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause
        if isinstance(cause, LiveEditError):
            return cause
        if isinstance(cause, _LOST):
            return from_ray(cause, pool)
        return error
    if isinstance(error, ray.exceptions.RayActorError) and error.actor_init_failed:
        return WorkerStartError(f"{pool}: a worker could not start: {_last_line(error)}")
    if isinstance(error, _LOST):
        return WorkerLostError(f"{pool}: a worker process was lost: {_last_line(error)}")
    return error


def retried(action: Callable[[], _T]) -> _T:
    """Retry an idempotent action with growing pauses while it fails with infrastructure errors."""
    retrying = Retrying(
        retry=retry_if_exception(is_retryable),
        stop=stop_after_attempt(MAX_ATTEMPTS),
        wait=wait_exponential(multiplier=0.5, max=10),
        reraise=True,
    )
    return retrying(action)


def outcomes(
    items: Sequence[_Item],
    act: Callable[[Sequence[_Item]], Sequence[_Answer | Exception]],
    check_program: Callable[[], object],
) -> list[_Answer | Exception]:
    """The answer or error of each item: of all at once, or one by one where that fails.

    `check_program` does the same with an input that nothing is wrong with.
    """
    if not items:
        return []
    try:
        done = list(act(items))
    except Exception as error:
        if is_of_no_input(error):
            raise
        if len(items) > 1:
            return [one for item in items for one in outcomes([item], act, check_program)]
        done = [error]
    if any(isinstance(one, Exception) and not isinstance(one, InputError) for one in done):
        check_program()
    return done


def is_of_no_input(error: Exception) -> bool:
    """Whether an error says nothing about the input at hand: another attempt may succeed, or
    nothing will. Without memory for one input there may be enough for others."""
    return isinstance(error, LiveEditError) and (error.retryable or error.ends_job)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
