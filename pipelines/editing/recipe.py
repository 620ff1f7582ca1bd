"""The recipes of `lifelong_edit.py` and of `rebuild_bank.py`."""

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from infra.bank.policy import GrowthPolicy
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.config import MAX_BUDGET, RefineSection
from liveedit_core.settings import Amount, Count, Name, PositiveInt, Settings, StoreUri
from pipelines.job.recipe_loader import to_flat_dict
from pipelines.job.sections import (
    BackboneSection,
    BankSection,
    BenchmarkSection,
    EditsSection,
    EmbeddingSection,
    EvaluationSection,
    FolderRecipe,
    GeneratorSection,
    RaySection,
    RunRecipe,
    StatesSection,
    TrackingSection,
    store_uri,
)

QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart.toml"
"""The recipe that is used when none is named."""

_FIXED = (
    "seed",
    "backbone.name",
    "backbone.dtype",
    "backbone.edit_layer",
    "generator.checkpoint",
    "refine.mode",
    "refine.max_steps",
    "refine.derived",
    "edits.weak",
    "embedding.open_clip_model",
    "embedding.open_clip_pretrained",
    "bank.name",
    "benchmark.protocol",
    "evaluation.max_new_tokens",
)

Pause = Annotated[float, Field(ge=0.01, allow_inf_nan=False)]
"""Seconds of a loop that must not spin."""


class RequestsSection(Settings):
    """Which facts to edit with; by default those of `benchmark`, or the built-in cases."""

    path: str = ""
    """JSONL file of plain requests: {"image": ..., "prompt": ..., "target": ...}."""
    cases: str = ""
    """JSONL file of cases: {"edit": {...}, "probes": [...]}."""
    limit: Count = 0
    """Use only this many requests, from the start; 0 for all."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.path and self.cases:
            raise ValueError("path and requests.cases are both set; set one of them")
        return self


class PromotionAtEndSection(Settings):
    """Whether the editing job ends with an evaluation against the champion and a promotion."""

    at_end: bool = False
    """Promote the newest version at the end, if it passes every gate."""
    nightly_recipe: str = ""
    """Recipe of `nightly_evaluation.py` by which to evaluate; empty for its defaults."""
    recipe: str = ""
    """Recipe of `promotion.py` by which to decide; empty for its defaults."""


class FilterSection(Settings):
    """How rarely an image that was never edited may keep an edit."""

    false_activation: Annotated[float, Field(ge=0, le=MAX_BUDGET)] = 0.0
    """Share of questions about other images; stored with the bank's next version. 0: the bank's
    own, which is 0.02 in a new bank."""


class FollowSection(Settings):
    """The inbox that `--follow` watches until it is told to stop."""

    is_on: bool = False
    """Keep running and process what arrives, instead of ending with the input."""
    inbox: StoreUri = ""
    """Folder or s3:// URI where JSONL files arrive; empty: `inbox` in the store."""
    window_s: Amount = 10.0
    """A window is committed when full (`bank.window_edits`), or its oldest request this old."""
    poll_s: Pause = 2.0
    """Pause between two looks into the inbox."""
    settle_s: Amount = 1.0
    """A file on disk that changed more recently is not read yet: it may be half written."""
    max_file_bytes: PositiveInt = 268_435_456
    """Larger files stay in the inbox, with a message."""
    wait_s: Pause = 60.0
    """Longest pause between two retries while the store does not answer."""
    drain_s: Amount = 60.0
    """After Ctrl-C or SIGTERM: time to commit the requests that are logged already."""
    report_s: Pause = 60.0
    """How often to report while nothing arrives."""
    register_s: Pause = 3600.0
    """How often the newest bank version is registered for nightly jobs; at the end it always is."""
    stop_when_idle_s: Amount = 0.0
    """End when nothing has arrived for this long; 0 never ends."""

    def inbox_uri(self, store_uri: str) -> str:
        """Where files arrive: by default the folder `inbox` of the store."""
        return self.inbox or f"{store_uri.rstrip('/')}/inbox"


class _WritingRecipe(FolderRecipe):
    limits: InputLimits = InputLimits()
    backbone: BackboneSection = BackboneSection()
    generator: GeneratorSection = GeneratorSection()
    refine: RefineSection = RefineSection()
    filter: FilterSection = FilterSection()
    edits: EditsSection = EditsSection()
    embedding: EmbeddingSection = EmbeddingSection()
    growth: GrowthPolicy = GrowthPolicy()
    states: StatesSection = StatesSection(dtype="float32")
    ray: RaySection = RaySection()
    tracking: TrackingSection = TrackingSection()


class LifelongEditRecipe(_WritingRecipe, RunRecipe):
    """Settings of `lifelong_edit.py`."""

    job: ClassVar[str] = "lifelong_edit"

    run_name: Name = "lifelong_edit"
    store: StoreUri = ""
    """Root URI of the store, file:///... or s3://bucket/prefix; empty: `store` in the run's folder.
    A store holds one request log, and every bank in it is made from all requests of the log."""
    requests: RequestsSection = RequestsSection()
    benchmark: BenchmarkSection = BenchmarkSection()
    bank: BankSection = BankSection()
    evaluation: EvaluationSection = EvaluationSection()
    promotion: PromotionAtEndSection = PromotionAtEndSection()
    follow: FollowSection = FollowSection()

    @model_validator(mode="after")
    def _check(self) -> Self:
        has_file = bool(self.requests.path or self.requests.cases)
        if self.follow.is_on and (has_file or self.benchmark.is_on):
            raise ValueError(
                "follow.is_on takes requests from its inbox: put the file there instead of naming "
                "it in requests or benchmark"
            )
        if has_file and self.benchmark.is_on:
            raise ValueError("benchmark.name and a file of requests are both set; set one of them")
        if self.generator.shards > 1 and "spread" in (self.backbone.device, self.generator.device):
            raise ValueError(
                f"generator.device: 'spread' with generator.shards = {self.generator.shards}; both "
                "divide the backbone, use one of the two"
            )
        if self.refine.derived and self.generator.shards > 1:
            raise ValueError(
                "refine.derived needs generator.shards = 1: facts have different numbers of "
                "derived questions, and shards must run equally often"
            )
        return self

    def check_start(self) -> None:
        self.evaluation.check_length(self.limits)

    @property
    def embedding_stage(self) -> EmbeddingSection:
        """With `num_workers` 0 only where the generator's actors embed."""
        has_own = self.generator.shards > 1 and not self.embedding.num_workers
        return self.embedding.with_changes(num_workers=1) if has_own else self.embedding

    @property
    def evaluation_stage(self) -> EvaluationSection:
        """With `num_workers` 0 only where the generator's actors also embed."""
        has_own = self.embedding_stage.num_workers and not self.evaluation.num_workers
        return self.evaluation.with_changes(num_workers=1) if has_own else self.evaluation

    @property
    def writer_cpus(self) -> float:
        """CPUs that the actors which write experts ask for together."""
        generator, embedding = self.generator, self.embedding_stage
        return (
            generator.num_cpus * generator.gangs * generator.shards
            + embedding.num_cpus * embedding.num_workers
        )

    @property
    def needed_cpus(self) -> float:
        """CPUs that all actors ask for together."""
        evaluation = self.evaluation_stage
        return self.writer_cpus + evaluation.num_cpus * evaluation.num_workers

    @property
    def store_uri(self) -> str:
        return store_uri(self.store, self.run_folder / "store")

    def fixed_settings(self) -> dict[str, object]:
        """What stored results depend on: must stay the same while a run is resumed."""
        settings = to_flat_dict(self)
        return {**{name: settings[name] for name in _FIXED}, "store": self.store_uri}


class RebuildSourceSection(Settings):
    """Which requests of the log the new bank is made from."""

    bank: str = ""
    """Only the edits of this bank; empty: every request of the log. Removed edits stay removed."""
    version: str = ""
    """Number or tag of a version of it; empty: the newest when the job starts."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.version and not self.bank:
            raise ValueError("version needs source.bank")
        return self


class RebuiltBankSection(BankSection):
    """The new bank."""

    name: Name = "rebuilt"
    """Name of the bank in the store; not that of the source."""
    window_edits: PositiveInt = 1000
    """Edits of one window: the most that a killed job has to write again."""


class RebuildRecipe(_WritingRecipe):
    """Settings of `rebuild_bank.py`."""

    job: ClassVar[str] = "rebuild_bank"

    run_name: Name = "rebuild_bank"
    store: StoreUri = ""
    """Root URI of the store that holds the request log, file:///... or s3://bucket/prefix."""
    alias: str = "challenger"
    """Alias of the new version in MLflow, for promotion.py; empty sets none."""
    source: RebuildSourceSection = RebuildSourceSection()
    bank: RebuiltBankSection = RebuiltBankSection()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source.bank == self.bank.name:
            raise ValueError(
                f"bank.name must be another one than source.bank, both are {self.bank.name!r}"
            )
        self.editing()
        return self

    def editing(self) -> LifelongEditRecipe:
        """As a recipe of the editing job, without new requests and evaluation."""
        shared = set(type(self).model_fields) & set(LifelongEditRecipe.model_fields)
        return LifelongEditRecipe(
            **{name: getattr(self, name) for name in shared}, evaluation=EvaluationSection(at=())
        )
