"""A gang of training workers with the interface of one.

When a rank dies, the gang is rebuilt at the last snapshot and repeats the lost steps with the same
numbers; the loop does not notice.
"""

from dataclasses import replace
from typing import Any

import ray

from liveedit_core.training.recipe import TrainingPlan
from liveedit_core.training.snapshot import Snapshot, StepFigures
from workers.actor_pool import Call
from workers.gang import Gang
from workers.messages import TrainingSource
from workers.sharding_config import ShardingSection
from workers.training_worker import TrainingActor, mean_figures


class TrainingGroup:
    """Trains in other processes; the interface of `TrainingWorker`."""

    def __init__(
        self, plan: TrainingPlan, source: TrainingSource, sharding: ShardingSection
    ) -> None:
        sent = ray.put(source)  # once, for all ranks and all rebuilds

        def create(options: dict[str, Any], rank: int) -> Any:
            return TrainingActor.options(**options).remote(plan, sent, sharding, rank=rank)

        self._start_timeout_s = sharding.start_timeout_s
        self.gang = Gang("training group", create, sharding)
        self._position: Snapshot | None = None
        self._step = 0

    def begin(self, position: Snapshot) -> None:
        """Load a snapshot whose phase has steps left."""
        self._position, self._step = position, position.step
        self.gang.retrying(lambda is_new: self._go_to(position))

    def advance(self, num_steps: int) -> list[StepFigures]:
        """Take some steps of the phase; figures are means over the ranks."""
        by_rank = self._ask(lambda actor: actor.advance.remote(num_steps))
        self._step += num_steps
        return [merged(steps) for steps in zip(*by_rank, strict=True)]

    def snapshot(self) -> Snapshot:
        """Where the run is; from now on a lost gang is rebuilt here."""
        taken: Snapshot = self._ask(lambda actor: actor.snapshot.remote())[0]
        self._position = taken
        return taken

    def _ask(self, call: Call) -> list[Any]:
        """Call all ranks at the present step, after a rebuild if one was lost."""
        position = self._position
        if position is None:
            raise RuntimeError("TrainingGroup.begin() must be called first")

        def ask(is_new: bool) -> list[Any]:
            if is_new:
                self._go_to(position)
                if lost := self._step - position.step:
                    self.gang.ask(lambda actor: actor.advance.remote(lost))
            return self.gang.ask(call)

        return self.gang.retrying(ask)

    def _go_to(self, position: Snapshot) -> None:
        timeout_s = self._start_timeout_s
        sent = ray.put(position)
        self.gang.ask(lambda actor: actor.prepare.remote(sent), timeout_s=timeout_s)
        self.gang.ask(lambda actor: actor.start.remote(), timeout_s=timeout_s)

    def close(self) -> None:
        """End the gang."""
        self.gang.close()


def merged(steps: tuple[StepFigures, ...]) -> StepFigures:
    """One step of all ranks: means of the figures, time of the slowest."""
    return replace(
        steps[0],
        figures=mean_figures([step.figures for step in steps]),
        duration_s=max(step.duration_s for step in steps),
    )
