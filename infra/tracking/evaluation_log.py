"""Which registered bank versions were evaluated, when, against which champion, and where it lies.

evaluations/<model>/<version>/<time>.json    in the store of the operations

A record says which results to read, not what they came to: whoever decides computes the numbers
from the single results again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import IntegrityError


@dataclass(frozen=True, kw_only=True)
class ExaminedBank:
    """One registered version, and its results."""

    version: int
    """Of the registered model."""
    bank: str
    bank_version: int
    num_edits: int
    backbone_digest: str
    generator_digest: str
    run: str
    """Table `results/<run>` of the store."""
    num_results: int
    """Probes that were to be scored; fewer in the table mean that some are missing."""
    held: tuple[str, ...]
    """Cases whose edit the version holds."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read it back from JSON values."""
        return cls(**{**values, "held": tuple(values["held"])})


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """An evaluation of a version, beside the champion of that time."""

    evaluated_at: str
    """When it was complete: ISO 8601, UTC."""
    mlflow_run_id: str
    """"" where MLflow did not answer."""
    newest: ExaminedBank
    champion: ExaminedBank | None
    """None: there was none, or it was the version itself."""
    compared: tuple[str, ...]
    """Cases whose edit the champion holds and the newer version should still hold."""

    @property
    def evaluated_time(self) -> datetime:
        """When it was complete."""
        return datetime.fromisoformat(self.evaluated_at)


class EvaluationLog:
    """The records of one registered model."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        """Name the log; nothing is read yet.

        Args:
            store: Where it lives.
            model: Registered model, "liveedit-bank".
        """
        self._store = store
        self._folder = f"evaluations/{model}"

    def add(self, record: EvaluationRecord) -> None:
        """Write a record down; a second one of the same time replaces it."""
        time = record.evaluated_time.strftime("%Y%m%dT%H%M%S.%fZ")
        key = f"{self._folder_of(record.newest.version)}{time}.json"
        self._store.put(key, json.dumps(asdict(record), indent=2).encode())

    def newest_of(self, version: int) -> EvaluationRecord | None:
        """The newest evaluation of a version; None when it was never evaluated.

        Raises:
            IntegrityError: The record is damaged.
        """
        keys = self._store.list(self._folder_of(version))
        if not keys:
            return None
        try:
            values = json.loads(self._store.get(keys[-1]))
            values["newest"] = ExaminedBank.from_dict(values["newest"])
            if values["champion"] is not None:
                values["champion"] = ExaminedBank.from_dict(values["champion"])
            return EvaluationRecord(**{**values, "compared": tuple(values["compared"])})
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{keys[-1]} is no evaluation record: {error!r}") from error

    def _folder_of(self, version: int) -> str:
        return f"{self._folder}/{version:09d}/"
