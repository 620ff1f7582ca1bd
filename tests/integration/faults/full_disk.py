"""Edits on a file system of a few megabytes that somebody fills; run in a mount name space.

unshare --mount python -m tests.integration.faults.full_disk FOLDER follow|batch
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from infra.bank.expert_bank import ExpertBank
from infra.bank.schema import column_vectors
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.results import ResultsTable
from liveedit_core.errors import StorageUnavailableError
from liveedit_core.inputs.limits import InputLimits
from pipelines.editing.follow import Follower
from pipelines.editing.intake import Source
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.run import run
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.stages import bank_identity
from tests.inline_evaluator import InlineEvaluator
from tests.integration.faults.edit_driver import BANK, WINDOW_EDITS
from tests.tiny_bank import EMBEDDER
from tests.unit.tiny_editing import Notes
from tests.unit.tiny_inputs import HashEmbedder, case
from tests.unit.tiny_models import TinyModels
from workers.evaluation_worker import EvaluationWorker
from workers.expert_embedding_worker import ExpertEmbeddingWorker
from workers.generator_worker import GeneratorWorker

NUM_EDITS = 12
SIZE = "8m"


@dataclass
class SmallDisk:
    """A small file system, and what fills it."""

    folder: Path
    num_full: int = 0
    """How often work met it full."""
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(self.folder)]
        subprocess.run(command, check=True)
        print("MOUNTED", flush=True)

    def fill(self) -> None:
        """Leave no room for another window."""
        with (self.folder / "ballast").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                return

    def free(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)

    def say(self, text: str) -> None:
        """Fill the disk after the first window; give room again when its lack was noticed."""
        self.said.append(text)
        if text.startswith("committed bank version") and not self.num_full:
            self.fill()
        if "No space left on device" in text:
            self.num_full += 1
            self.free()

    def edits(self, num_done: int, num_total: int) -> None: ...
    def evaluations(self, num_waiting: int) -> None: ...


def main(root: Path, mode: str) -> None:
    """Edit, meet the full disk, go on when there is room; print what is in the bank."""
    disk = SmallDisk(root / "disk")
    store = ObjectStore(disk.folder / "store")
    config = load_recipe(
        LifelongEditRecipe,
        None,
        [
            f"bank.window_edits={WINDOW_EDITS}",
            "generator.batch_size=1",
            "evaluation.at=[]",
            f"follow.is_on={str(mode == 'follow').lower()}",
            f"follow.inbox={disk.folder / 'inbox'}",
            f"run_root={disk.folder}",
            "follow.poll_s=0.05",
            "follow.settle_s=0.0",
            "follow.window_s=0.0",
            "follow.wait_s=0.1",
        ],
    )
    generator = GeneratorWorker(TinyModels(), InputLimits())
    identity = bank_identity(generator.describe(), EMBEDDER)
    bank = ExpertBank.open_or_create(store, BANK, identity)
    work = follow if mode == "follow" else teach_twice
    work(config, disk, bank, store, generator)
    rows = bank.load_rows(["edit_id", "expert_up"])
    seen = {
        "num_full": disk.num_full,
        "said": "\n".join(disk.said),
        "num_edits": NUM_EDITS,
        "edit_ids": rows.column("edit_id").to_pylist(),
        "expert_up": [vector.tolist() for vector in column_vectors(rows, "expert_up")],
    }
    print(json.dumps(seen))


def follow(
    config: LifelongEditRecipe,
    disk: SmallDisk,
    bank: ExpertBank,
    store: ObjectStore,
    generator: GeneratorWorker,
) -> None:
    """The continuous mode waits until there is room."""
    log = RequestLog(store)
    log.append([case(number).edit for number in range(NUM_EDITS)])
    config.run_folder.mkdir()
    Follower(
        config=config,
        bank=bank,
        request_log=log,
        generator=generator,
        embedder=ExpertEmbeddingWorker(HashEmbedder),
        records=Notes(),
        progress=disk,
        should_stop=lambda: bank.num_edits() == NUM_EDITS,
    ).follow()


def teach_twice(
    config: LifelongEditRecipe,
    disk: SmallDisk,
    bank: ExpertBank,
    store: ObjectStore,
    generator: GeneratorWorker,
) -> None:
    """The job over a file ends with an error; the same command goes on when there is room."""

    def teach() -> None:
        run(
            config,
            source=Source(name="cases", digest="x", items=map(case, range(NUM_EDITS))),
            generator=generator,
            embedder=ExpertEmbeddingWorker(HashEmbedder),
            evaluator=InlineEvaluator(EvaluationWorker(TinyModels())),
            bank=bank,
            request_log=RequestLog(store),
            results=ResultsTable(store, "faults"),
            records=Notes(),
            progress=disk,
        )

    assert 0 < num_edits_after_error(teach, bank, disk) < NUM_EDITS
    teach()


def num_edits_after_error(teach: Callable[[], None], bank: ExpertBank, disk: SmallDisk) -> int:
    try:
        teach()
    except StorageUnavailableError as error:
        disk.say(error.message)
    return bank.num_edits()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
