"""The recipe of `train_generator.py`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from liveedit_core.errors import ConfigError
from liveedit_core.method.config import SoftRouting, VisualKeyRecipe, VisualQuery, VisualSource
from liveedit_core.training.recipe import (
    PHASES,
    LossSection,
    OptimizationSection,
    Phase,
    PhaseSection,
    TrainingPlan,
    check_positive,
)
from pipelines.editing.recipe import BackboneSection
from pipelines.job.benchmark_options import BenchmarkSection
from pipelines.job.states_config import StatesSection
from pipelines.training.training_sections import (
    DiagnosticsRecipe,
    KeepSection,
    LayerSearchSection,
    ValidationSection,
)
from workers.sharding_config import ShardingSection


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """What is encoded once, before the first step."""

    cases: str = ""
    """JSONL file of training cases; empty for the training split of the built-in benchmark."""
    cases_per_entity: int = 3
    """Training cases of each entity."""
    num_pairs: int = 3500
    """Edits with a random target of 1 to 4 vocabulary words."""

    def __post_init__(self) -> None:
        check_positive("cases_per_entity", self.cases_per_entity)


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """Shape and variants of the generator; see `liveedit_core.method.config.GeneratorConfig`."""

    module_dim: int = 256
    """M."""
    num_queries: int = 4
    """Q."""
    num_attention_heads: int = 8
    """H."""
    rank: int = 8
    """R."""
    relative_residual: float = 0.4
    """The gain is calibrated so that the first residual is this share of the median row; 0 leaves
    it at 1, as in the paper."""
    visual_source: VisualSource = "tower_pyramid"
    """What is behind the visual feature."""
    visual_rank: int = 300
    """Width of the linear map of a pyramid."""
    num_sentinels: int = 2000
    """Sentinels of a pyramid: one drawing of each of at most so many training entities."""
    nearest_sentinels: int = 10
    """How many of them, the nearest, make the threshold."""
    visual_query: VisualQuery = "prompt"
    """What attends the image rows, when there is no pyramid."""
    soft_routing: SoftRouting = "prompt_and_visual"
    """Logits of the softmax over kept experts; or "average", the same weight for all of them."""
    has_hard_filter: bool = True
    """Whether an expert must beat the sentinel to answer."""
    max_kept: int = 6
    """At most so many experts answer."""
    visual_gate: float = 6.0
    """Steepness of the gate that images alone are (with a pyramid only); its midpoints come with
    the visual key."""
    same_image_ratio: float = 0.9
    """Share of an image's margin with itself at which an image counts as the same."""
    min_gate: float = 0.5
    """Experts whose prompt gate is below do not answer."""
    num_target_positions: int = 10
    """Position embeddings of target rows."""
    has_target_embeddings: bool = True
    """Whether the generator sees the input embeddings of the target."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSection:
    """What is written while training."""

    every_steps: int = 100
    """Steps between two checkpoints."""
    is_half: bool = True
    """Write the finished weights as float16 (they are used as float32)."""

    def __post_init__(self) -> None:
        check_positive("every_steps", self.every_steps)


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Settings of `train_generator.py`."""

    job: ClassVar[str] = "train_generator"

    seed: int = 0
    """Seed of initial weights, order of the data and everything else drawn at random."""
    run_root: str = "runs"
    """Folder of all runs."""
    run_name: str = "train_generator"
    """Folder of this run under `run_root`; a run that exists there is resumed."""
    backbone: BackboneSection = field(default_factory=BackboneSection)
    states: StatesSection = field(default_factory=StatesSection)
    benchmark: BenchmarkSection = field(default_factory=BenchmarkSection)
    data: DataSection = field(default_factory=DataSection)
    model: ModelSection = field(default_factory=ModelSection)
    visual_key: VisualKeyRecipe = field(default_factory=VisualKeyRecipe)
    prompt: PhaseSection = field(default_factory=PhaseSection)
    experts: PhaseSection = field(default_factory=PhaseSection)
    joint: PhaseSection = field(default_factory=PhaseSection)
    losses: LossSection = field(default_factory=LossSection)
    optimization: OptimizationSection = field(default_factory=OptimizationSection)
    sharding: ShardingSection = field(default_factory=ShardingSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    keep: KeepSection = field(default_factory=KeepSection)
    validation: ValidationSection = field(default_factory=ValidationSection)
    diagnostics: DiagnosticsRecipe = field(default_factory=DiagnosticsRecipe)
    layer_search: LayerSearchSection = field(default_factory=LayerSearchSection)

    @property
    def run_folder(self) -> Path:
        """Folder of this run."""
        return Path(self.run_root) / self.run_name

    def __post_init__(self) -> None:
        if self.data.cases and self.benchmark.is_on:
            raise ConfigError(
                f"data.cases and benchmark.name ({self.benchmark.name}) both name training cases; "
                "set one of them"
            )
        if self.backbone.name != "builtin" and self.model.visual_source == "tower_pyramid":
            raise ConfigError(
                "model.visual_source: which levels of the image tower make a pyramid is known for "
                "the built-in backbone only; use model.visual_source=edit_layer, or the recipe "
                "train_any_backbone.toml"
            )
        if self.backbone.device != "cpu" and not self.sharding.needs_processes:
            raise ConfigError(
                f"backbone.device: {self.backbone.device!r} is where the backbone encodes; to "
                "train there too set sharding.gpus_per_shard=1"
            )
        for phase, section in self.plan.phases.items():
            if section.steps and section.accumulation % self.sharding.shards:
                raise ConfigError(
                    f"{phase}.accumulation: {section.accumulation} micro-batches cannot be shared "
                    f"equally by sharding.shards = {self.sharding.shards}; use a multiple"
                )

    @property
    def plan(self) -> TrainingPlan:
        """What a worker must know."""
        phases: dict[Phase, PhaseSection] = {phase: getattr(self, phase) for phase in PHASES}
        return TrainingPlan(
            seed=self.seed, phases=phases, losses=self.losses, optimization=self.optimization
        )
