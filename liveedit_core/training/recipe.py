"""How the generator is trained: phases, schedule, weights of the losses, precision."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from liveedit_core.errors import ConfigError

Phase = Literal["prompt", "experts", "joint"]
PHASES: tuple[Phase, ...] = ("prompt", "experts", "joint")
"""In the order in which they run."""
KlDirection = Literal["original_to_edited", "edited_to_original"]
Schedule = Literal["one_cycle", "cosine", "milestones"]
ComputeDtype = Literal["float32", "bfloat16"]


def check_positive(name: str, value: float) -> None:
    """Raises ConfigError unless the value is more than zero."""
    if value <= 0:
        raise ConfigError(f"{name} must be more than 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class PhaseSection:
    """One phase of training: Adam under a learning-rate schedule."""

    steps: int = 0
    """Optimizer steps; 0 skips the phase."""
    batch_size: int = 32
    """Items of a micro-batch; losses that compare items compare those of one micro-batch."""
    accumulation: int = 1
    """Micro-batches of a step, whose gradients are averaged; a multiple of `sharding.shards`, which
    share them."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    schedule: Schedule = "one_cycle"
    """After the warm-up: half a cosine to zero (one_cycle, of the steps that are left; cosine, of
    all steps), or constant but for the milestones."""
    warmup_fraction: float = 0.1
    """Share of the steps in which the rate rises; 0 only with cosine and milestones."""
    milestones: tuple[int, ...] = ()
    """Steps at which the rate is multiplied by `milestone_factor`; the paper has one at 10 000."""
    milestone_factor: float = 0.1
    """Factor of a milestone."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"steps must be 0 or more, got {self.steps}")
        for name in ("batch_size", "accumulation", "learning_rate", "milestone_factor"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.warmup_fraction < 1 or (
            self.schedule == "one_cycle" and self.warmup_fraction == 0
        ):
            raise ConfigError(
                f"warmup_fraction must be between 0 and 1, got {self.warmup_fraction}"
            )
        if bool(self.milestones) != (self.schedule == "milestones"):
            raise ConfigError(
                f"milestones: got {list(self.milestones)} with schedule {self.schedule!r}; they "
                'belong to schedule "milestones", which needs one at least'
            )

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


@dataclass(frozen=True, kw_only=True)
class LossSection:
    """Weights of the losses in the total; 0 switches one off, as in the paper's ablations."""

    nll: float = 1.0
    """Phase experts: own question, own expert."""
    reliability: float = 1.0
    """Eq. 8."""
    text_generality: float = 1.0
    """Eq. 9, rephrased prompt."""
    modal_generality: float = 1.0
    """Eq. 9, other image."""
    locality: float = 1.0
    """Eq. 10."""
    soft_relative: float = 1.0
    """Eq. 15, in the phases prompt and joint."""
    soft_absolute: float = 1.0
    """Eq. 16, in the phases prompt and joint."""
    hard_neighbour: float = 1.0
    """Eq. 13."""
    hard_sentinel: float = 1.0
    """Eq. 14."""
    kl_direction: KlDirection = "original_to_edited"
    """Of the locality loss: the paper's, or that of the authors' code."""

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if weight < 0:
                raise ConfigError(f"{name} must be 0 or more, got {weight}")

    @property
    def weights(self) -> dict[str, float]:
        """Weight by name of the loss."""
        return {name: value for name, value in asdict(self).items() if name != "kl_direction"}


LOSSES_OF_PHASE: dict[Phase, tuple[str, ...]] = {
    "prompt": ("soft_relative", "soft_absolute"),
    "experts": ("nll",),
    "joint": tuple(name for name in LossSection().weights if name != "nll"),
}


@dataclass(frozen=True, kw_only=True)
class OptimizationSection:
    """What all phases have in common."""

    max_gradient_norm: float = 1.0
    """Gradients of a step are scaled down to this norm."""
    dtype: ComputeDtype = "float32"
    """Of the frozen layers after l_e; the generator, routing and losses stay float32."""
    has_activation_checkpointing: bool = False
    """Compute the frozen layers a second time in the backward pass instead of keeping what they
    need for it: less memory, about a third more time."""

    def __post_init__(self) -> None:
        check_positive("max_gradient_norm", self.max_gradient_norm)


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
