"""`--dry-run`: how much memory, disk and time a training run needs, before anything is loaded.

Parameters are counted exactly (`backbone_sizes`), all else is arithmetic, and each line says what
it rests on. The CUDA context, about half a gigabyte, and fragmentation come on top.
"""

from dataclasses import dataclass
from typing import Literal

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.training.recipe import Phase
from pipelines.training.estimate_settings import EstimateSettings
from pipelines.training.model_sizes import BackboneSizes, count_generator

FLOAT = 4
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MAX_LIVE_PARAMETERS = 1_000_000_000
"""ZeRO-3 keeps at most so many gathered parameters at a time (DeepSpeed's default)."""
MAX_BUCKET = 50_000_000
"""Numbers in the buffer in which gradients are reduced."""
GRADIENT_PASSES: dict[Phase, int] = {"prompt": 0, "experts": 1, "joint": 4}
"""Passes through the suffix whose activations a step of a phase keeps for its backward pass:
own question; reliability, text and modal generality, locality."""
PLAIN_PASSES: dict[Phase, int] = {"prompt": 0, "experts": 0, "joint": 1}
"""Passes without gradients: the unedited answers of the locality loss."""
STATES_PER_CASE: dict[Phase, int] = {"prompt": 4, "experts": 4, "joint": 6}
"""Edit, rephrasing, other drawing, other question; for the joint phase two other images."""


@dataclass(frozen=True, kw_only=True)
class EstimateLine:
    """One number with its ground."""

    what: str
    amount: float
    unit: Literal["bytes", "seconds"]
    ground: str

    def text(self) -> str:
        """`what   amount   ground`."""
        shown = format_bytes(self.amount) if self.unit == "bytes" else format_time(self.amount)
        return f"{self.what:<42}{shown:>10}   {self.ground}"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """All lines; memory adds up."""

    card: tuple[EstimateLine, ...]
    """Memory of each card while training."""
    elsewhere: tuple[EstimateLine, ...]
    """Memory of encoding, disk, time."""

    @property
    def card_bytes(self) -> float:
        """Memory of each card."""
        return sum(line.amount for line in self.card)

    def lines(self) -> list[str]:
        """For a terminal."""
        total = EstimateLine(
            what="sum for each card", amount=self.card_bytes, unit="bytes", ground=""
        )
        return [line.text().rstrip() for line in (*self.card, total, *self.elsewhere)]


def estimate(
    backbone: BackboneSizes, generator: GeneratorConfig, settings: EstimateSettings
) -> Estimate:
    """Memory of each card, disk and time.

    Args:
        backbone: sizes.
        generator: its shape.
        settings: batch, precision, sharding, data.
    """
    num_generator = count_generator(generator)
    return Estimate(
        card=(
            *parameter_lines(backbone, num_generator, settings),
            *activation_lines(backbone, generator, settings),
        ),
        elsewhere=(
            *encoding_lines(backbone, settings),
            *time_lines(backbone, num_generator, settings),
        ),
    )


def parameter_lines(
    backbone: BackboneSizes, num_generator: int, settings: EstimateSettings
) -> list[EstimateLine]:
    """Weights, gradients and moments that a card holds between two steps."""
    shards, stage = settings.shards, settings.zero_stage if settings.shards > 1 else 0
    share = {level: shards if stage >= level else 1 for level in (1, 2, 3)}
    weight_bytes = DTYPE_BYTES[settings.dtype]
    on_host = {1: settings.has_cpu_offload, 3: settings.has_cpu_offload and stage == 3}
    host = "in the memory of the host"

    def line(what: str, amount: float, level: int, ground: str) -> EstimateLine:
        is_away = on_host.get(level, False) and stage > 0
        ground += f", {host}" if is_away else f", 1/{share[level]}" if share[level] > 1 else ""
        amount = 0.0 if is_away else amount / share[level]
        return EstimateLine(what=what, amount=amount, unit="bytes", ground=ground)

    frozen = f"{backbone.suffix:,} numbers, {settings.dtype}"
    trained = f"{num_generator:,} numbers, float32"
    lines = [
        line("parameters: layers after l_e, head", backbone.suffix * weight_bytes, 3, frozen),
        line("parameters: generator", num_generator * FLOAT, 3, trained),
        line("gradients", num_generator * FLOAT, 2, trained),
        line("optimizer: Adam's moments", 2 * num_generator * FLOAT, 1, f"2 x {trained}"),
    ]
    if stage:
        master = line("optimizer: DeepSpeed's own weights", num_generator * FLOAT, 1, trained)
        bucket = min(num_generator, MAX_BUCKET) * FLOAT
        lines += [
            master,
            EstimateLine(
                what="buffer: reduced gradients", amount=bucket, unit="bytes", ground="one bucket"
            ),
        ]
    if stage == 3:
        live = min(backbone.suffix, MAX_LIVE_PARAMETERS)
        ground = f"at most {live:,} numbers gathered at a time"
        lines.append(
            EstimateLine(
                what="buffer: gathered parameters",
                amount=live * weight_bytes,
                unit="bytes",
                ground=ground,
            )
        )
    return lines


def layer_activation_bytes(backbone: BackboneSizes, dtype: str) -> float:
    """What a frozen Llama-like layer keeps for its backward pass, for each token.

    Weights are frozen, so no input of a linear map is kept. RMSNorm computes in float32 and keeps
    its input there, twice a layer; attention keeps queries, keys, values and its output; the gated
    map keeps gate, activated gate and the other factor.
    """
    width, size = backbone.hidden_size, DTYPE_BYTES[dtype]
    norms = 2 * width * FLOAT
    attention = (2 * width + 2 * backbone.num_key_value_features) * size
    gated = 3 * backbone.intermediate_size * size
    return norms + attention + gated


def activation_lines(
    backbone: BackboneSizes, generator: GeneratorConfig, settings: EstimateSettings
) -> list[EstimateLine]:
    """What the backward pass of one micro-batch needs."""
    batch, size = settings.batch_size, DTYPE_BYTES[settings.dtype]
    passes = GRADIENT_PASSES[settings.phase]
    num_tokens = backbone.num_image_tokens + settings.num_tokens
    rows = passes * batch * num_tokens
    num_layers = backbone.num_layers - backbone.edit_layer - 1
    each = layer_activation_bytes(backbone, settings.dtype)
    ground = f"{passes} x {batch} items x {num_tokens} tokens x {num_layers} layers"
    layers = rows * num_layers * each
    if settings.has_activation_checkpointing:
        layers = rows * num_layers * backbone.hidden_size * size + batch * num_tokens * each
        ground += ", inputs only, and one layer whole"
    # rows, normed rows, residual and their sum; then what the rank slots of the experts keep
    edited = rows * (4 * backbone.hidden_size + 2 * batch * generator.rank) * FLOAT
    written = batch * num_tokens * (4 * backbone.hidden_size + 2 * generator.module_dim) * FLOAT
    logits = 3 * passes * batch * (settings.target_tokens + 1) * backbone.vocabulary_size * FLOAT
    return [
        EstimateLine(
            what="activations: layers after l_e", amount=layers, unit="bytes", ground=ground
        ),
        EstimateLine(
            what="activations: edited rows",
            amount=edited,
            unit="bytes",
            ground=f"{rows:,} rows of {backbone.hidden_size:,} and {batch} experts, float32",
        ),
        EstimateLine(
            what="activations: writing experts",
            amount=2 * written,
            unit="bytes",
            ground="keys and values of two generators, float32",
        ),
        EstimateLine(
            what="activations: logits",
            amount=logits,
            unit="bytes",
            ground=f"{settings.target_tokens + 1} target positions of "
            f"{backbone.vocabulary_size:,} tokens, with softmax and gradient",
        ),
    ]


def num_states(settings: EstimateSettings) -> int:
    """States that training reads: of cases and of pairs with a random target."""
    return settings.num_cases * STATES_PER_CASE[settings.phase] + 2 * settings.num_pairs


def state_bytes(backbone: BackboneSizes, settings: EstimateSettings) -> float:
    """Of one state at rest: all rows at l_e, and the target's embeddings."""
    rows = backbone.num_image_tokens + settings.num_tokens + settings.target_tokens
    return rows * backbone.hidden_size * DTYPE_BYTES[settings.state_dtype]


def encoding_lines(backbone: BackboneSizes, settings: EstimateSettings) -> list[EstimateLine]:
    """The state cache, and the memory of those who fill it."""
    each, states = state_bytes(backbone, settings), num_states(settings)
    whole = backbone.total * DTYPE_BYTES[settings.dtype]
    budget = settings.state_budget_bytes
    over = (
        f"; the budget is {format_bytes(budget)}, the rest is computed whenever it is needed"
        if 0 < budget < states * each
        else ""
    )
    return [
        EstimateLine(
            what="state cache, on disk",
            amount=states * each,
            unit="bytes",
            ground=f"{states:,} states of {format_bytes(each)}, {settings.state_dtype}{over}",
        ),
        EstimateLine(
            what="memory of a process that encodes",
            amount=whole,
            unit="bytes",
            ground=f"the whole backbone, {backbone.total:,} numbers, {settings.dtype}",
        ),
    ]


def time_lines(
    backbone: BackboneSizes, num_generator: int, settings: EstimateSettings
) -> list[EstimateLine]:
    """Encoding and training, from floating point operations and bytes on the link."""
    num_tokens = backbone.num_image_tokens + settings.num_tokens
    per_state = 2 * (backbone.prefix * num_tokens + backbone.image_tower * _tower_rows(backbone))
    cards = settings.shards * settings.card_teraflops * 1e12
    encoding = settings.num_encoders * settings.encoder_teraflops * 1e12
    grounds = f"{settings.card_teraflops:g} TFLOP/s on each of {settings.shards} shards"
    # forward 2, gradients of inputs 2, and 2 more where layers run again
    factor = 6 if settings.has_activation_checkpointing else 4
    passes = factor * GRADIENT_PASSES[settings.phase] + 2 * PLAIN_PASSES[settings.phase]
    items = settings.batch_size * settings.accumulation
    operations = items * num_tokens * (passes * backbone.suffix + 6 * num_generator)
    compute_s = operations / cards
    link_s = 0.0
    if settings.shards > 1 and settings.zero_stage == 3:
        gathers = GRADIENT_PASSES[settings.phase] * 2 + PLAIN_PASSES[settings.phase]
        micro_batches = -(-settings.accumulation // settings.shards)
        moved = gathers * micro_batches * backbone.suffix * DTYPE_BYTES[settings.dtype]
        link_s = moved / (settings.link_gigabytes_per_s * 1e9)
        grounds += f", weights gathered at {settings.link_gigabytes_per_s:g} GB/s"
    step_s = compute_s + link_s
    return [
        EstimateLine(
            what="time to encode",
            amount=num_states(settings) * per_state / encoding,
            unit="seconds",
            ground=f"{settings.encoder_teraflops:g} TFLOP/s, processes that encode: "
            f"{settings.num_encoders}",
        ),
        EstimateLine(
            what=f"time of a step ({items} items)", amount=step_s, unit="seconds", ground=grounds
        ),
        EstimateLine(
            what=f"time of the phase {settings.phase}",
            amount=settings.steps * step_s,
            unit="seconds",
            ground=f"{settings.steps:,} steps",
        ),
    ]


def _tower_rows(backbone: BackboneSizes) -> int:
    """Rows that a transformer tower works on: about as many as it gives."""
    return backbone.num_image_tokens


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
