"""Rejected inputs and their reasons: nothing from outside is dropped silently."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from liveedit_core.errors import InputError
from liveedit_core.outcome import WriteOutcome

MAX_RAW_CHARS = 500
"""A reject keeps this much of the refused line."""


class RejectType(StrEnum):
    """Why an input was refused."""

    NOT_UTF8 = "NotUtf8"
    LINE_TOO_LONG = "LineTooLong"
    NOT_JSON = "NotJson"
    WRONG_TYPE = "WrongType"
    UNKNOWN_KEY = "UnknownKey"
    REPEATED_KEY = "RepeatedKey"
    MISSING_KEY = "MissingKey"
    EMPTY_TEXT = "EmptyText"
    BAD_TEXT = "BadText"
    CONTROL_TOKEN = "ControlToken"
    TEXT_TOO_LONG = "TextTooLong"
    TOO_MANY_TOKENS = "TooManyTokens"
    TOO_MANY_WORDINGS = "TooManyWordings"
    TOO_MANY_PROBES = "TooManyProbes"
    UNKNOWN_PROBE_KIND = "UnknownProbeKind"
    IMAGE_MISSING = "ImageMissing"
    IMAGE_NOT_FOUND = "ImageNotFound"
    IMAGE_NOT_A_FILE = "ImageNotAFile"
    IMAGE_UNREACHABLE = "ImageUnreachable"
    IMAGE_OUTSIDE_ROOTS = "ImageOutsideRoots"
    IMAGE_TOO_LARGE = "ImageTooLarge"
    IMAGE_UNREADABLE = "ImageUnreadable"
    DUPLICATE = "Duplicate"
    WEAK_EDIT = "WeakEdit"
    OTHER = "Other"


class RefusedInputError(InputError):
    """One request, case or image is refused; the others go on."""

    def __init__(self, message: str, error_type: RejectType = RejectType.OTHER) -> None:
        super().__init__(message)
        self.error_type = error_type


class WeakEditError(RefusedInputError):
    """An edit whose own question is not answered after it was written."""

    def __init__(self, outcome: WriteOutcome, target: str) -> None:
        super().__init__(outcome.explanation(target), RejectType.WEAK_EDIT)
        self.outcome = outcome


_UNSAID: dict[type[Exception], str] = {
    MemoryError: "it needs more memory than there is: make it smaller"
}
"""Errors that come without a message."""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """The record of one refused input."""

    line_number: int
    """Line in its file, counted from 1; 0 when it came from no file."""
    error_type: str
    """A `RejectType`, or the class name of another error."""
    message: str
    """What was wrong and what to do, for the person who submitted it."""
    raw: str = ""
    """The refused line, cut to `MAX_RAW_CHARS`."""
    edit_id: str = ""
    """Of the request, if it was complete enough to have one."""
    outcome: WriteOutcome | None = None
    """Of a weak edit, what it answers instead and why; None for every other input."""

    @classmethod
    def from_error(
        cls, error: Exception, *, line_number: int = 0, raw: str = "", edit_id: str = ""
    ) -> Self:
        """The record of an input that some error, of whatever class, is about."""
        kind = error.error_type if isinstance(error, RefusedInputError) else type(error).__name__
        return cls(
            line_number=line_number,
            error_type=str(kind),
            message=str(error) or _UNSAID.get(type(error), repr(error)),
            raw=raw[:MAX_RAW_CHARS],
            edit_id=edit_id,
            outcome=error.outcome if isinstance(error, WeakEditError) else None,
        )
