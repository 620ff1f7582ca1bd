"""The versions of the served bank as the API knows them, and the moves of the champion."""

from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from infra.bank.expert_bank import ExpertBank
from infra.bank.history import BankVersion
from infra.requests.logged_facts import LoggedFacts
from infra.storage.object_store import ObjectStore
from infra.tracking.evaluation_log import EvaluationLog
from infra.tracking.model_registry import BANK_MODEL, RegisteredVersion
from infra.tracking.results import EvaluationKey, ResultsTable
from liveedit_core.errors import InputError
from liveedit_core.evaluation.comparison import in_scope
from liveedit_core.evaluation.summaries import metric_values, summarize
from pipelines.job.recipe_loader import load_recipe
from pipelines.operations.promoter import Decision, Promoter
from pipelines.operations.recipe import DEFAULT_RECIPE, PromotionRecipe
from pipelines.serving.versions import UnknownModelError, VersionStore

MAX_LISTED = 100


class NotPossibleError(InputError):
    """The versions or the registry do not allow it now."""


@dataclass(frozen=True)
class Timeline:
    """The history of what the server answers from."""

    versions: VersionStore

    def listed(self, limit: int = MAX_LISTED) -> list[dict[str, Any]]:
        """Versions, newest first."""
        bank = self.versions.bank
        if bank is None:
            return []
        tags: dict[int, list[str]] = {}
        for name, version in bank.versions.tags().items():
            tags.setdefault(version, []).append(name)
        registered = {
            int(item.tags["bank_version"]): item.version for item in self._registered(bank)
        }
        champion = self.versions.champions.champion()
        previous = self.versions.champions.previous()
        current = self.versions.current
        rows = []
        for record in islice(bank.versions.newest_first(bank.version), limit):
            number = registered.get(record.version, 0)
            rows.append(
                {
                    **_described(record),
                    "tags": tags.get(record.version, []),
                    "registered": number,
                    "is_champion": bool(champion and number and champion.version == number),
                    "is_previous_champion": bool(
                        previous and number and previous.version == number
                    ),
                    "is_answering": current.bank == bank.uri
                    and current.bank_version == record.version,
                }
            )
        return rows

    def _registered(self, bank: ExpertBank) -> list[RegisteredVersion]:
        wanted = (bank.store.root_uri, bank.name)
        return [
            item
            for item in self.versions.champions.registered()
            if (item.tags.get("store_uri"), item.tags.get("bank")) == wanted
        ]

    def _bank(self, *numbers: int) -> ExpertBank:
        bank = self.versions.bank
        for number in numbers:
            if bank is None or number < 1 or not bank.has_version(number):
                raise UnknownModelError(f"there is no version {number}")
        if bank is None:
            raise UnknownModelError("there is no bank yet")
        return bank

    def diff(self, old: int, new: int) -> dict[str, Any]:
        """What changed from one version to another, with the facts."""
        bank = self._bank(old, new)
        found = bank.versions.diff(old, new)
        pairs = [key for pair in found.superseded for key in pair]
        facts = LoggedFacts(bank.store).facts_of([*found.added, *found.removed, *pairs])

        def row(edit_id: str) -> dict[str, str]:
            fact = facts.get(edit_id)
            texts = {"prompt": fact.prompt, "target": fact.target} if fact else {}
            return {"id": edit_id, **texts}

        return {
            "object": "version.diff",
            "from": old,
            "to": new,
            "added": [row(key) for key in found.added],
            "removed": [row(key) for key in found.removed],
            "superseded": [{"old": row(one), "new": row(two)} for one, two in found.superseded],
        }

    def evaluation(self, version: int) -> dict[str, Any]:
        """Means of the version's newest nightly evaluation, computed from single results."""
        number = self._number_of(self._bank(version), version)
        store = ObjectStore(self.versions.recipe.operations_uri)
        record = EvaluationLog(store, BANK_MODEL).newest_of(number) if number else None
        if record is None:
            return {"object": "version.evaluation", "evaluated_at": None, "metrics": {}}
        newest = record.newest
        key = EvaluationKey(
            bank=newest.bank, bank_version=newest.bank_version, num_edits=newest.num_edits
        )
        results = ResultsTable(store, newest.run).read(key)
        summary = summarize(in_scope(results, newest.held), record.entities, seed=0)
        return {
            "object": "version.evaluation",
            "evaluated_at": record.evaluated_at,
            "metrics": metric_values(summary),
        }

    def _number_of(self, bank: ExpertBank, version: int) -> int:
        """The registered version of a bank version; 0 if there is none."""
        numbers = [
            item.version
            for item in self._registered(bank)
            if item.tags.get("bank_version") == str(version)
        ]
        return max(numbers, default=0)

    def promote(self, version: int, *, who: str, why: str) -> Decision:
        """Make a version the champion if it passes every gate."""
        number = self._number_of(self._bank(version), version)
        if not number:
            raise NotPossibleError(
                f"v{version} is not registered yet: the editing job registers versions, then "
                "nightly_evaluation.py scores the newest"
            )
        decision = self._promoter(who, why).promote(f"models:/{BANK_MODEL}/{number}")
        self.versions.refresh()
        return decision

    def roll_back(self, *, who: str, why: str) -> Decision:
        """Make the previous champion the champion again."""
        if not self.versions.champions.exists:
            raise NotPossibleError("there is no registry, and so no champion, yet")
        decision = self._promoter(who, why).roll_back()
        self.versions.refresh()
        return decision

    def _promoter(self, who: str, why: str) -> Promoter:
        recipe = self.versions.recipe
        settings = [f"run_root={Path(recipe.run_root)}", f"store={recipe.operations_uri}"]
        return Promoter(
            recipe=load_recipe(PromotionRecipe, DEFAULT_RECIPE, settings),
            versions=self.versions.champions.versions,
            who=who,
            why=why,
        )


def decided(decision: Decision) -> dict[str, Any]:
    """A promotion or rollback that was not refused."""
    return {
        "object": "decision",
        "registered": decision.version,
        "champion_before": decision.champion_before,
        "is_changed": decision.record is not None,
        "gates": [asdict(gate) for gate in decision.gates],
    }


def _described(record: BankVersion) -> dict[str, Any]:
    return {
        "object": "version",
        "id": f"v{record.version}",
        "version": record.version,
        "kind": record.kind,
        "committed_at": record.committed_at.isoformat(),
        "num_edits": record.num_edits,
        "num_added": record.num_added,
        "num_removed": record.num_removed + record.num_superseded,
        "author": record.author,
        "message": record.message,
    }
