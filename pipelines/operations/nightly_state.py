"""What the store knows of a night: what it set out to do, and what came of it.

nights/<name>/<label>/plan.json       which versions, on which cases; fixed at the first start
nights/<name>/<label>/outcome.json    the night is done
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infra.storage.object_store import ObjectStore
from liveedit_core.errors import ConfigError, IntegrityError
from liveedit_core.schema import Case, Probe
from pipelines.evaluation.bank_evaluation import EvaluationSettings


@dataclass(frozen=True, kw_only=True)
class NightPlan:
    """What a night evaluates; a resumed one keeps it, whatever was registered meanwhile."""

    newest: int
    """Version of liveedit-bank."""
    champion: int
    """Version to compare with; 0: there is none, or the newest version is the champion."""
    questions: str
    """Digest of cases and settings: results of others must not be mixed in."""


@dataclass(frozen=True, kw_only=True)
class NightOutcome:
    """What a night found."""

    newest: int
    champion: int
    evaluated_at: str
    num_results: int
    regressions: tuple[str, ...]
    """One sentence for each metric that is worse."""
    improvements: tuple[str, ...]
    mlflow_run_id: str


class NightDiary:
    """The objects of one night."""

    def __init__(self, store: ObjectStore, name: str, label: str) -> None:
        """Name the night.

        Args:
            store: Of the operations.
            name: Of the recipe, `run_name`.
            label: The date.
        """
        self._store = store
        self._folder = f"nights/{name}/{label}"
        self.label = label

    def planned(self, proposed: NightPlan) -> NightPlan:
        """The plan of this night: the one it began with, otherwise the one proposed.

        Raises:
            ConfigError: It began with other cases or settings.
        """
        key = f"{self._folder}/plan.json"
        self._store.put_if_absent(key, json.dumps(asdict(proposed), indent=2).encode())
        plan = NightPlan(**self._read(key))
        if plan.questions != proposed.questions:
            raise ConfigError(
                f"the night {self.label} began with other cases or evaluation settings; use the "
                "same ones, or give the new evaluation another run_name"
            )
        return plan

    def outcome(self) -> NightOutcome | None:
        """What was found; None while the night is not done."""
        key = f"{self._folder}/outcome.json"
        if not self._store.exists(key):
            return None
        values = self._read(key)
        for name in ("regressions", "improvements"):
            values[name] = tuple(values[name])
        return NightOutcome(**values)

    def conclude(self, outcome: NightOutcome) -> None:
        """The night is done; of two conclusions the first one stays."""
        content = json.dumps(asdict(outcome), indent=2).encode()
        self._store.put_if_absent(f"{self._folder}/outcome.json", content)

    def _read(self, key: str) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads(self._store.get(key))
        except ValueError as error:
            raise IntegrityError(f"{key} is damaged: {error}") from error
        return values


def questions_digest(cases: Sequence[Case], settings: EvaluationSettings, longest: int) -> str:
    """One name for all that the scores of a version depend on.

    Args:
        cases: In order.
        settings: How they are asked.
        longest: Most tokens of a free answer.
    """
    asked = [[case.case_id, case.edit.edit_id, *map(_question, case.probes)] for case in cases]
    content = json.dumps([asked, asdict(settings), longest], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _question(probe: Probe) -> list[str]:
    image = hashlib.sha256(probe.image_bytes or b"").hexdigest()
    return [probe.kind, probe.prompt, probe.target, image]
