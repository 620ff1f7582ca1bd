"""`--teach`: the editing loop of `lifelong_edit.py --follow` in a thread beside the server.

It is the one writer of the bank: it takes what the API logged (and what arrives in the inbox),
writes the experts with the server's own backbone, commits windows and applies removals.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.storage.writer_fence import WriterFencedError
from infra.tracking.model_registry import ModelRegistry
from infra.tracking.tracker import Tracker
from liveedit_core.backbones.protocol import Backbone
from liveedit_core.errors import LiveEditError
from liveedit_core.method.generator import LiveEditGenerator
from pipelines.editing.follow import Follower
from pipelines.editing.mlflow_records import RunRecords
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.run_folder import run_facts, write_recipe
from pipelines.job.stages import bank_identity
from pipelines.serving.recipe import ServeRecipe
from pipelines.serving.versions import DEFAULT_BANK, LoopNote, VersionStore
from workers.expert_embedding_worker import ExpertEmbeddingWorker, load_embedder
from workers.generator_worker import GeneratorWorker

_REGISTER_S = 60.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModels:
    """Models that are in memory already, as a `ModelSource`."""

    backbone: Backbone
    generator: LiveEditGenerator

    def load_backbone(self) -> Backbone:
        return self.backbone

    def load_generator(self) -> LiveEditGenerator:
        return self.generator


@dataclass
class Quiet:
    """The progress of a job that nobody watches: lines go to the log."""

    log: Callable[[str], None]

    def say(self, text: str) -> None:
        self.log(text)

    def edits(self, num_done: int, num_total: int) -> None:
        """Nobody counts."""

    def evaluations(self, num_waiting: int) -> None:
        """There are none."""


@dataclass(kw_only=True)
class Teacher:
    """The editing loop of one store; it ends with `close`, and what it did stays."""

    recipe: ServeRecipe
    models: LoadedModels
    say: Callable[[str], None]
    problem: str = ""
    """Why the loop ended by itself."""
    _is_closing: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._teach, name="teacher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Commit what is logged, and end."""
        self._is_closing.set()
        if self._thread:
            self._thread.join()

    def _teach(self) -> None:
        recipe = self.recipe
        note = LoopNote(ObjectStore(recipe.store_uri), recipe.bank.name or DEFAULT_BANK)
        note.write("")
        try:
            self._follower().follow()
        except LiveEditError as error:
            self.problem = error.message
            self.say(f"the editing loop ended: {error.message}")
            if not isinstance(error, WriterFencedError):  # else another one teaches this bank
                note.write(error.message)
        except Exception as error:  # a bug must not look like a loop that has nothing to do
            self.problem = repr(error)
            _logger.exception("the editing loop ended")
            note.write(self.problem)

    def _pause(self, duration_s: float) -> None:
        self._is_closing.wait(duration_s)

    def _follower(self) -> Follower:
        config = editing_recipe(self.recipe)
        write_recipe(config)
        store = ObjectStore(config.store_uri)
        store.check_exclusive_create()
        threads = torch.get_num_threads()  # workers set those of their process: keep the server's
        generator = GeneratorWorker(
            self.models,
            config.limits,
            refine=config.refine,
            weak=config.edits.weak,
            num_threads=threads,
        )
        section = config.embedding
        clip = (section.open_clip_model, section.open_clip_pretrained, "cpu", section.compute_dtype)
        embedder = ExpertEmbeddingWorker(
            partial(load_embedder, *clip), batch_size=section.batch_size, num_threads=threads
        )
        identity = bank_identity(generator.describe(), embedder.describe())
        tracker = Tracker(
            Path(config.run_root), experiment=config.tracking.experiment, run_name=config.run_name
        )
        records = RunRecords(
            tracker,
            ModelRegistry(tracker),
            state_file=config.run_folder / "recorded_evaluations.json",
        )
        records.started(config, run_facts())
        return Follower(
            config=config,
            bank=ExpertBank.open_or_create(store, config.bank.name, identity),
            request_log=RequestLog(store),
            generator=generator,
            embedder=embedder,
            records=records,
            progress=Quiet(self.say),
            should_stop=self._is_closing.is_set,
            pause=self._pause,
        )


def teacher_of(versions: VersionStore, recipe: ServeRecipe, say: Callable[[str], None]) -> Teacher:
    """The editing loop of the bank that is served, on the models that are loaded."""
    if bank := versions.bank:
        recipe = recipe.with_changes(
            store=bank.store.root_uri, bank=recipe.bank.with_changes(name=bank.name)
        )
    models = LoadedModels(versions.backbone, versions.generator)
    return Teacher(recipe=recipe, models=models, say=say)


def editing_recipe(recipe: ServeRecipe) -> LifelongEditRecipe:
    """The recipe of the loop: that of `--follow` on the served store, without waiting for company
    in a window."""
    settings = {
        "run_root": recipe.run_root,
        "run_name": "serve",
        "store": recipe.store_uri,
        "bank.name": recipe.bank.name or DEFAULT_BANK,
        "backbone.name": recipe.backbone.name,
        "generator.checkpoint": recipe.generator.checkpoint,
        "follow.is_on": "true",
        "follow.window_s": recipe.teach.window_s,
        "follow.poll_s": recipe.teach.poll_s,
        "follow.register_s": _REGISTER_S,
    }
    loaded = load_recipe(
        LifelongEditRecipe, None, [f"{name}={value}" for name, value in settings.items()]
    )
    return loaded.with_changes(limits=recipe.limits, refine=recipe.refine)
