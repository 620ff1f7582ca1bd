"""The recipe of `train_generator.py`."""

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from liveedit_core.method.config import (
    PromptKeyRecipe,
    PromptSource,
    SoftRouting,
    VisualFilter,
    VisualKeyRecipe,
    VisualQuery,
    VisualSource,
)
from liveedit_core.settings import (
    Count,
    List,
    Name,
    Positive,
    PositiveInt,
    Settings,
    StoreUri,
    rule,
)
from liveedit_core.training.recipe import (
    PHASES,
    DiagnosticsRecipe,
    LossSection,
    OptimizationSection,
    Phase,
    PhaseSection,
    TrainingPlan,
)
from pipelines.job.sections import (
    ActorSection,
    BackboneSection,
    BenchmarkSection,
    RunRecipe,
    StatesSection,
)
from workers.sharding_config import ShardingSection

_AtLeastTwo = Annotated[int, Field(ge=2)]
_Layers = Annotated[
    List[int],
    rule(
        lambda layers: len(set(layers)) == len(layers) and min(layers, default=0) >= 0,
        "be different numbers from 0",
    ),
]


class DataSection(Settings):
    """What is encoded once, before the first step."""

    cases: str = ""
    """JSONL file of training cases; empty for the training split of the built-in benchmark."""
    cases_per_entity: PositiveInt = 3
    """Training cases of each entity."""
    num_pairs: int = 3500
    """Edits with a random target of any kind, no longer than an expert holds."""
    changed_copies: Count = 0
    """Changed copies (smaller, turned, darker, ...) of each image that the visual key is fitted
    on: it learns to see past the changes."""


class ModelSection(Settings):
    """Shape and variants of the generator: `liveedit_core.method.config.GeneratorConfig` says what
    its fields mean, with other defaults."""

    module_dim: int = 256
    num_queries: int = 4
    num_attention_heads: int = 8
    rank: int = 8
    relative_residual: float = 0.4
    """Norm of the initial residual relative to the median hidden state; 0 leaves the gain at 1."""
    visual_source: VisualSource = "tower_pyramid"
    visual_rank: int = 300
    num_sentinels: int = 2000
    """Sentinels of a pyramid: one image each of at most this many training entities."""
    nearest_sentinels: int = 10
    prompt_source: PromptSource = "edit_layer"
    prompt_rank: int = 128
    visual_filter: VisualFilter = "sentinel"
    visual_query: VisualQuery = "prompt"
    soft_routing: SoftRouting = "prompt_and_visual"
    has_hard_filter: bool = True
    max_kept: int = 6
    visual_gate: float = 6.0
    """With a pyramid only; the midpoints are fitted with the visual key."""
    same_image_ratio: float = 0.9
    min_gate: float = 0.5
    num_target_positions: int = 10
    has_target_embeddings: bool = True
    has_own_ranks: bool = False


class CheckpointSection(Settings):
    """What is written while training."""

    every_steps: PositiveInt = 100
    """Steps between two checkpoints."""
    is_half: bool = True
    """Write the finished weights as float16 (they are used as float32)."""


class KeepSection(Settings):
    """Where inputs and checkpoints are kept, and which of these."""

    store: StoreUri = ""
    """Root of their store, `s3://bucket/prefix` or a path; empty: `store` in the run folder."""
    last_k: PositiveInt = 3
    """Newest checkpoints to keep; the best by validation is kept as well."""


class ValidationSection(ActorSection):
    """Validation while training: the five metrics on held-out entities, in an actor where
    `sharding` has several processes or GPUs or `states` has workers, else in the job's own
    process."""

    every_steps: Count = 100
    """Steps between two validations, a multiple of `checkpoint.every_steps`; each phase ends with
    one. 0: no validation, and no entity is held out."""
    num_cases: PositiveInt = 50
    """Cases whose probes are scored; their edits are in the bank."""
    bank_edits: PositiveInt = 100
    """Edits in the bank, all of held-out entities."""
    batch_size: PositiveInt = 16
    """Probes per forward pass."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_cases > self.bank_edits:
            raise ValueError(
                f"num_cases must be at most bank_edits ({self.bank_edits}), got {self.num_cases}: "
                "the edits of all scored cases are in the bank"
            )
        return self


class LayerSearchSection(Settings):
    """The short run of `--find-layer`."""

    layers: _Layers = ()
    """Candidate edit layers; empty: five, spread from a third of the depth to nine tenths."""
    num_cases: _AtLeastTwo = 48
    """Training cases of different entities; the same number of other entities is scored."""
    steps: PositiveInt = 40
    """Optimizer steps for each layer."""
    batch_size: _AtLeastTwo = 16
    """Edits per step."""
    learning_rate: Positive = 1.5e-3
    """After a short warm-up."""


class TrainRecipe(RunRecipe):
    """Settings of `train_generator.py`."""

    job: ClassVar[str] = "train_generator"

    run_name: Name = "train_generator"
    backbone: BackboneSection = BackboneSection()
    states: StatesSection = StatesSection()
    benchmark: BenchmarkSection = BenchmarkSection()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    visual_key: VisualKeyRecipe = VisualKeyRecipe()
    prompt_key: PromptKeyRecipe = PromptKeyRecipe()
    prompt: PhaseSection = PhaseSection()
    experts: PhaseSection = PhaseSection()
    joint: PhaseSection = PhaseSection()
    losses: LossSection = LossSection()
    optimization: OptimizationSection = OptimizationSection()
    sharding: ShardingSection = ShardingSection()
    checkpoint: CheckpointSection = CheckpointSection()
    keep: KeepSection = KeepSection()
    validation: ValidationSection = ValidationSection()
    diagnostics: DiagnosticsRecipe = DiagnosticsRecipe()
    layer_search: LayerSearchSection = LayerSearchSection()

    @property
    def store_root(self) -> str | Path:
        """Of inputs and checkpoints."""
        return self.keep.store or self.run_folder / "store"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.data.cases and self.benchmark.is_on:
            raise ValueError(
                f"data.cases and benchmark.name ({self.benchmark.name}) both name training cases; "
                "set one of them"
            )
        if self.benchmark.name in ("user_world", "builtin"):
            raise ValueError(f"benchmark.name: {self.benchmark.name} has no training split")
        if self.backbone.name != "builtin" and self.model.visual_source == "tower_pyramid":
            raise ValueError(
                "model.visual_source: which levels of the image tower make a pyramid is known for "
                "the built-in backbone only; use model.visual_source=edit_layer, or the recipe "
                "train_any_backbone.toml"
            )
        if self.model.prompt_source == "sentences" and self.prompt.steps:
            raise ValueError(
                f"prompt.steps: {self.prompt.steps} with model.prompt_source=sentences, whose "
                "prompt key has a closed form; use 0"
            )
        for phase, section in self.plan.phases.items():
            if section.steps and section.accumulation % self.sharding.shards:
                raise ValueError(
                    f"{phase}.accumulation: {section.accumulation} micro-batches cannot be shared "
                    f"equally by sharding.shards = {self.sharding.shards}; use a multiple"
                )
        return self

    @property
    def encoding(self) -> StatesSection:
        """Where states and pyramids are computed: by actors where anything is."""
        has_actors = self.sharding.needs_processes and not self.states.num_workers
        return self.states.with_changes(num_workers=1) if has_actors else self.states

    @property
    def has_actors(self) -> bool:
        """Whether actors compute; then the job's own process needs no GPU."""
        return self.encoding.num_workers > 0

    @property
    def plan(self) -> TrainingPlan:
        """What a worker must know."""
        phases: dict[Phase, PhaseSection] = {phase: getattr(self, phase) for phase in PHASES}
        return TrainingPlan(
            seed=self.seed, phases=phases, losses=self.losses, optimization=self.optimization
        )
