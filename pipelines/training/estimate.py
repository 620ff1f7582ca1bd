"""`--dry-run`: memory, disk space and time of a training run, before anything is loaded.

Parameters are counted exactly (`model_sizes`); the rest is arithmetic on the assumptions that each
line states. The CUDA context (about half a gigabyte) and fragmentation are not included.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from liveedit_core.builtin.backbone import EDIT_LAYER, PYRAMID, builtin_checkpoint
from liveedit_core.errors import ConfigError
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.training.recipe import Phase
from pipelines.training.cases import training_cases
from pipelines.training.model_sizes import (
    BackboneSizes,
    count_generator,
    generator_config,
    read_backbone,
)
from pipelines.training.recipe import TrainRecipe

FLOAT = 4
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PROMPT_TOKENS, TARGET_TOKENS = 32, 8
"""Assumed length of an edit, without its image."""
CPU_TERAFLOPS, CPU_LINK_GIGABYTES_PER_S = 0.15, 1.0
"""Two cores with AVX-512, measured; loopback."""
GPU = "A100 80 GB"
"""The card that is assumed, wherever one is used."""
GPU_TERAFLOPS, GPU_LINK_GIGABYTES_PER_S = 100.0, 100.0
"""About a third of its peak and of its NVLink, in bfloat16."""
MAX_LIVE_PARAMETERS = 1_000_000_000
"""ZeRO-3 keeps at most this many gathered parameters at a time (DeepSpeed's default)."""
MAX_BUCKET = 50_000_000
"""Numbers in the buffer in which gradients are reduced."""
GRADIENT_PASSES: dict[Phase, int] = {"prompt": 0, "experts": 1, "joint": 4}
"""Passes through the layers after l_e with a backward pass: one for each loss."""
PLAIN_PASSES: dict[Phase, int] = {"prompt": 0, "experts": 0, "joint": 1}
"""Passes without gradients: the unedited answers of the locality loss."""
STATES_PER_CASE: dict[Phase, int] = {"prompt": 4, "experts": 4, "joint": 6}
"""Edit, rephrasing, other image, other question; for the joint phase two locality images."""


@dataclass(frozen=True)
class EstimateLine:
    """One number and what it is based on."""

    what: str
    amount: float
    ground: str
    unit: Literal["bytes", "seconds"] = "bytes"

    def text(self) -> str:
        shown = format_bytes(self.amount) if self.unit == "bytes" else format_time(self.amount)
        return f"{self.what:<42}{shown:>10}   {self.ground}"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is estimated: a recipe in its most demanding phase, on a backbone."""

    recipe: TrainRecipe
    backbone: BackboneSizes
    generator: GeneratorConfig
    num_cases: int

    @property
    def phase(self) -> Phase:
        """The phase with steps that needs most memory."""
        phases: tuple[Phase, ...] = ("joint", "experts", "prompt")
        return next((phase for phase in phases if getattr(self.recipe, phase).steps), "experts")

    @property
    def num_tokens(self) -> int:
        """Tokens of an input with its image."""
        return self.backbone.num_image_tokens + PROMPT_TOKENS + TARGET_TOKENS

    @property
    def num_states(self) -> int:
        """States that training reads: of cases, and of pairs with a random target."""
        return self.num_cases * STATES_PER_CASE[self.phase] + 2 * self.recipe.data.num_pairs


def estimate_recipe(
    recipe: TrainRecipe,
    *,
    config_file: Path | None = None,
    edit_layer: int | None = None,
    num_cases: int | None = None,
) -> list[str]:
    """Memory of each card, disk space and time, as lines of text; arguments as in `workload_of`."""
    work = workload_of(recipe, config_file, edit_layer, num_cases)
    backbone = work.backbone
    head = (
        f"{backbone.family}, {backbone.total:,} parameters, edited after layer "
        f"{backbone.edit_layer} of {backbone.num_layers}; {recipe.sharding.shards} shards, ZeRO "
        f"{recipe.sharding.zero_stage}; phase {work.phase}"
    )
    card = card_lines(work)
    total = EstimateLine("sum for each card", sum(line.amount for line in card), "")
    lines = [*card, total, *encoding_lines(work), *time_lines(work)]
    return [head, *(line.text().rstrip() for line in lines)]


def training_seconds(recipe: TrainRecipe, *, config_file: Path, num_cases: int | None) -> float:
    """Encoding and the phase, one after the other."""
    encoding, _, phase = time_lines(workload_of(recipe, config_file, None, num_cases))
    return encoding.amount + phase.amount


def workload_of(
    recipe: TrainRecipe, config_file: Path | None, edit_layer: int | None, num_cases: int | None
) -> Workload:
    """Arguments that are None come from the recipe: its cases are counted, its backbone's
    config.json is read from a local folder, and the built-in backbone is assembled at first use."""
    backbone = read_recipe_backbone(recipe, config_file, edit_layer)
    by_entity: Counter[str] = Counter()
    if num_cases is None:
        by_entity.update(case.entity for case in training_cases(recipe))
        num_cases = sum(min(n, recipe.data.cases_per_entity) for n in by_entity.values())
    num_entities = len(by_entity) or num_cases
    generator = generator_config(recipe.model, backbone, num_entities=num_entities)
    return Workload(recipe=recipe, backbone=backbone, generator=generator, num_cases=num_cases)


def read_recipe_backbone(
    recipe: TrainRecipe, config_file: Path | None, edit_layer: int | None
) -> BackboneSizes:
    name = recipe.backbone.name
    if edit_layer is None and recipe.backbone.edit_layer >= 0:
        edit_layer = recipe.backbone.edit_layer
    if config_file is None and name == "builtin":
        layer = EDIT_LAYER if edit_layer is None else edit_layer
        backbone = read_backbone(builtin_checkpoint() / "config.json", layer)
        return replace(backbone, visual_size=sum(level.size for level in PYRAMID))
    if config_file is None:
        config_file = Path(name).expanduser() / "config.json"
        if not config_file.is_file():
            raise ConfigError(
                f"backbone.name: {name!r} is no folder with a config.json; name the file with "
                "--backbone-config"
            )
    return read_backbone(config_file, edit_layer)


def card_lines(work: Workload) -> list[EstimateLine]:
    """Memory of each card while training."""
    return [*parameter_lines(work), *activation_lines(work)]


def parameter_lines(work: Workload) -> list[EstimateLine]:
    """Weights, gradients and moments that a card holds between two steps."""
    sharding, dtype = work.recipe.sharding, work.recipe.optimization.dtype
    num_frozen, num_trained = work.backbone.suffix, count_generator(work.generator)
    shards = sharding.shards
    stage = sharding.zero_stage if shards > 1 else 0

    def line(what: str, amount: float, level: int, ground: str) -> EstimateLine:
        """A tensor that is sharded from ZeRO stage `level` on."""
        if stage < level:
            return EstimateLine(what, amount, ground)
        if sharding.has_cpu_offload and level in (1, 3):
            return EstimateLine(what, 0.0, f"{ground}, in the memory of the host")
        return EstimateLine(what, amount / shards, f"{ground}, 1/{shards}")

    frozen = f"{num_frozen:,} numbers, {dtype}"
    trained = f"{num_trained:,} numbers, float32"
    lines = [
        line("parameters: layers after l_e, head", num_frozen * DTYPE_BYTES[dtype], 3, frozen),
        line("parameters: generator", num_trained * FLOAT, 3, trained),
        line("gradients", num_trained * FLOAT, 2, trained),
        line("optimizer: Adam's moments", 2 * num_trained * FLOAT, 1, f"2 x {trained}"),
    ]
    if stage:
        lines.append(line("optimizer: DeepSpeed's own weights", num_trained * FLOAT, 1, trained))
        bucket = min(num_trained, MAX_BUCKET) * FLOAT
        lines.append(EstimateLine("buffer: reduced gradients", bucket, "one bucket"))
    if stage == 3:
        live = min(num_frozen, MAX_LIVE_PARAMETERS)
        ground, size = f"at most {live:,} numbers gathered at a time", live * DTYPE_BYTES[dtype]
        lines.append(EstimateLine("buffer: gathered parameters", size, ground))
    return lines


def layer_activation_bytes(backbone: BackboneSizes, dtype: str) -> float:
    """What a frozen Llama-like layer keeps for its backward pass, for each token.

    Weights are frozen, so no input of a linear map is kept. RMSNorm computes in float32 and keeps
    its input there, twice a layer; attention keeps queries, keys, values and its output; the gated
    map keeps gate, activated gate and the other factor.
    """
    width = backbone.hidden_size
    attention = 2 * width + 2 * backbone.num_key_value_features
    return 2 * width * FLOAT + (attention + 3 * backbone.intermediate_size) * DTYPE_BYTES[dtype]


def activation_lines(work: Workload) -> list[EstimateLine]:
    """What the backward pass of one micro-batch needs."""
    backbone, generator, optimization = work.backbone, work.generator, work.recipe.optimization
    batch, size = getattr(work.recipe, work.phase).batch_size, DTYPE_BYTES[optimization.dtype]
    passes = GRADIENT_PASSES[work.phase]
    rows = passes * batch * work.num_tokens
    num_layers = backbone.num_layers - backbone.edit_layer - 1
    each = layer_activation_bytes(backbone, optimization.dtype)
    ground = f"{passes} x {batch} items x {work.num_tokens} tokens x {num_layers} layers"
    layers = rows * num_layers * each
    if optimization.has_activation_checkpointing:
        layers = rows * num_layers * backbone.hidden_size * size + batch * work.num_tokens * each
        ground += ", inputs only, and one layer whole"
    # hidden states, their norm, the residual and the sum; then the low-rank products of the experts
    edited = rows * (4 * backbone.hidden_size + 2 * batch * generator.rank) * FLOAT
    edited_ground = f"{rows:,} of width {backbone.hidden_size:,}, and {batch} experts, float32"
    per_token = 4 * backbone.hidden_size + 2 * generator.module_dim
    written = 2 * batch * work.num_tokens * per_token * FLOAT
    written_ground = "keys and values of two generators, float32"
    positions, vocabulary = TARGET_TOKENS + 1, backbone.vocabulary_size
    logits = 3 * passes * batch * positions * vocabulary * FLOAT
    logits_ground = (
        f"{positions} target positions of {vocabulary:,} tokens, with softmax and gradient"
    )
    return [
        EstimateLine("activations: layers after l_e", layers, ground),
        EstimateLine("activations: edited hidden states", edited, edited_ground),
        EstimateLine("activations: writing experts", written, written_ground),
        EstimateLine("activations: logits", logits, logits_ground),
    ]


def state_bytes(
    backbone: BackboneSizes,
    dtype: str,
    *,
    prompt_tokens: int = PROMPT_TOKENS,
    target_tokens: int = TARGET_TOKENS,
) -> float:
    """One cached state: hidden states at l_e, and the target's embeddings."""
    rows = backbone.num_image_tokens + prompt_tokens + 2 * target_tokens
    return rows * backbone.hidden_size * DTYPE_BYTES[dtype]


def encoding_lines(work: Workload) -> list[EstimateLine]:
    """The state cache, and the memory of the processes that fill it."""
    states, dtype = work.recipe.states, work.recipe.optimization.dtype
    each = state_bytes(work.backbone, states.dtype)
    total = work.num_states * each
    cached = f"{work.num_states:,} states of {format_bytes(each)}, {states.dtype}"
    if 0 < states.max_bytes < total:
        budget = format_bytes(states.max_bytes)
        cached += f"; the budget is {budget}, the rest is computed whenever it is needed"
    size, whole = work.backbone.total * DTYPE_BYTES[dtype], f"{work.backbone.total:,} numbers"
    return [
        EstimateLine("state cache, on disk", total, cached),
        EstimateLine(
            "memory of a process that encodes", size, f"the whole backbone, {whole}, {dtype}"
        ),
    ]


def time_lines(work: Workload) -> list[EstimateLine]:
    """Encoding and training, from floating point operations and bytes on the link."""
    backbone, recipe, phase = work.backbone, work.recipe, work.phase
    section, sharding = recipe.plan.phases[phase], recipe.sharding
    is_on_gpu = recipe.backbone.device not in ("auto", "cpu")
    trains_on_gpu = sharding.gpus_per_shard or (sharding.shards == 1 and is_on_gpu)
    card_teraflops = GPU_TERAFLOPS if trains_on_gpu else CPU_TERAFLOPS
    if recipe.states.num_workers:
        is_on_gpu = recipe.states.num_gpus not in ("auto", 0)
    encoder_teraflops = GPU_TERAFLOPS if is_on_gpu else CPU_TERAFLOPS
    num_encoders = max(1, recipe.states.num_workers)
    # an image tower works on about as many rows as it returns
    per_state = 2 * (
        backbone.prefix * work.num_tokens + backbone.image_tower * backbone.num_image_tokens
    )
    encoding_s = work.num_states * per_state / (num_encoders * encoder_teraflops * 1e12)
    # forward 2, gradients of inputs 2, and 2 more where layers run again
    factor = 6 if recipe.optimization.has_activation_checkpointing else 4
    passes = factor * GRADIENT_PASSES[phase] + 2 * PLAIN_PASSES[phase]
    items = section.batch_size * section.accumulation
    trained = 6 * count_generator(work.generator)
    operations = items * work.num_tokens * (passes * backbone.suffix + trained)
    step_s = operations / (sharding.shards * card_teraflops * 1e12)
    ground = f"{card_teraflops:g} TFLOP/s on each of {sharding.shards} shards"
    if sharding.shards > 1 and sharding.zero_stage == 3:
        link = GPU_LINK_GIGABYTES_PER_S if sharding.gpus_per_shard else CPU_LINK_GIGABYTES_PER_S
        gathers = GRADIENT_PASSES[phase] * 2 + PLAIN_PASSES[phase]
        micro_batches = -(-section.accumulation // sharding.shards)
        gathered = backbone.suffix * DTYPE_BYTES[recipe.optimization.dtype]
        step_s += gathers * micro_batches * gathered / (link * 1e9)
        ground += f", weights gathered at {link:g} GB/s"
    encoders = f"{encoder_teraflops:g} TFLOP/s, processes that encode: {num_encoders}"
    phase_s, steps = section.steps * step_s, f"{section.steps:,} steps"
    return [
        EstimateLine("time to encode", encoding_s, encoders, "seconds"),
        EstimateLine(f"time of a step ({items} items)", step_s, ground, "seconds"),
        EstimateLine(f"time of the phase {phase}", phase_s, steps, "seconds"),
    ]


def format_bytes(amount: float) -> str:
    """1 500 000 000 -> "1.50 GB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if amount >= size:
            return f"{amount / size:.2f} {unit}"
    return f"{amount / 1e3:.1f} kB"


def format_time(seconds: float) -> str:
    """5400 -> "1.5 h"."""
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{1000 * seconds:.1f} ms"
