"""A tiny system in operation: bank, nightly runs, promotions; real store, real MLflow."""

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from infra.bank.expert_bank import ExpertBank
from infra.bank.manifest import BankManifest
from infra.bank.schema import BankIdentity, ExpertRow
from infra.storage.checksums import sha256_of
from infra.storage.object_store import ObjectStore
from infra.tracking.audit_log import AuditLog, AuditRecord
from infra.tracking.evaluation_log import EvaluatedBank, EvaluationLog, EvaluationRecord
from infra.tracking.model_registry import (
    BANK_MODEL,
    ModelRegistry,
    ModelVersions,
    RegisteredVersion,
)
from infra.tracking.results import EvaluationKey, ResultsTable
from infra.tracking.tracker import Tracker, default_tracking_uri
from liveedit_core.backbones.protocol import Backbone
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.editor import Editor
from liveedit_core.method.generator import LiveEditGenerator, load_generator, save_generator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Case, ProbeKind
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.stages import Evaluator
from pipelines.operations.nightly import NightlyResult, NightlyRun
from pipelines.operations.promoter import Promoter
from pipelines.operations.recipe import NightlyRecipe, PromotionRecipe
from tests.inline_evaluator import InlineEvaluator
from tests.small_rows import identity_of
from tests.tiny_backbone import TINY_CONFIG, case, tiny_backbone, tiny_generator
from tests.unit.tiny_results import probe_result
from workers.evaluation_worker import EvaluationWorker

NIGHTLY_OVERRIDES = ("regression.num_resamples=1000", 'evaluation.protocols=["teacher_forced"]')
GATE_OVERRIDES = (
    "regression.num_resamples=1000",
    "gates.min_samples=6",
    "thresholds.reliability=0.0",
    "thresholds.text_generality=0.0",
    "thresholds.modal_generality=0.0",
    "thresholds.modal_locality=0.5",
)
"""A generator with random weights teaches nothing, but it must leave other answers alone."""
FIRST_AUDIT = AuditRecord(
    sequence=1,
    action="promotion",
    version=7,
    champion_before=0,
    previous_champion=0,
    who="anna",
    why="the first",
    decided_at="2026-11-25T06:00:00+00:00",
    numbers={"reliability.teacher_forced": 0.98},
    evidence={"run": "nightly-2026-11-25-v7"},
)
LAX = ("thresholds.modal_locality=0.0",)
"""Overrides of a promotion that asks little."""


def make_champion(versions: ModelVersions, operations: ObjectStore, version: int) -> AuditRecord:
    """As a promotion does, without its gates."""
    registered = versions.find(f"models:/{BANK_MODEL}/{version}")
    log = AuditLog(operations, BANK_MODEL)
    record = replace(
        FIRST_AUDIT,
        sequence=len(log.records()) + 1,
        version=version,
        manifest_sha256=sha256_of(versions.manifest_text(registered).encode()),
        before_sha256=log.head(),
    )
    assert log.append(record)
    versions.set_alias(BANK_MODEL, "champion", version)
    log.mark_done(record)
    return record


def weak_generator(config: GeneratorConfig = TINY_CONFIG) -> LiveEditGenerator:
    """Experts that change next to nothing."""
    return scaled(tiny_generator(config), 0.05)


def scaled(generator: LiveEditGenerator, factor: float) -> LiveEditGenerator:
    """The same generator with larger or smaller experts."""
    for name, parameter in generator.named_parameters():
        if name.startswith(("down_generator", "up_generator")):
            parameter.data *= factor
    return generator


@dataclass(frozen=True)
class TinyModels:
    """The tiny backbone, and the generator of a folder."""

    generator: Path

    def load_backbone(self) -> Backbone:
        return tiny_backbone()

    def load_generator(self) -> LiveEditGenerator:
        return load_generator(self.generator)


class InlineEvaluators:
    """Scores in this process, with the generator that the job fetched."""

    def of(self, manifest: BankManifest, generator: Path) -> Evaluator:
        assert manifest.identity.backbone_digest == tiny_backbone().digest
        return InlineEvaluator(EvaluationWorker(TinyModels(generator)))


@dataclass
class Operations:
    """One run root with its MLflow database, one store of banks."""

    root: Path
    generator: LiveEditGenerator = field(default_factory=weak_generator)
    store_uri: str = ""
    """Of the bank, and of evaluations, audit log and leases; empty: two folders of the root."""
    epoch: int = 0
    num_taught: int = 0

    def __post_init__(self) -> None:
        self.folder = self.root / "checkpoint"
        self.generator.digest = save_generator(self.generator, self.folder)
        self.tracker = Tracker(self.root, experiment="tests", run_name="edits")
        self.registry = ModelRegistry(self.tracker)
        self.registry.register_generator(self.folder, digest=self.generator.digest)
        self.store = ObjectStore(self.store_uri or self.root / "banks_store")
        self.bank = ExpertBank.open_or_create(self.store, "main", self.identity)
        self.epoch = self.bank.acquire_writer()

    @property
    def identity(self) -> BankIdentity:
        return identity_of(
            self.generator.config,
            backbone_digest=tiny_backbone().digest,
            generator_digest=self.generator.digest,
            embedding_model="none",
            embedding_size=1,
        )

    @property
    def settings(self) -> list[str]:
        """Of both jobs."""
        return [f"run_root={self.root}", f"store={self.store_uri}"]

    @property
    def operations_store(self) -> ObjectStore:
        """Of evaluations, audit log and leases."""
        return ObjectStore(self.store_uri or self.root / "operations")

    @property
    def versions(self) -> ModelVersions:
        return ModelVersions(default_tracking_uri(self.root))

    def teach(
        self, cases: Iterable[Case], generator: LiveEditGenerator | None = None
    ) -> RegisteredVersion:
        """Commit a window and register its version, as the editing job does."""
        return self.registry.register_bank_version(self.bank, self.commit(cases, generator))

    def make_champion(self, version: int) -> AuditRecord:
        return make_champion(self.versions, self.operations_store, version)

    def commit(self, cases: Iterable[Case], generator: LiveEditGenerator | None = None) -> int:
        """Commit a window that nobody registers."""
        writer = generator or self.generator
        editor = Editor(tiny_backbone(), writer, ExpertRepository.empty(writer.config))
        requests = [item.edit for item in cases]
        rows = []
        for request, expert in zip(requests, editor.write_experts(requests), strict=True):
            self.num_taught += 1
            rows.append(
                ExpertRow(
                    expert=expert,
                    sequence=self.num_taught,
                    subject_id=request.subject_id,
                    clip_embedding=np.zeros(1, dtype=np.float32),
                )
            )
        return self.bank.commit(self.bank.fragment_writer().write(rows), epoch=self.epoch)

    def nightly(self, label: str, cases: Sequence[Case], *overrides: str) -> NightlyResult:
        """A nightly run on some cases."""
        return self.make_nightly(label, *overrides).run(lambda: cases)

    def make_nightly(self, label: str, *overrides: str) -> NightlyRun:
        recipe = load_recipe(NightlyRecipe, None, [*self.settings, *NIGHTLY_OVERRIDES, *overrides])
        return NightlyRun(
            recipe=recipe, label=label, versions=self.versions, evaluator_of=InlineEvaluators().of
        )

    def promoter(self, *overrides: str, who: str = "anna", why: str = "") -> Promoter:
        """A promoter with lax gates."""
        recipe = load_recipe(PromotionRecipe, None, [*self.settings, *GATE_OVERRIDES, *overrides])
        return Promoter(recipe=recipe, versions=self.versions, who=who, why=why)

    def alias(self, name: str) -> int:
        found = self.versions.by_alias(BANK_MODEL, name)
        return found.version if found else 0

    def files(self) -> dict[str, str]:
        """Digest of every shard of the bank."""
        folder = Path(self.store.table_uri("banks/main"))
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.glob("data/*")
        }


@dataclass
class SyntheticEvaluation:
    """An evaluation as a nightly run records it, with scores of the test's choice."""

    operations: Operations
    evaluated_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def evaluated(self, version: RegisteredVersion, scores: Sequence[float]) -> EvaluatedBank:
        """Store results; every case is held."""
        tags, run = version.tags, f"synthetic-{uuid.uuid4().hex[:8]}-v{version.version}"
        key = EvaluationKey(
            bank=tags["bank"],
            bank_version=int(tags["bank_version"]),
            num_edits=int(tags["num_edits"]),
        )
        results = [
            probe_result(f"case-{number}", kind=kind, probe_index=index, score=value)
            for number, score in enumerate(scores)
            for index, (kind, value) in enumerate(
                ((ProbeKind.RELIABILITY, score), (ProbeKind.TEXT_LOCALITY, 1.0))
            )
        ]
        ResultsTable(self.operations.operations_store, run).append(results, key)
        return EvaluatedBank(
            version=version.version,
            bank=key.bank,
            bank_version=key.bank_version,
            num_edits=key.num_edits,
            backbone_digest=tags["backbone_digest"],
            generator_digest=tags["generator_digest"],
            run=run,
            num_results=len(results),
            held=tuple(f"case-{number}" for number in range(len(scores))),
        )

    def record(
        self,
        version: RegisteredVersion,
        scores: Sequence[float] = (1.0,) * 12,
        *,
        champion: RegisteredVersion | None = None,
    ) -> EvaluationRecord:
        """Add the record of an evaluation; the champion, if any, answered everything rightly."""
        newest = self.evaluated(version, scores)
        old = self.evaluated(champion, (1.0,) * len(scores)) if champion else None
        record = EvaluationRecord(
            evaluated_at=self.evaluated_at.isoformat(),
            mlflow_run_id=self.operations.tracker.connect().run_id,
            newest=newest,
            champion=old,
            compared=newest.held,
        )
        EvaluationLog(self.operations.operations_store, BANK_MODEL).add(record)
        return record


def some_cases(first: int, last: int) -> list[Case]:
    """Cases by number, the last one included."""
    return [case(number) for number in range(first, last + 1)]
