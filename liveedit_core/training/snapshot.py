"""What a training run resumes from, and what each of its steps reports."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from liveedit_core.method.config import GeneratorConfig
from liveedit_core.training.recipe import Phase

MODEL = "model."
MOMENT = "moment."


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that a training run needs to resume, with any number of processes.

    Randomness is drawn from the position.
    """

    config: GeneratorConfig
    phase: Phase
    step: int
    """Steps of the phase that are done."""
    tensors: dict[str, Tensor]
    """`model.<name>`: weights of the generator; `moment.<name>.<key>`: Adam's state of each
    parameter that the phase trains (none before the first step). float32 on the CPU."""
    seconds: float = 0.0
    """Of all steps that led here, and of the fits of the keys; without preparing and validating."""

    @property
    def model(self) -> dict[str, Tensor]:
        """Weights by name, as in a generator checkpoint."""
        return _without_prefix(MODEL, self.tensors)

    @property
    def moments(self) -> dict[str, Tensor]:
        """Moments by name and key."""
        return _without_prefix(MOMENT, self.tensors)


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights (`MODEL`) or moments (`MOMENT`) under their names in `Snapshot.tensors`."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """What one optimizer step reports."""

    phase: Phase
    step: int
    """Counted from 0."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    figures: dict[str, float]
    """`total`, every loss by name (unweighted), and accuracies; means over the micro-batches."""
    duration_s: float
