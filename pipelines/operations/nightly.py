"""One nightly run: the newest bank version and the champion, evaluated on fixed cases and compared.

    lease -> plan (fixed at the first start) -> verify files -> evaluate newest, evaluate champion
          -> compare, metric by metric -> MLflow, pages, evaluation record -> outcome

Results are stored as they come, so the same command resumes a killed run; every later step may be
repeated. In the store:

nights/<name>/<label>/plan.json       which versions, on which cases; fixed at the first start
nights/<name>/<label>/outcome.json    present once the run is done
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from infra.bank.manifest import BankManifest
from infra.storage.lease import Lease
from infra.storage.object_store import ObjectStore
from infra.tracking.evaluation_log import EvaluatedBank, EvaluationLog, EvaluationRecord
from infra.tracking.model_registry import BANK_MODEL, ModelVersions
from liveedit_core.errors import ConfigError, IntegrityError, LiveEditError
from liveedit_core.evaluation.comparison import cases_held, in_scope, not_replaced
from liveedit_core.evaluation.false_activations import false_activations
from liveedit_core.evaluation.summaries import summarize
from liveedit_core.schema import Case, entity_of
from pipelines.editing.case_file import FixedCases, StoredCases
from pipelines.evaluation.bank_evaluation import (
    EvaluationSettings,
    evaluate_bank_version,
    plan_evaluation,
)
from pipelines.evaluation.versions import compare_by
from pipelines.job.cases import evaluation_digest
from pipelines.job.registered_models import fetch_generator, newest_version
from pipelines.job.stages import Evaluator
from pipelines.operations.audited import AuditedVersions
from pipelines.operations.nightly_records import NightlyFindings, ScoredVersion, record_findings
from pipelines.operations.recipe import NightlyRecipe

_WAIT_STEP_S = 5.0


class NightlyRunBusyError(LiveEditError):
    """Another process works on this nightly run."""


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
    exceeded: str = ""
    """By how much the newest version leaves its budget of false activations; "": it keeps it."""


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


@dataclass(frozen=True, kw_only=True)
class NightlyResult:
    """How a call ended."""

    outcome: NightlyOutcome | None
    """None: it was stopped; the same command resumes."""
    was_done: bool = False
    """An earlier call had finished the run."""


@dataclass(frozen=True, kw_only=True)
class NightlyRun:
    """The nightly run of one date; for the driver."""

    recipe: NightlyRecipe
    label: str
    versions: ModelVersions
    evaluator_of: Callable[[BankManifest, Path], Evaluator]
    """Returns an evaluator with the backbone of a manifest and the generator of a folder."""
    version: int = 0
    """Evaluate this version of liveedit-bank; 0 for the newest one."""
    say: Callable[[str], None] = field(default=lambda text: None)
    on_progress: Callable[[int, int], None] = field(default=lambda num_done, num_units: None)
    should_stop: Callable[[], bool] = field(default=lambda: False)
    sleep: Callable[[float], None] = field(default=time.sleep)

    def run(self, each_case: Callable[[], Iterable[Case]]) -> NightlyResult:
        """Do what is left of this run; NightlyRunBusyError if another process works on it."""
        store = ObjectStore(self.recipe.store_uri)
        name, label = self.recipe.run_name, self.label
        state = NightlyState(store, name, label)
        outcome = state.outcome()
        if outcome is not None:
            return NightlyResult(outcome=outcome, was_done=True)
        store.check_exclusive_create()
        lease = Lease(store, f"nights/{name}/{label}", term_s=self.recipe.lease.term_s)
        if not self._acquire(lease):
            return NightlyResult(outcome=None)
        with lease.kept():
            outcome = state.outcome()  # the former holder may have finished meanwhile
            if outcome is not None:
                return NightlyResult(outcome=outcome, was_done=True)
            fixed = FixedCases(each_case())
            plan = state.fix_plan(self._proposed_plan(fixed))
            with fixed.stored(store) as stored:
                findings = self._evaluate(plan, fixed, stored, lease)
            if findings is None:
                return NightlyResult(outcome=None)
            return NightlyResult(outcome=self._record(findings, store, state, lease))

    def _acquire(self, lease: Lease) -> bool:
        """Take the lease, waiting as long as the recipe allows; False when asked to stop."""
        section = self.recipe.lease
        max_waits = math.ceil(section.wait_s / _WAIT_STEP_S)
        for num_waits in itertools.count():
            other = lease.acquire()
            if other is None:
                return True
            if num_waits == max_waits:
                raise NightlyRunBusyError(
                    f"{other.holder} works on the nightly run {self.label} of "
                    f"{self.recipe.run_name!r}; if it is dead, its lease expires in at most "
                    f"{section.term_s:.0f} seconds"
                )
            if num_waits == 0:
                self.say(f"waiting for {other.holder}, which works on this nightly run")
            if self.should_stop():
                break
            self.sleep(_WAIT_STEP_S)
        return False

    @property
    def _audited(self) -> AuditedVersions:
        return AuditedVersions(self.versions, ObjectStore(self.recipe.store_uri))

    @property
    def _settings(self) -> EvaluationSettings:
        section, cases = self.recipe.evaluation, self.recipe.cases
        return EvaluationSettings(
            protocols=section.protocols,
            free_generation_cases=section.free_generation_cases,
            seed=self.recipe.seed,
            benchmark=Path(cases.path).name if cases.path else self.recipe.benchmark.title,
            prompts=self.recipe.benchmark.protocol,
            max_new_tokens=section.max_new_tokens,
        )

    def _evaluate(
        self, plan: NightlyPlan, fixed: FixedCases, stored: StoredCases, lease: Lease
    ) -> NightlyFindings | None:
        """Evaluate and compare; None when asked to stop."""
        cases = fixed.cases
        against = f" against the champion, version {plan.champion}," if plan.champion else ""
        self.say(f"evaluating version {plan.newest}{against} on {len(cases)} cases")
        newest = self._score(plan.newest, cases, stored, lease)
        if not newest.evaluation.is_complete:
            return None
        findings = NightlyFindings(cases=cases, load=fixed.with_images, newest=newest)
        if not plan.champion:
            return findings
        champion = self._score(plan.champion, cases, stored, lease)
        if not champion.evaluation.is_complete:
            return None
        compared = _cases_to_compare(newest, champion, cases)
        return replace(
            findings,
            champion=champion,
            compared=compared,
            comparisons=compare_by(
                self.recipe,
                newest.evaluation.results,
                champion.evaluation.results,
                compared,
                entity_of(cases),
            ),
        )

    def _proposed_plan(self, fixed: FixedCases) -> NightlyPlan:
        if self.version:
            newest = self.versions.find(f"models:/{BANK_MODEL}/{self.version}")
        else:
            newest = newest_version(self.versions)
        champion = self._audited.champion()
        is_other = champion is not None and champion.version != newest.version
        settings = asdict(self._settings)
        del settings["benchmark"]  # a name, and the cases are digested
        max_new_tokens, prompts = settings.pop("max_new_tokens"), settings.pop("prompts")
        # A night that began before prompt protocols were named goes on.
        more = [] if prompts == "chat" else [prompts]
        return NightlyPlan(
            newest=newest.version,
            champion=champion.version if champion is not None and is_other else 0,
            questions=evaluation_digest(fixed.each(), settings, max_new_tokens, *more),
        )

    def _score(
        self, version: int, cases: Sequence[Case], stored: StoredCases, lease: Lease
    ) -> ScoredVersion:
        """Verify the files of a version, then evaluate it on the cases."""
        registered = self.versions.find(f"models:/{BANK_MODEL}/{version}")
        manifest = self._audited.manifest(registered)
        bank = manifest.verified_bank(f"{BANK_MODEL} {version}")
        self.say(f"{BANK_MODEL} {version}: {manifest.num_edits} edits, all files verified")
        cache = (Path(self.recipe.run_root) / "generators").absolute()
        generator = fetch_generator(self.versions, manifest.identity.generator_digest, cache)

        def on_progress(num_done: int, num_units: int) -> None:
            lease.check()
            self.on_progress(num_done, num_units)

        evaluation = evaluate_bank_version(
            store=stored.store,
            bank=bank,
            version=manifest.bank_version,
            cases=cases,
            load=stored,
            settings=self._settings,
            pool=self.evaluator_of(manifest, generator),
            run=f"{self.recipe.run_name}-{self.label}-v{version}",
            on_progress=on_progress,
            should_stop=self.should_stop,
        )
        held = cases_held(cases, bank.edit_ids(manifest.bank_version))
        results = in_scope(evaluation.results, held)
        summary = summarize(results, entity_of(cases), seed=self.recipe.seed)
        return ScoredVersion(
            registered=registered, bank=bank, evaluation=evaluation, held=held, summary=summary
        )

    def _record(
        self, findings: NightlyFindings, store: ObjectStore, state: NightlyState, lease: Lease
    ) -> NightlyOutcome:
        """Write MLflow metrics, pages and the evaluation record; the outcome last."""
        run_id = record_findings(self.recipe, self.label, findings)
        newest, champion = findings.newest, findings.champion
        num_results = len(plan_evaluation(findings.cases, self._settings).wanted)
        record = EvaluationRecord(
            evaluated_at=datetime.now(UTC).isoformat(),
            mlflow_run_id=run_id,
            newest=_evaluated_bank(newest, num_results),
            champion=_evaluated_bank(champion, num_results) if champion else None,
            compared=tuple(sorted(findings.compared)),
            entities=entity_of(findings.cases),
        )
        activations = false_activations(newest.summary, newest.evaluation.budget)
        lease.check()
        EvaluationLog(store, BANK_MODEL).add(record)
        outcome = NightlyOutcome(
            newest=newest.registered.version,
            champion=champion.registered.version if champion else 0,
            evaluated_at=record.evaluated_at,
            num_results=num_results,
            regressions=tuple(item.sentence() for item in findings.regressions),
            improvements=tuple(item.sentence() for item in findings.improvements),
            mlflow_run_id=run_id,
            exceeded=activations.sentence() if activations and activations.is_exceeded else "",
        )
        state.save_outcome(outcome)
        return outcome


def _cases_to_compare(
    newest: ScoredVersion, champion: ScoredVersion, cases: Sequence[Case]
) -> frozenset[str]:
    """Ids of the cases whose edit the champion holds and the newest version did not replace."""
    kept = not_replaced(_edit_of_subject(champion), _edit_of_subject(newest))
    return cases_held(cases, kept)


def _edit_of_subject(scored: ScoredVersion) -> dict[str, str]:
    rows = scored.bank.load_rows(["subject_id", "edit_id"], scored.evaluation.bank_version)
    columns = (rows.column(name).to_pylist() for name in ("subject_id", "edit_id"))
    return dict(zip(*columns, strict=True))


def _evaluated_bank(scored: ScoredVersion, num_results: int) -> EvaluatedBank:
    evaluation, identity = scored.evaluation, scored.bank.identity
    return EvaluatedBank(
        version=scored.registered.version,
        bank=evaluation.bank,
        bank_version=evaluation.bank_version,
        num_edits=evaluation.num_edits,
        backbone_digest=identity.backbone_digest,
        generator_digest=identity.generator_digest,
        run=evaluation.run,
        num_results=num_results,
        held=tuple(sorted(scored.held)),
        comparable_group=str(evaluation.comparable_group),
        budget=evaluation.budget,
    )
