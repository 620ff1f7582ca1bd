"""One holder at a time, on a clock of the test's own; a dead holder blocks nobody for long."""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.storage.lease import Lease, LeaseLostError
from infra.storage.object_store import ObjectStore


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(store: ObjectStore, clock: Clock) -> Callable[[], Lease]:
    return lambda: Lease(store, "night", term_s=60.0, now_s=clock)


def test_a_held_lease_names_its_holder(lease: Callable[[], Lease]) -> None:
    assert lease().acquire() is None
    holder = lease().acquire()
    assert holder is not None
    assert holder.holder.startswith("process ")


def test_of_many_at_once_one_wins(lease: Callable[[], Lease]) -> None:
    contenders = [lease() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(Lease.acquire, contenders))
    assert answers.count(None) == 1


def test_an_expired_lease_is_taken_over_and_the_old_holder_must_stop(
    lease: Callable[[], Lease], clock: Clock
) -> None:
    first, second = lease(), lease()
    first.acquire()
    clock.now_s += 59.0
    assert second.acquire() is not None
    clock.now_s += 1.0
    assert second.acquire() is None
    for action in (first.check, first.renew):
        with pytest.raises(LeaseLostError):
            action()
    second.renew()


def test_renewing_extends_the_term_and_coming_late_loses_it(
    lease: Callable[[], Lease], clock: Clock
) -> None:
    first = lease()
    first.acquire()
    clock.now_s += 50.0
    first.renew()
    clock.now_s += 50.0
    assert lease().acquire() is not None
    clock.now_s += 10.0
    with pytest.raises(LeaseLostError, match="expired before it was renewed"):
        first.renew()


def test_a_lease_that_was_given_back_is_free_at_once(lease: Callable[[], Lease]) -> None:
    first = lease()
    first.acquire()
    with first.kept():
        assert lease().acquire() is not None
    assert lease().acquire() is None


def test_a_dead_process_of_this_machine_blocks_nobody(
    lease: Callable[[], Lease], store: ObjectStore
) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    lease().acquire()
    (key,) = store.list("leases/night/")
    claim = json.loads(store.get(key))
    elsewhere = {**claim, "pid": int(dead.stdout), "machine": "another one"}
    store.put(key, json.dumps(elsewhere).encode())
    assert lease().acquire() is not None
    store.put(key, json.dumps({**claim, "pid": int(dead.stdout)}).encode())
    assert lease().acquire() is None
