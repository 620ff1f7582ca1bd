"""What travels between the training loop and its worker or gang."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from liveedit_core.backbones.protocol import TrainableBackbone, as_trainable
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.training.data import TrainingData
from liveedit_core.training.recipe import Phase
from workers.models import ModelSource

MODEL = "model."
MOMENT = "moment."


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything a training run is at one point, whoever computes it and on how many processes:
    randomness is drawn from the position, so this is all that resuming needs."""

    config: GeneratorConfig
    phase: Phase
    step: int
    """Steps of the phase that are done."""
    tensors: dict[str, Tensor]
    """`model.<name>`: weights of the generator; `moment.<name>.<key>`: what Adam keeps of each
    parameter that the phase moves (none before the first step). float32 on the CPU."""

    @property
    def model(self) -> dict[str, Tensor]:
        """Weights by name, as in a generator checkpoint."""
        return _part(self.tensors, MODEL)

    @property
    def moments(self) -> dict[str, Tensor]:
        """Moments by name and key."""
        return _part(self.tensors, MOMENT)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
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


class TrainingSource(Protocol):
    """Where a worker gets what it reads; picklable when the worker is in another process."""

    def load_backbone(self) -> TrainableBackbone:
        """The frozen model."""

    def load_data(self) -> TrainingData:
        """Encoded cases and pairs."""


@dataclass(frozen=True, kw_only=True)
class LoadedSource:
    """Models and data of this process."""

    backbone: TrainableBackbone
    data: TrainingData

    def load_backbone(self) -> TrainableBackbone:
        """The frozen model."""
        return self.backbone

    def load_data(self) -> TrainingData:
        """Encoded cases and pairs."""
        return self.data


@dataclass(frozen=True, kw_only=True)
class SentSource:
    """The backbone by name, and the data: its inputs and states are read where they lie, so the run
    folder and the state cache must be within reach of each process."""

    models: ModelSource
    data: TrainingData

    def load_backbone(self) -> TrainableBackbone:
        """The frozen model."""
        return as_trainable(self.models.load_backbone())

    def load_data(self) -> TrainingData:
        """Encoded cases and pairs."""
        return self.data
