"""Settings of the baselines; the defaults are those of their papers or of EasyEdit, scaled where
the docstring of a field says so. Imports no torch, so recipes may use these as their sections."""

from typing import Annotated

from pydantic import Field

from liveedit_core.settings import (
    Count,
    Fraction,
    List,
    NonNegative,
    Positive,
    PositiveFraction,
    PositiveInt,
    Settings,
)

Layer = Annotated[int, Field(ge=-1)]


class FineTuningConfig(Settings):
    """FT-L and FT-M: how an edit is learned; steps and rate are the authors' for LLaVA-1.5-7B."""

    max_steps: PositiveInt = 10
    """Adam steps of one edit."""
    learning_rate: Positive = 1e-4
    """Of Adam."""
    stop_loss: NonNegative = 1e-2
    """An edit ends early below this loss; 0 never does."""


class LoraConfig(Settings):
    """LoRA: adapters and steps; the defaults are EasyEdit's for Llama-2-7B but for the rate."""

    rank: PositiveInt = 8
    """r: inner size of an adapter."""
    alpha: Positive = 32.0
    """An adapter's output is scaled by alpha / rank."""
    projections: Annotated[List[str], Field(min_length=1)] = (
        "self_attn.q_proj",
        "self_attn.v_proj",
    )
    """Linear modules of every decoder layer after l_e that get an adapter."""
    max_steps: PositiveInt = 70
    """Adam steps of one edit."""
    learning_rate: Positive = 1e-3
    """Of Adam. EasyEdit's 5e-3 breaks the free answers of the built-in backbone."""
    stop_loss: NonNegative = 1e-2
    """An edit ends early below this loss; 0 never does."""
    seed: Count = 0
    """Of the initial down projections."""


class InContextConfig(Settings):
    """IKE: how many facts are told, and how similar ones are found."""

    num_facts: PositiveInt = 4
    """k: facts before a question; IKE tells 32 to models of at least 6 billion parameters."""
    image_weight: Fraction = 0.5
    """Share of the image in the similarity; the rest is the prompt's."""
    least_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.9
    """No fact is told where the most similar one is less similar than this (cosine). On the
    built-in benchmark rephrasings lay at 0.96 to 0.99, other images of the entity at 0.77 to 0.99
    (median 0.85), unrelated questions at 0.70 to 0.89."""


class GraceConfig(Settings):
    """GRACE: the codebook's layer, its radius, and how a value is learned."""

    layer: Layer = -1
    """Decoder layer whose output is exchanged; -1: the first one after l_e."""
    radius: Positive = 0.15
    """Initial deferral radius (epsilon), as a fraction of the key's norm; the paper's 1.0 is an
    absolute distance. On the built-in benchmark rephrasings lay 0.12 to 0.34 from the key of their
    edit (median 0.16), other images of the entity 0.09 to 0.32 (0.13), the same question about
    another entity 0.13 to 0.25 (0.18), unrelated questions 0.33 and more."""
    max_steps: PositiveInt = 100
    """Adam steps of one value."""
    learning_rate: Positive = 1.0
    """Of Adam, as in the paper."""
    stop_loss: NonNegative = 1e-2
    """A value is done below this loss; 0 never is."""


class TensorExpertConfig(Settings):
    """Tensor experts (TIME-like): size and routing of a block, and how its outputs are learned."""

    rank: PositiveInt = 8
    """K: components of a block."""
    least_share: PositiveFraction = 0.85
    """A block acts on a token whose share in its input factors is at least this part of the share
    of the token that it was made from."""
    max_steps: PositiveInt = 60
    """Adam steps of one edit."""
    learning_rate: Positive = 0.05
    """Of Adam."""
    stop_loss: NonNegative = 1e-2
    """An edit is done below this loss; 0 never is."""
    num_unrelated: PositiveInt = 32
    """Questions whose mean hidden state is the centre, half of them with an image."""
    seed: Count = 0
    """Of the first output factors, and of the choice of unrelated questions."""


class WiseConfig(Settings):
    """WISE: the side memory, its shards and margins, and how an edit is learned."""

    layer: Layer = -1
    """Decoder layer whose `mlp.down_proj` has a side memory; -1: the first one after l_e."""
    alpha: NonNegative = 5.0
    """Activation that unrelated questions should stay below. An activation is the norm of what the
    change adds to the matrix's output. These margins are EasyEdit's for Llama-2-7B and suit outputs
    with a norm of about 55, as on the built-in backbone."""
    beta: NonNegative = 20.0
    """Activation that an edit should reach."""
    gamma: NonNegative = 10.0
    """By how much an edit's activation should exceed those of unrelated questions."""
    margin_weight: float = 0.1
    """Of the margin loss beside the cross-entropy; with the paper's 1, no target of the built-in
    benchmark was learned."""
    mask_share: PositiveFraction = 1.0
    """rho: share of the matrix that a shard may change; 0.2 in the paper, whose matrices are 40
    times as large."""
    shard_edits: PositiveInt = 1000
    """Edits in a row that share a shard; nothing is merged before."""
    merged_shards: PositiveInt = 2
    """k: this many shards are merged into one memory."""
    density: PositiveFraction = 0.53
    """Share of each change's elements that Ties keeps."""
    threshold_ratio: PositiveFraction = 0.88
    """epsilon as a fraction of the smallest activation among the edits."""
    max_steps: PositiveInt = 40
    """Steps of one edit; EasyEdit takes 70, and 5 or 10 with vision-language models."""
    learning_rate: Positive = 3.0
    """Of gradient descent; 1 in EasyEdit, where the margin loss weighs ten times as much."""
    stop_loss: NonNegative = 0.02
    """An edit ends early below this loss, margins included; 0 never does."""
    num_unrelated: PositiveInt = 8
    """Questions that edits are kept apart from, half of them with an image."""
    seed: Count = 0
    """Of the masks, and of the choice of unrelated questions."""
