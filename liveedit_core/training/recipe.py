"""How the generator is trained: phases, schedule, weights of the losses, precision."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from liveedit_core.errors import ConfigError
from liveedit_core.settings import (
    Count,
    List,
    NonNegative,
    Positive,
    PositiveFraction,
    PositiveInt,
    Settings,
)

Phase = Literal["prompt", "experts", "joint"]
PHASES: tuple[Phase, ...] = ("prompt", "experts", "joint")
"""In the order in which they run."""
KlDirection = Literal["original_to_edited", "edited_to_original"]
Schedule = Literal["one_cycle", "cosine", "milestones"]
ComputeDtype = Literal["float32", "bfloat16"]
_MoreThanOne = Annotated[float, Field(gt=1)]


class PhaseSection(Settings):
    """One phase of training: Adam under a learning-rate schedule."""

    steps: Count = 0
    """Optimizer steps; 0 skips the phase."""
    batch_size: PositiveInt = 32
    """Items of a micro-batch; losses that compare items compare those of one micro-batch."""
    accumulation: PositiveInt = 1
    """Micro-batches of a step, whose gradients are averaged; a multiple of `sharding.shards`."""
    learning_rate: Positive = 1e-3
    """Peak of the schedule."""
    schedule: Schedule = "one_cycle"
    """After the warm-up: half a cosine to zero (of the steps left; cosine: of all), or constant."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the rate rises; 0 only with cosine and milestones."""
    milestones: List[int] = ()
    """Steps at which the rate is multiplied by `milestone_factor`; the paper has one at 10 000."""
    milestone_factor: Positive = 0.1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule == "one_cycle" and self.warmup_fraction == 0:
            raise ValueError('warmup_fraction must be more than 0 with schedule "one_cycle"')
        if bool(self.milestones) != (self.schedule == "milestones"):
            raise ValueError(
                f"milestones: got {list(self.milestones)} with schedule {self.schedule!r}; they "
                'belong to schedule "milestones", which needs one at least'
            )
        return self

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = int(self.steps * self.warmup_fraction)
        if self.schedule == "one_cycle":
            warm = max(1, warm)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        if self.schedule == "milestones":
            passed = sum(step >= milestone for milestone in self.milestones)
            return self.learning_rate * self.milestone_factor**passed
        first = warm if self.schedule == "one_cycle" else 0
        progress = (step - first) / max(1, self.steps - first)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


class LossSection(Settings):
    """Weights of the losses in the total; 0 switches one off, as in the paper's ablations."""

    nll: NonNegative = 1.0
    """Phase experts: own question, own expert."""
    reliability: NonNegative = 1.0
    text_generality: NonNegative = 1.0
    modal_generality: NonNegative = 1.0
    locality: NonNegative = 1.0
    """These four: Eq. 8, 9 (rephrased prompt), 9 (other image) and 10."""
    soft_relative: NonNegative = 1.0
    soft_absolute: NonNegative = 1.0
    """Eq. 15 and 16, in the phases prompt and joint."""
    hard_neighbour: NonNegative = 1.0
    hard_sentinel: NonNegative = 1.0
    """Eq. 13 and 14."""
    kl_direction: KlDirection = "original_to_edited"
    """Of the locality loss: the paper's, or that of the authors' code."""

    @property
    def weights(self) -> dict[str, float]:
        return {name: value for name, value in self if name != "kl_direction"}


LOSSES_OF_PHASE: dict[Phase, tuple[str, ...]] = {
    "prompt": ("soft_relative", "soft_absolute"),
    "experts": ("nll",),
    "joint": tuple(name for name in LossSection().weights if name != "nll"),
}


class OptimizationSection(Settings):
    """What all phases have in common."""

    max_gradient_norm: Positive = 1.0
    """Gradients of a step are scaled down to this norm."""
    dtype: ComputeDtype = "float32"
    """Of the frozen layers after l_e; the generator, routing and losses stay float32."""
    has_activation_checkpointing: bool = False
    """Recompute the frozen layers in the backward pass: less memory, about a third more time."""


class DiagnosticsRecipe(Settings):
    """When validation warns about a generator in training."""

    max_empty_fraction: PositiveFraction = 0.2
    """Warn when more of the probes that an expert must answer have no candidate at all."""
    max_kept_fraction: PositiveFraction = 0.8
    """Warn when more of the bank is kept, on average over probes with an image."""
    max_norm_ratio: _MoreThanOne = 20.0
    """Warn when the norm of the largest expert exceeds this many times the median."""
    max_norm_growth: _MoreThanOne = 50.0
    """Warn when the median norm exceeds this many times that of the first validation."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """All that decides the numbers of a training run, given data and initial weights."""

    seed: int
    phases: Mapping[Phase, PhaseSection]
    losses: LossSection = field(default_factory=LossSection)
    optimization: OptimizationSection = field(default_factory=OptimizationSection)

    def __post_init__(self) -> None:
        weights = self.losses.weights
        for phase, recipe in self.phases.items():
            names = LOSSES_OF_PHASE[phase]
            if recipe.steps and not any(weights[name] for name in names):
                raise ConfigError(
                    f"losses: the phase {phase!r} has steps, but all its losses "
                    f"({', '.join(names)}) have weight 0"
                )

    def remaining(self, phase: Phase, step: int) -> list[tuple[Phase, int]]:
        """Phases still to run from a position, each with its first step."""
        first = PHASES.index(phase)
        positions = [(phase, step), *((later, 0) for later in PHASES[first + 1 :])]
        return [(name, start) for name, start in positions if start < self.phases[name].steps]
