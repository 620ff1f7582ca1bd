"""The training worker: computes the steps of a phase.

Owns: generator, frozen layers after l_e, moments; between `begin` and the next `begin`.
Receives: the position to start from, then how many steps to take.
Returns: the figures of each step, and snapshots.
When it dies: everything since the last snapshot is computed again with the same numbers, as all
    randomness of a step is drawn from its position (`training_group`).
"""

import gc
import math
import time
from typing import TYPE_CHECKING

import ray
import torch

from liveedit_core.backbones.vision_language import as_vision_language
from liveedit_core.devices import chosen_device, device_of
from liveedit_core.errors import NumericsError
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.training.micro_batches import draw
from liveedit_core.training.recipe import Phase, PhaseSection, TrainingPlan
from liveedit_core.training.snapshot import Snapshot, StepFigures
from liveedit_core.training.step import TrainingModule
from workers.failures import converted_failures
from workers.gang import Rendezvous, own_rendezvous
from workers.messages import TrainingSource
from workers.models import limit_threads
from workers.sharding_config import ShardingSection
from workers.training_engine import TorchEngine

if TYPE_CHECKING:
    from workers.sharding import ShardedEngine


class TrainingWorker:
    """One rank of a gang, or all of training in this process."""

    @converted_failures
    def __init__(
        self,
        plan: TrainingPlan,
        source: TrainingSource,
        sharding: ShardingSection | None = None,
        *,
        rank: int = 0,
    ) -> None:
        self._plan = plan
        self._source = source
        self._sharding = sharding or ShardingSection()
        self._rank = rank
        self._engine: TorchEngine | ShardedEngine | None = None
        self._module: TrainingModule | None = None
        self._position: Snapshot | None = None
        self._step = 0

    rendezvous = staticmethod(own_rendezvous)

    @converted_failures
    def join(self, rendezvous: Rendezvous) -> None:
        """Become a rank of a gang, once in the life of a process."""
        from workers.sharding import join_gang

        limit_threads(self._sharding.threads_per_shard)
        join_gang(self._rank, rendezvous, self._sharding)

    def begin(self, position: Snapshot) -> None:
        """Load a snapshot whose phase has steps left."""
        self.prepare(position)
        self.start()

    @converted_failures
    def prepare(self, position: Snapshot) -> None:
        """First half of `begin`: load the models, which ranks may do at different speeds."""
        self.close()
        self._position, self._step = position, position.step
        generator = LiveEditGenerator(position.config)
        generator.load_state_dict(position.model)
        optimization = self._plan.optimization
        # Of the backbone only the layers after l_e stay in memory.
        suffix = as_vision_language(self._source.load_backbone()).suffix(
            dtype=getattr(torch, optimization.dtype),
            has_activation_checkpointing=optimization.has_activation_checkpointing,
        )
        self._module = TrainingModule(generator, suffix, self._plan.losses)

    @converted_failures
    def start(self) -> None:
        """Second half of `begin`: shard the models, all ranks together."""
        position, module = self._begun(), self._module
        assert module is not None
        trained = module.train_only(position.phase)
        accumulation, optimization = self._phase.accumulation, self._plan.optimization
        if self._sharding.shards == 1:
            device = device_of(module.suffix)
            if self._sharding.gpus_per_shard:
                device = chosen_device("auto")
            self._engine = TorchEngine(
                module, trained, position.moments, optimization, accumulation, device
            )
        else:
            from workers.sharding import ShardedEngine

            accumulation //= self._sharding.shards
            self._engine = ShardedEngine(
                module, trained, position.moments, optimization, accumulation, self._sharding
            )
        self._module = None

    @converted_failures
    def advance(self, num_steps: int) -> list[StepFigures]:
        """Take some steps of the phase.

        Raises NumericsError if a loss is NaN or infinite; the weights are those before that step.
        """
        return [self._take_step() for _ in range(num_steps)]

    def _take_step(self) -> StepFigures:
        start_s = time.perf_counter()
        phase, section, step = self._begun().phase, self._phase, self._step
        assert self._engine is not None
        shards, size, seed = self._sharding.shards, section.batch_size, self._plan.seed
        rows = []
        for number in range(self._rank, section.accumulation, shards):
            batch = draw(self._source.data, phase, size, seed=seed, step=step, number=number)
            rows.append(self._engine.backward(batch))
            check_finite(rows[-1], phase, step)
        rate = section.rate(step)
        norm = self._engine.step(rate)
        self._step += 1
        return StepFigures(
            phase=phase,
            step=step,
            learning_rate=rate,
            gradient_norm=norm,
            figures=mean_figures(rows),
            duration_s=time.perf_counter() - start_s,
        )

    @converted_failures
    def snapshot(self) -> Snapshot | None:
        """Where this run is; None on ranks other than 0, which must take part too."""
        begun = self._begun()
        assert self._engine is not None
        tensors = self._engine.tensors()
        if self._rank:
            return None
        return Snapshot(config=begun.config, phase=begun.phase, step=self._step, tensors=tensors)

    def close(self) -> None:
        """Free the models."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
            gc.collect()  # cycles hold the models

    @property
    def _phase(self) -> PhaseSection:
        return self._plan.phases[self._begun().phase]

    def _begun(self) -> Snapshot:
        if self._position is None:
            raise RuntimeError("TrainingWorker.begin() must be called first")
        return self._position


def mean_figures(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means by name; all rows have the same names."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def check_finite(figures: dict[str, float], phase: Phase, step: int) -> None:
    """Raise NumericsError if a loss is NaN or infinite."""
    broken = [name for name, value in figures.items() if not math.isfinite(value)]
    if broken:
        raise NumericsError(
            f"phase {phase}, step {step}: {', '.join(broken)} not finite; the step is not taken. "
            "Lower the learning rate or max_gradient_norm, and look at the images of this step"
        )


TrainingActor = ray.remote(TrainingWorker)
