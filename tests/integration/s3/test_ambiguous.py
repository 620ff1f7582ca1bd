"""An answer that never came, came late or came wrong: nothing is lost, doubled or damaged."""

import pytest

from tests.integration.conftest import S3Server
from tests.integration.s3.ambiguous import COMMITS, FAULTS, check_all, write_through_faults


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS[:2])
def test_commits_of_unknown_fate(s3_server: S3Server, s3_root: str, fault: str) -> None:
    num_faults = write_through_faults(s3_server.endpoint, s3_root, fault, COMMITS)
    assert num_faults >= 8
    check_all(s3_root)


@pytest.mark.long
@pytest.mark.parametrize("place", [COMMITS, *range(8)])
@pytest.mark.parametrize("fault", FAULTS)
def test_writes_of_unknown_fate(s3_server: S3Server, s3_root: str, fault: str, place: int) -> None:
    assert write_through_faults(s3_server.endpoint, s3_root, fault, place) > 0
    check_all(s3_root)
