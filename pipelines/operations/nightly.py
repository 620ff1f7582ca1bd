"""One night: the newest bank version and the champion on the fixed cases, compared and recorded.

    lease -> plan (fixed at the first start) -> verify files -> replay newest, replay champion
          -> compare, metric by metric -> evaluation record, MLflow, pages -> outcome

All that takes long is in the results table as it comes, so a night that was killed is resumed by
the same command; every later step may be done again without effect.
"""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from infra.bank.expert_bank import ExpertBank
from infra.bank.manifest import BankManifest
from infra.storage.lease import Lease
from infra.storage.object_store import ObjectStore
from infra.tracking.evaluation_log import EvaluatedBank, EvaluationLog, EvaluationRecord
from infra.tracking.model_registry import BANK_MODEL, ModelVersions, RegisteredVersion
from liveedit_core.errors import LiveEditError
from liveedit_core.evaluation.comparison import (
    MetricComparison,
    cases_held,
    compare_results,
    in_scope,
)
from liveedit_core.evaluation.summaries import Summary, summarize
from liveedit_core.schema import Case
from pipelines.evaluation.bank_evaluation import (
    BankEvaluation,
    EvaluationSettings,
    evaluate_bank_version,
    plan_evaluation,
)
from pipelines.job.registered_models import fetch_generator, newest_version
from pipelines.operations.night_evaluators import Evaluators
from pipelines.operations.nightly_state import NightDiary, NightOutcome, NightPlan, questions_digest
from pipelines.operations.recipe import NightlyRecipe

_WAIT_STEP_S = 5.0


class NightBusyError(LiveEditError):
    """Another process is at this night."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """One version after its evaluation."""

    registered: RegisteredVersion
    bank: ExpertBank
    evaluation: BankEvaluation
    held: frozenset[str]
    """Cases whose edit it holds."""
    summary: Summary
    """Accuracy over these, locality over all."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a night found out."""

    cases: Sequence[Case]
    newest: Examined
    champion: Examined | None
    """None: there is none, or it is the newest version."""
    compared: frozenset[str]
    """Cases whose accuracy was compared."""
    comparisons: Sequence[MetricComparison]

    @property
    def regressions(self) -> list[MetricComparison]:
        """Metrics that are worse."""
        return [item for item in self.comparisons if item.is_regression]


class NightRecords(Protocol):
    """Takes note of a finished evaluation."""

    def evaluated(self, findings: Findings) -> str:
        """Record metrics and pages; returns the MLflow run, "" when MLflow does not answer."""


@dataclass(frozen=True, kw_only=True)
class NightResult:
    """How a call ended."""

    outcome: NightOutcome | None
    """None: it was stopped; the same command goes on."""
    was_done: bool = False
    """An earlier call had done it."""
    findings: Findings | None = None
    """None when this call did not evaluate to the end."""


@dataclass(frozen=True, kw_only=True)
class Night:
    """The work of one night; for the driver."""

    recipe: NightlyRecipe
    label: str
    """The date."""
    versions: ModelVersions
    evaluators: Evaluators
    records: NightRecords
    version: int = 0
    """Examine this version of liveedit-bank; 0 for the newest one."""
    say: Callable[[str], None] = field(default=lambda text: None)
    on_progress: Callable[[int, int], None] = field(default=lambda num_done, num_units: None)
    should_stop: Callable[[], bool] = field(default=lambda: False)
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    sleep: Callable[[float], None] = field(default=time.sleep)

    def examine(self, cases: Callable[[], Sequence[Case]]) -> NightResult:
        """Do what is left of this night.

        Args:
            cases: Reads the fixed cases.

        Raises:
            ConfigError: The night began with other cases or settings.
            InputError: Nothing is registered, or a case cannot be read.
            IntegrityError: A file of a version is missing or altered.
            NightBusyError: Another process is at it.
            StorageUnavailableError: A store does not answer.
            TrackingError: The registry does not answer.
        """
        store = ObjectStore(self.recipe.store_uri)
        diary = NightDiary(store, self.recipe.run_name, self.label)
        outcome = diary.outcome()
        if outcome is not None:
            return NightResult(outcome=outcome, was_done=True)
        store.check_exclusive_create()
        lease = Lease(
            store,
            f"nights/{self.recipe.run_name}/{self.label}",
            term_s=self.recipe.lease.term_s,
        )
        if self._has_to_leave(lease):
            return NightResult(outcome=None)
        with lease.kept():
            outcome = diary.outcome()  # the former holder may have finished meanwhile
            if outcome is not None:
                return NightResult(outcome=outcome, was_done=True)
            return self._do(store, diary, lease, list(cases()))

    def _has_to_leave(self, lease: Lease) -> bool:
        """Take the lease, waiting as long as the recipe allows; True when asked to stop meanwhile.

        Raises:
            NightBusyError: Another process is still at it.
        """
        section = self.recipe.lease
        most_waits = math.ceil(section.wait_s / _WAIT_STEP_S)
        for num_waits in itertools.count():
            other = lease.acquire()
            if other is None:
                return False
            if num_waits == most_waits:
                raise NightBusyError(
                    f"{other.holder} is at the night {self.label} of {self.recipe.run_name!r}; if "
                    f"it is dead, the night is free in at most {section.term_s:.0f} seconds"
                )
            if num_waits == 0:
                self.say(f"waiting for {other.holder}, which is at this night")
            if self.should_stop():
                break
            self.sleep(_WAIT_STEP_S)
        return True

    @property
    def _settings(self) -> EvaluationSettings:
        section = self.recipe.evaluation
        return EvaluationSettings(
            protocols=section.protocols,
            free_generation_cases=section.free_generation_cases,
            seed=self.recipe.seed,
        )

    def _do(
        self, store: ObjectStore, diary: NightDiary, lease: Lease, cases: list[Case]
    ) -> NightResult:
        plan = diary.planned(self._proposed(cases))
        against = f", against the champion, version {plan.champion}" if plan.champion else ""
        self.say(f"examining version {plan.newest}{against}, on {len(cases)} cases")
        newest = self._examined(plan.newest, store, lease, cases)
        if not newest.evaluation.is_complete:
            return NightResult(outcome=None)
        champion = self._examined(plan.champion, store, lease, cases) if plan.champion else None
        if champion is not None and not champion.evaluation.is_complete:
            return NightResult(outcome=None)
        compared = self._compared(newest, champion, cases)
        findings = Findings(
            cases=cases,
            newest=newest,
            champion=champion,
            compared=compared,
            comparisons=self._comparisons(newest, champion, compared),
        )
        return self._concluded(findings, store, diary, lease)

    def _concluded(
        self, findings: Findings, store: ObjectStore, diary: NightDiary, lease: Lease
    ) -> NightResult:
        """Write down what was found, where each reader looks for it; the outcome last."""
        run_id = self.records.evaluated(findings)
        champion = findings.champion
        record = EvaluationRecord(
            evaluated_at=self.now().isoformat(),
            mlflow_run_id=run_id,
            newest=self._as_record(findings.newest, findings.cases),
            champion=self._as_record(champion, findings.cases) if champion else None,
            compared=tuple(sorted(findings.compared)),
        )
        lease.check()
        EvaluationLog(store, BANK_MODEL).add(record)
        improvements = [item for item in findings.comparisons if item.is_improvement]
        outcome = NightOutcome(
            newest=record.newest.version,
            champion=record.champion.version if record.champion else 0,
            evaluated_at=record.evaluated_at,
            num_results=record.newest.num_results,
            regressions=tuple(item.sentence() for item in findings.regressions),
            improvements=tuple(item.sentence() for item in improvements),
            mlflow_run_id=run_id,
        )
        diary.conclude(outcome)
        return NightResult(outcome=outcome, findings=findings)

    def _proposed(self, cases: Sequence[Case]) -> NightPlan:
        if self.version:
            newest = self.versions.find(f"models:/{BANK_MODEL}/{self.version}")
        else:
            newest = newest_version(self.versions)
        champion = self.versions.by_alias(BANK_MODEL, "champion")
        is_other = champion is not None and champion.version != newest.version
        longest = self.recipe.evaluation.max_new_tokens
        return NightPlan(
            newest=newest.version,
            champion=champion.version if champion is not None and is_other else 0,
            questions=questions_digest(cases, self._settings, longest),
        )

    def _examined(
        self, version: int, store: ObjectStore, lease: Lease, cases: Sequence[Case]
    ) -> Examined:
        """Verify a version and replay the cases against it."""
        name = f"{BANK_MODEL} {version}"
        registered = self.versions.find(f"models:/{BANK_MODEL}/{version}")
        manifest = self.versions.manifest(registered)
        bank = manifest.verified_bank(name)
        self.say(f"{name}: {manifest.num_edits} edits, all files are there, unaltered")

        def on_progress(num_done: int, num_units: int) -> None:
            lease.check()
            self.on_progress(num_done, num_units)

        evaluation = evaluate_bank_version(
            store=store,
            bank=bank,
            version=manifest.bank_version,
            cases=cases,
            settings=self._settings,
            pool=self.evaluators.of(manifest, self._generator(manifest)),
            run=f"{self.recipe.run_name}-{self.label}-v{version}",
            on_progress=on_progress,
            should_stop=self.should_stop,
        )
        held = cases_held(cases, bank.edit_ids(manifest.bank_version))
        summary = summarize(in_scope(evaluation.results, held), seed=self.recipe.seed)
        return Examined(
            registered=registered, bank=bank, evaluation=evaluation, held=held, summary=summary
        )

    def _generator(self, manifest: BankManifest) -> Path:
        cache = (Path(self.recipe.run_root) / "generators").absolute()
        return fetch_generator(self.versions, manifest.identity.generator_digest, cache)

    def _compared(
        self, newest: Examined, champion: Examined | None, cases: Sequence[Case]
    ) -> frozenset[str]:
        if champion is None:
            return frozenset()
        rows = newest.bank.load_rows(["subject_id", "edit_id"], newest.evaluation.bank_version)
        columns = (rows.column(name).to_pylist() for name in ("subject_id", "edit_id"))
        newer = dict(zip(*columns, strict=True))
        edit_ids = champion.bank.edit_ids(champion.evaluation.bank_version)
        return cases_held(cases, edit_ids, newer)

    def _comparisons(
        self, newest: Examined, champion: Examined | None, compared: frozenset[str]
    ) -> list[MetricComparison]:
        if champion is None:
            return []
        return compare_results(
            newest.evaluation.results,
            champion.evaluation.results,
            held=compared,
            alpha=self.recipe.regression.alpha,
            num_resamples=self.recipe.regression.num_resamples,
            tolerance_of=self.recipe.tolerances.of,
            seed=self.recipe.seed,
        )

    def _as_record(self, examined: Examined, cases: Sequence[Case]) -> EvaluatedBank:
        evaluation, identity = examined.evaluation, examined.bank.identity
        return EvaluatedBank(
            version=examined.registered.version,
            bank=evaluation.bank,
            bank_version=evaluation.bank_version,
            num_edits=evaluation.num_edits,
            backbone_digest=identity.backbone_digest,
            generator_digest=identity.generator_digest,
            run=evaluation.run,
            num_results=len(plan_evaluation(cases, self._settings).wanted),
            held=tuple(sorted(examined.held)),
        )
