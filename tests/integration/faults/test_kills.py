"""Processes and nodes that die in the middle of the work."""

import random
import signal
import time
from pathlib import Path

import pytest

from infra.storage.writer_fence import WriterFence
from tests.integration.faults.edit_driver import BANK, BATCH_SIZE
from tests.integration.faults.scene import Scene, add_node

pytestmark = pytest.mark.slow

VICTIMS = ("driver", "generator", "embedder")


def torture(scene: Scene, *, num_kills: int, num_edits: int, seed: int) -> None:
    """Kill somebody at a random moment, again and again; a killed driver is started once more."""
    draw = random.Random(seed)
    arguments = [f"--num-edits={num_edits}", "--pause-s=0.15"]
    victims = [VICTIMS[index % 3] for index in range(num_kills)]
    draw.shuffle(victims)
    driver = scene.start(*arguments)
    for victim in victims:
        num_commits = driver.output.count("committed bank version")
        driver.wait_for("committed bank version", count=num_commits + 1)
        time.sleep(draw.uniform(0.0, 0.5))
        assert driver.process.poll() is None, "more edits are needed for so many kills"
        if victim == "driver":
            driver.kill()
            driver = scene.start(*arguments)
        else:
            scene.kill_actor(victim)
    assert driver.wait() == 0, driver.output
    scene.check(
        num_edits,
        fault="kill -9 of driver, generator or embedding actor",
        num_faults=num_kills,
        batch_size=BATCH_SIZE,
    )


def test_three_kills_at_random_moments(scene: Scene) -> None:
    torture(scene, num_kills=3, num_edits=60, seed=1)


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_twenty_kills_at_random_moments(scene: Scene) -> None:
    torture(scene, num_kills=20, num_edits=400, seed=2)


def test_a_node_that_is_pulled_out(scene: Scene) -> None:
    driver = scene.start("--num-edits=24", "--pause-s=0.15")
    driver.wait_for("committed bank version")
    _, node_id = scene.living("generator")[-1]
    (node,) = [n for n in scene.cluster.list_all_nodes() if n.node_id == node_id]
    scene.cluster.remove_node(node, allow_graceful=False)
    try:
        assert driver.wait() == 0, driver.output
    finally:
        add_node(scene.cluster)
    scene.check(24, fault="node of three removed", num_faults=1, batch_size=BATCH_SIZE)
    assert {node for _, node in scene.living("generator")} != {node_id}


def test_two_drivers_at_once(scene: Scene) -> None:
    """The older one is thought dead: it hangs, a newer one takes over, then it wakes up."""
    older = scene.start("--num-edits=24", "--pause-s=0.15")
    older.wait_for("committed bank version")
    older.process.send_signal(signal.SIGSTOP)
    newer = scene.start("--num-edits=24")
    assert newer.wait() == 0, newer.output
    older.process.send_signal(signal.SIGCONT)
    assert older.wait() == 1, older.output
    assert "error: bank 'main': writer epoch 1 is fenced by a newer writer" in older.output
    assert "this process must stop" in older.output
    scene.check(24, fault="second driver on one bank", num_faults=1, batch_size=BATCH_SIZE)
    WriterFence(scene.store, BANK).check(2)


def test_power_that_fails_between_fragment_and_commit(scene: Scene) -> None:
    """The files of the window lie there, some of them cut short, as no disk had kept them yet."""
    driver = scene.start("--num-edits=20", "--die-at-commit=3")
    driver.wait()
    assert driver.process.returncode < 0
    bank = scene.bank
    visible = {Path(key).name for key in bank.file_keys(bank.version)}
    data = Path(scene.store.table_uri(f"banks/{BANK}")) / "data"
    orphans = [path for path in data.iterdir() if path.name not in visible]
    assert orphans, "fragments that nobody committed"
    for index, path in enumerate(orphans):
        with path.open("r+b") as file:
            file.truncate(0 if index % 2 else path.stat().st_size // 2)
    again = scene.start("--num-edits=20")
    assert again.wait() == 0, again.output
    scene.check(20, fault="power cut before a commit", num_faults=1, batch_size=BATCH_SIZE)
    newest = {Path(key).name for key in scene.bank.file_keys(scene.bank.version)}
    assert newest.isdisjoint(path.name for path in orphans)
