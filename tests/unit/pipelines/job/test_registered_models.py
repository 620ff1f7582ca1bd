"""Which version is the newest, however late it was registered."""

import pytest

from liveedit_core.errors import InputError
from pipelines.job.registered_models import newest_version, version_of
from tests.unit.tiny_operations import Operations, some_cases


def test_the_newest_is_the_one_with_the_most_commits_behind_it(operations: Operations) -> None:
    with pytest.raises(InputError, match="lifelong_edit"):
        newest_version(operations.versions)
    operations.teach(some_cases(1, 1))
    unregistered = operations.commit(some_cases(2, 2))
    last = operations.teach(some_cases(3, 3))
    late = operations.registry.register_bank_version(operations.bank, unregistered)
    assert (last.version, late.version) == (2, 3)
    assert newest_version(operations.versions) == last
    assert version_of(operations.versions, operations.bank, unregistered) == late
    with pytest.raises(InputError, match="version 99 of bank 'main' is not registered"):
        version_of(operations.versions, operations.bank, 99)
