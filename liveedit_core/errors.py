"""The exceptions of the project.

Data errors are never retried. Infrastructure errors (`retryable`) are retried a bounded number of
times. Every class takes exactly one message, so that it survives pickling between processes;
secrets in its URIs are masked.
"""

from typing import ClassVar

from liveedit_core.masking import masked


class LiveEditError(Exception):
    """Base class; the message says what is wrong, where, and what to do."""

    retryable: ClassVar[bool] = False
    ends_job: ClassVar[bool] = False
    """Whether the error is of no single input: all others would meet it too."""

    def __init__(self, message: str) -> None:
        self.message = masked(message)
        super().__init__(self.message)


class InputError(LiveEditError):
    """An edit request, case or image is invalid."""


class ConfigError(LiveEditError):
    """A recipe, option or configuration field is unknown, of the wrong type or out of range."""


class ShapeError(LiveEditError):
    """A tensor does not have the expected shape."""


class RepositoryMismatchError(LiveEditError):
    """An expert bank belongs to another backbone, generator, layer or shape."""


class NumericsError(LiveEditError):
    """NaN or infinity where finite numbers are required."""


class IntegrityError(LiveEditError):
    """Stored bytes are missing, truncated or altered."""


class WorkerLostError(LiveEditError):
    """A worker process or node died; its unfinished work may be retried."""

    retryable = True


class StorageUnavailableError(LiveEditError):
    """The object store did not answer, or not as it should."""

    retryable = True


class TrackingError(LiveEditError):
    """MLflow did not accept a record; records are spooled and sent later."""

    retryable = True


class DeadlineError(LiveEditError):
    """Work did not finish in time."""

    retryable = True
