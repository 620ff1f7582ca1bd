"""A cluster of three nodes on this machine, drivers to disturb, and the count of what was done."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.integration.faults.scene import LEDGER, Scene, add_node


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """A head for drivers and two nodes for actors."""
    cluster = Cluster()
    add_node(cluster, is_head=True)
    for _ in range(2):
        add_node(cluster)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def scene(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A store and the drivers on it; whoever is left at the end is killed."""
    scene = Scene(tmp_path, cluster, request.node.name)
    yield scene
    scene.end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many faults were injected, and how many edits were checked afterwards."""
    if LEDGER:
        terminalreporter.section("faults injected and edits checked")
        for test, (fault, num_faults, num_edits) in sorted(LEDGER.items()):
            terminalreporter.write_line(
                f"{test}: {num_faults} x {fault}; {num_edits} edits equal to the undisturbed run"
            )
        num_faults = sum(entry[1] for entry in LEDGER.values())
        num_edits = sum(entry[2] for entry in LEDGER.values())
        terminalreporter.write_line(f"all: {num_faults} faults, {num_edits} edits")
