"""The one exception tree of the project.

Data errors say that the input, not the world, is at fault: they are never retried. Infrastructure
errors may pass with time: they are retried a bounded number of times. Every class takes exactly one
message argument, so that it survives pickling between processes.
"""

from typing import ClassVar


class LiveEditError(Exception):
    """Base of all errors raised on purpose; the message says what, where and what to do."""

    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InputError(LiveEditError):
    """An edit request, case or image from outside is not acceptable."""


class ConfigError(LiveEditError):
    """A recipe, option or configuration field is unknown, of the wrong type or impossible."""


class ShapeError(LiveEditError):
    """A tensor does not have the shape that the method prescribes."""


class RepositoryMismatchError(LiveEditError):
    """An expert bank belongs to another backbone, generator, layer or shape."""


class NumericsError(LiveEditError):
    """NaN or infinity where finite numbers are needed."""


class IntegrityError(LiveEditError):
    """Stored bytes are missing, truncated or altered."""


class WorkerLostError(LiveEditError):
    """A worker process or node died; its unfinished work may be sent again."""

    retryable = True


class StorageUnavailableError(LiveEditError):
    """The object store did not answer, or not in the way it must."""

    retryable = True


class TrackingError(LiveEditError):
    """The MLflow server did not take a record; records are spooled and sent later."""

    retryable = True


class DeadlineError(LiveEditError):
    """A piece of work did not end in time."""

    retryable = True
