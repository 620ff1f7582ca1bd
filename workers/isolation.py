"""Which of several inputs is at fault, and when the program is.

An exception that one input causes is its refusal. That it is no fault of the program, a known-good
input shows: what fails with that too is raised.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from liveedit_core.errors import InputError, LiveEditError

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


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
    nothing will."""
    if isinstance(error, LiveEditError):
        return error.retryable or error.ends_job
    return isinstance(error, MemoryError)
