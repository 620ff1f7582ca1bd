"""Which registered bank versions were evaluated, when, against which champion.

evaluations/<model>/<version>/<time>.json    in the operations store

A record names the results to read, not their averages: promotion computes the numbers again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError


@dataclass(frozen=True, kw_only=True)
class EvaluatedBank:
    """One registered bank version and the location of its results."""

    version: int
    bank: str
    bank_version: int
    num_edits: int
    backbone_digest: str
    generator_digest: str
    run: str
    """Table `results/<run>` of the store."""
    num_results: int
    """Number of probes to score; fewer rows in the table mean missing results."""
    held: tuple[str, ...]
    """Ids of the cases whose edit the version holds."""
    comparable_group: str = ""
    """How the results were measured; empty in records of earlier releases."""
    budget: float | None = None
    """Of false activations; None if its visual filter follows none, or in records of earlier
    releases."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """An evaluation of the newest version beside the champion of that time."""

    evaluated_at: str
    """When it was complete: ISO 8601, UTC."""
    mlflow_run_id: str
    """Empty when MLflow did not answer."""
    newest: EvaluatedBank
    champion: EvaluatedBank | None
    """None when there was no champion, or it was the newest version itself."""
    compared: tuple[str, ...]
    """Ids of the cases whose edit the champion holds and the newest version should still hold."""
    entities: Mapping[str, str] = field(default_factory=dict)
    """Entity by case_id. Empty in records of earlier releases: each case counts as an entity."""

    @property
    def evaluated_time(self) -> datetime:
        return datetime.fromisoformat(self.evaluated_at)


class EvaluationLog:
    """The evaluation records of one registered model."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._folder = f"evaluations/{model}"

    def add(self, record: EvaluationRecord) -> None:
        """Store a record; a second one of the same time replaces it."""
        time = record.evaluated_time.strftime("%Y%m%dT%H%M%S.%fZ")
        key = f"{self._folder_of(record.newest.version)}{time}.json"
        self._store.put(key, json.dumps(asdict(record), indent=2).encode())

    def newest_of(self, version: int) -> EvaluationRecord | None:
        """The newest evaluation of a version, if any."""
        keys = self._store.list(self._folder_of(version))
        if not keys:
            return None
        try:
            return TypeAdapter(EvaluationRecord).validate_json(self._store.get(keys[-1]))
        except ValidationError as error:
            raise IntegrityError(f"{keys[-1]} is not an evaluation record: {error!r}") from error

    def _folder_of(self, version: int) -> str:
        return f"{self._folder}/{version:09d}/"
