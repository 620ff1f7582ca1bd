"""What the estimate of `--dry-run` rests on, and what a recipe says about it."""

from dataclasses import dataclass
from typing import Any, Literal

from liveedit_core.errors import ConfigError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.training.recipe import ComputeDtype, Phase
from pipelines.training.model_sizes import BackboneSizes
from pipelines.training.recipe import TrainRecipe

CPU_TERAFLOPS, CPU_LINK_GIGABYTES_PER_S = 0.15, 1.0
"""Two cores with AVX-512, measured; loopback."""
GPU_TERAFLOPS, GPU_LINK_GIGABYTES_PER_S = 100.0, 100.0
"""About a third of what an A100 and its NVLink do at their peak, in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class EstimateSettings:
    """What the estimate rests on."""

    shards: int = 1
    zero_stage: int = 3
    has_cpu_offload: bool = False
    dtype: ComputeDtype = "float32"
    """Of the frozen suffix; the generator stays float32."""
    has_activation_checkpointing: bool = False
    phase: Phase = "experts"
    """The one that needs most: experts or joint."""
    steps: int = 0
    """Optimizer steps of it."""
    batch_size: int = 32
    """Items of a micro-batch; each card computes one at a time."""
    accumulation: int = 1
    """Micro-batches of a step, which the shards share."""
    num_cases: int = 0
    num_pairs: int = 0
    state_dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    state_budget_bytes: int = 0
    """Of the state cache; 0 sets no limit."""
    prompt_tokens: int = 32
    target_tokens: int = 8
    card_teraflops: float = CPU_TERAFLOPS
    """Sustained, of one shard."""
    link_gigabytes_per_s: float = CPU_LINK_GIGABYTES_PER_S
    """Sustained, into one shard."""
    num_encoders: int = 1
    """Processes that encode, each with the whole backbone."""
    encoder_teraflops: float = CPU_TERAFLOPS
    """Sustained, of one of them."""

    @property
    def num_tokens(self) -> int:
        """Tokens of an input without its image."""
        return self.prompt_tokens + self.target_tokens


def settings_of(recipe: TrainRecipe, *, num_cases: int) -> EstimateSettings:
    """What a recipe says, for its most demanding phase with steps.

    Args:
        recipe: resolved.
        num_cases: training cases.
    """
    phases = [phase for phase in ("joint", "experts", "prompt") if getattr(recipe, phase).steps]
    phase: Phase = phases[0] if phases else "experts"  # type: ignore[assignment]
    section = recipe.plan.phases[phase]
    has_gpu = recipe.sharding.gpus_per_shard > 0
    encodes_on_gpu = recipe.backbone.device != "cpu"
    return EstimateSettings(
        shards=recipe.sharding.shards,
        zero_stage=recipe.sharding.zero_stage,
        has_cpu_offload=recipe.sharding.has_cpu_offload,
        dtype=recipe.optimization.dtype,
        has_activation_checkpointing=recipe.optimization.has_activation_checkpointing,
        phase=phase,
        steps=section.steps,
        batch_size=section.batch_size,
        accumulation=section.accumulation,
        num_cases=num_cases,
        num_pairs=recipe.data.num_pairs,
        state_dtype=recipe.states.dtype,
        state_budget_bytes=recipe.states.max_bytes,
        card_teraflops=GPU_TERAFLOPS if has_gpu else CPU_TERAFLOPS,
        link_gigabytes_per_s=GPU_LINK_GIGABYTES_PER_S if has_gpu else CPU_LINK_GIGABYTES_PER_S,
        num_encoders=max(1, recipe.states.num_workers),
        encoder_teraflops=GPU_TERAFLOPS if encodes_on_gpu else CPU_TERAFLOPS,
    )


def generator_shape(
    recipe: TrainRecipe, backbone: BackboneSizes, *, visual_size: int, num_entities: int
) -> GeneratorConfig:
    """The generator that a recipe would train on a backbone.

    Args:
        recipe: resolved.
        backbone: sizes.
        visual_size: width of the backbone's pyramid; 0 where it has none.
        num_entities: training entities, which bound the sentinels.

    Raises:
        ConfigError: the recipe wants a pyramid, but the backbone has none.
    """
    model = recipe.model
    pyramid: dict[str, Any] = {}
    if model.visual_source == "tower_pyramid":
        if not visual_size:
            raise ConfigError(
                "model.visual_source: which levels of the image tower make a pyramid is known for "
                "the built-in backbone only; use model.visual_source=edit_layer"
            )
        pyramid = {
            "visual_size": visual_size,
            "visual_rank": model.visual_rank,
            "num_sentinels": min(model.num_sentinels, num_entities),
            "nearest_sentinels": min(model.nearest_sentinels, num_entities),
        }
    return GeneratorConfig(
        hidden_size=backbone.hidden_size,
        num_image_tokens=backbone.num_image_tokens,
        edit_layer=backbone.edit_layer,
        module_dim=model.module_dim,
        num_queries=model.num_queries,
        num_attention_heads=model.num_attention_heads,
        rank=model.rank,
        visual_source=model.visual_source,
        visual_query=model.visual_query,
        soft_routing=model.soft_routing,
        num_target_positions=model.num_target_positions,
        has_target_embeddings=model.has_target_embeddings,
        **pyramid,
    )
