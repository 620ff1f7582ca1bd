"""The server without HTTP: models, versions, engine and knowledge, and the thread that follows the
champion."""

import logging
import threading
from typing import TYPE_CHECKING, Self

from infra.storage.object_store import ObjectStore
from pipelines.serving.engine import Engine
from pipelines.serving.images import ImageReader
from pipelines.serving.knowledge import Knowledge
from pipelines.serving.recipe import ServeRecipe
from pipelines.serving.telemetry import Telemetry
from pipelines.serving.timeline import Timeline
from pipelines.serving.versions import DEFAULT_BANK, LoopNote, VersionStore
from workers.models import ModelSource, limit_threads

if TYPE_CHECKING:
    from pipelines.serving.teacher import Teacher


def log_to_terminal() -> None:
    """Lines of ours on stderr, one an answer; of libraries only warnings."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("pipelines").setLevel(logging.INFO)


class Service:
    """Everything that a request may need."""

    def __init__(self, recipe: ServeRecipe, versions: VersionStore) -> None:
        self.recipe = recipe
        self.versions = versions
        self.engine = Engine(
            versions.backbone,
            max_running=recipe.batch.max_running,
            max_waiting=recipe.batch.max_waiting,
        )
        self.knowledge = Knowledge(versions)
        self.timeline = Timeline(versions)
        self.telemetry = Telemetry(self.engine, versions)
        self.teacher: Teacher | None = None
        """The editing loop beside this server, if it is in this process."""
        self._ended = ""
        self.images = ImageReader.of(recipe.http, recipe.limits)
        self._is_closing = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="versions", daemon=True)
        self._follower.start()

    @classmethod
    def started(cls, recipe: ServeRecipe, models: ModelSource | None = None) -> Self:
        """Load the models and the version that is to answer."""
        if recipe.batch.num_threads:
            limit_threads(recipe.batch.num_threads)
        return cls(recipe, VersionStore.opened(recipe, models))

    @property
    def problem(self) -> str:
        """What a person should look at; "" for nothing."""
        taught = self.teacher.problem if self.teacher else self._ended
        ended = f"the editing loop ended, nothing is taught: {taught}" if taught else ""
        return "; ".join(filter(None, (self.versions.problem, ended)))

    def _follow(self) -> None:
        while not self._is_closing.wait(self.recipe.versions.poll_s):
            self.versions.refresh()
            if self.recipe.teach.is_on and self.teacher is None:
                self._ended = self._note().read()

    def _note(self) -> LoopNote:
        if bank := self.versions.bank:
            return LoopNote(bank.store, bank.name)
        return LoopNote(ObjectStore(self.recipe.store_uri), self.recipe.bank.name or DEFAULT_BANK)

    def close(self) -> None:
        """End the threads; answers in progress fail."""
        self._is_closing.set()
        self._follower.join()
        self.engine.close()
