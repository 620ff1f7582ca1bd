"""Every error crosses process borders unharmed."""

import inspect
import pickle

import pytest

from liveedit_core import errors

ERRORS: list[type[errors.LiveEditError]] = [
    item
    for _, item in inspect.getmembers(errors, inspect.isclass)
    if issubclass(item, errors.LiveEditError)
]


@pytest.mark.parametrize("error_type", ERRORS, ids=lambda error_type: error_type.__name__)
def test_errors_survive_pickling(error_type: type[errors.LiveEditError]) -> None:
    error = error_type("edit 3f2a: expected 4 rows, got 3")
    error.add_note("seen on rank 1")

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is error_type
    assert str(copy) == str(error) == "edit 3f2a: expected 4 rows, got 3"
    assert copy.args == error.args
    assert vars(copy) == vars(error)
    assert copy.retryable == error.retryable


def test_only_the_worlds_faults_are_retried() -> None:
    retried = {error_type.__name__ for error_type in ERRORS if error_type.retryable}
    assert retried == {
        "WorkerLostError",
        "StorageUnavailableError",
        "TrackingError",
        "DeadlineError",
    }
