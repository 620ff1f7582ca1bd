"""Gradients of micro-batches, clipping and Adam."""

import torch
from torch import Tensor, nn

from liveedit_core.devices import moved
from liveedit_core.training.micro_batches import MicroBatch
from liveedit_core.training.recipe import OptimizationSection
from liveedit_core.training.snapshot import MODEL, MOMENT
from liveedit_core.training.step import TrainingModule

MOMENT_KEYS = ("step", "exp_avg", "exp_avg_sq")
Named = list[tuple[str, nn.Parameter]]


class TorchEngine:
    """The whole model in one process.

    `moments` is the Adam state of the trained parameters by `<name>.<key>`, empty at the start of a
    phase; `accumulation` counts the micro-batches of a step.
    """

    def __init__(
        self,
        module: TrainingModule,
        trained: Named,
        moments: dict[str, Tensor],
        optimization: OptimizationSection,
        accumulation: int,
        device: torch.device,
    ) -> None:
        self._module = module.to(device)
        self._trained = trained
        self._max_norm = optimization.max_gradient_norm
        self._accumulation = accumulation
        self._device = device
        self._optimizer = torch.optim.Adam([parameter for _, parameter in trained])
        if moments:
            for name, parameter in trained:
                self._optimizer.state[parameter] = {
                    # Adam counts steps on the CPU and changes its state in place.
                    key: moments[f"{name}.{key}"].to("cpu" if key == "step" else device, copy=True)
                    for key in MOMENT_KEYS
                }

    def backward(self, batch: MicroBatch) -> dict[str, float]:
        """Add the gradients of one micro-batch; returns its losses and accuracies."""
        total, figures = self._module(moved(batch, self._device))
        (total / self._accumulation).backward()
        return {"total": total.item()} | {name: part.item() for name, part in figures.items()}

    def step(self, learning_rate: float) -> float:
        """Move the weights by the mean of the gradients; returns their norm before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        parameters = [parameter for _, parameter in self._trained]
        norm = nn.utils.clip_grad_norm_(parameters, self._max_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments as in `Snapshot`."""
        weights = self._module.generator.state_dict()
        tensors = {f"{MODEL}{name}": cpu_copy(value) for name, value in weights.items()}
        for name, parameter in self._trained:
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{MOMENT}{name}.{key}"] = cpu_copy(value)
        return tensors

    def close(self) -> None:
        """Nothing to release."""


def cpu_copy(tensor: Tensor) -> Tensor:
    """A copy that does not change with the training."""
    return tensor.detach().to("cpu", copy=True).contiguous()
