"""Plan and outcome of one nightly run, stored as JSON.

nights/<name>/<label>/plan.json       which versions, on which cases; fixed at the first start
nights/<name>/<label>/outcome.json    present once the run is done
"""

import json
from dataclasses import asdict, dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import ConfigError, IntegrityError


@dataclass(frozen=True, kw_only=True)
class NightlyPlan:
    """What a nightly run evaluates; a resumed run keeps it, whatever was registered meanwhile."""

    newest: int
    """Version of liveedit-bank."""
    champion: int
    """Version to compare with; 0 if there is none, or it is the newest version."""
    questions: str
    """Digest of cases and settings, so that results of other cases are never mixed in."""


@dataclass(frozen=True, kw_only=True)
class NightlyOutcome:
    """What a nightly run found."""

    newest: int
    champion: int
    evaluated_at: str
    num_results: int
    regressions: tuple[str, ...]
    """One sentence per metric that is worse."""
    improvements: tuple[str, ...]
    mlflow_run_id: str


_ContentT = TypeVar("_ContentT", NightlyPlan, NightlyOutcome)


class NightlyState:
    """The stored state of the nightly run with a recipe's `run_name` and a date as label."""

    def __init__(self, store: ObjectStore, name: str, label: str) -> None:
        self._store = store
        self._folder = f"nights/{name}/{label}"
        self._label = label

    def fix_plan(self, proposed: NightlyPlan) -> NightlyPlan:
        """The plan that the run began with, or the proposed one at the first start; ConfigError if
        it began with other cases or settings."""
        self._put_once("plan", proposed)
        plan = self._read("plan", NightlyPlan)
        if plan.questions != proposed.questions:
            raise ConfigError(
                f"the nightly run {self._label} began with other cases or evaluation settings; use "
                "the same ones, or give the new evaluation another run_name"
            )
        return plan

    def outcome(self) -> NightlyOutcome | None:
        """The outcome; None until the run is done."""
        is_done = self._store.exists(f"{self._folder}/outcome.json")
        return self._read("outcome", NightlyOutcome) if is_done else None

    def save_outcome(self, outcome: NightlyOutcome) -> None:
        """Mark the run as done; if it is already, the first outcome stays."""
        self._put_once("outcome", outcome)

    def _put_once(self, name: str, content: NightlyPlan | NightlyOutcome) -> None:
        data = json.dumps(asdict(content), indent=2).encode()
        self._store.put_if_absent(f"{self._folder}/{name}.json", data)

    def _read(self, name: str, kind: type[_ContentT]) -> _ContentT:
        key = f"{self._folder}/{name}.json"
        try:
            return TypeAdapter(kind).validate_json(self._store.get(key))
        except ValidationError as error:
            raise IntegrityError(f"{key} is damaged: {error}") from error
