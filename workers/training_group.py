"""The training group: what the loop sees of a gang of training workers.

It takes steps as one worker does. When a rank dies, the gang is built anew at the last snapshot and
takes the lost steps again, with the same numbers; the loop does not notice.
"""

from collections.abc import Callable
from typing import Any

import ray

from liveedit_core.training.recipe import TrainingPlan
from workers.gang import Gang, retried_on_loss
from workers.sharding_config import ShardingSection
from workers.training_messages import Snapshot, StepFigures, TrainingSource
from workers.training_worker import TrainingActor, mean_figures


class TrainingGroup:
    """Trains in other processes; the interface of `TrainingWorker`.

    Args:
        plan: what is trained, and how.
        source: backbone and data; is sent to all ranks.
        sharding: how many ranks, and how they share the model.
        node_resource: custom resource of the nodes to run on; "" for any.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        source: TrainingSource,
        sharding: ShardingSection,
        *,
        node_resource: str = "",
    ) -> None:
        sent = ray.put(source)  # once, for all ranks and all rebuilds

        def create(options: dict[str, Any], rank: int) -> Any:
            return TrainingActor.options(**options).remote(plan, sent, sharding, rank=rank)

        self._max_rebuilds = sharding.max_rebuilds
        self._start_timeout_s = sharding.start_timeout_s
        self.gang = Gang("training group", create, sharding, node_resource=node_resource)
        self._position: Snapshot | None = None
        self._step = 0

    def begin(self, position: Snapshot) -> None:
        """Be where a snapshot was taken; its phase must have steps left."""
        self._position, self._step = position, position.step

        def begin() -> None:
            if not self.gang.is_up:
                self.gang.start()
            self._go_to(position)

        retried_on_loss(self.gang, begin, self._max_rebuilds)

    def advance(self, num_steps: int) -> list[StepFigures]:
        """Take some steps of the phase; figures are means over the ranks."""
        by_rank = self._there(lambda actor: actor.advance.remote(num_steps))
        self._step += num_steps
        return [merged(steps) for steps in zip(*by_rank, strict=True)]

    def snapshot(self) -> Snapshot:
        """Where the run is; a lost gang comes back to here from now on."""
        taken: Snapshot = self._there(lambda actor: actor.snapshot.remote())[0]
        self._position = taken
        return taken

    def parameter_bytes(self) -> list[int]:
        """Memory for weights of backbone and generator, by rank."""
        return self._there(lambda actor: actor.parameter_bytes.remote())

    def _there(self, call: Callable[[Any], Any]) -> list[Any]:
        """Ask all ranks, at the present step."""

        def ask() -> list[Any]:
            if not self.gang.is_up:
                self._come_back()
            return self.gang.ask(call)

        answers: list[Any] = retried_on_loss(self.gang, ask, self._max_rebuilds)
        return answers

    def _come_back(self) -> None:
        position = self._position
        if position is None:
            raise RuntimeError("TrainingGroup.begin() comes before all else")
        self.gang.start()
        self._go_to(position)
        if lost := self._step - position.step:
            self.gang.ask(lambda actor: actor.advance.remote(lost))

    def _go_to(self, position: Snapshot) -> None:
        timeout_s = self._start_timeout_s
        sent = ray.put(position)
        self.gang.ask(lambda actor: actor.prepare.remote(sent), timeout_s=timeout_s)
        self.gang.ask(lambda actor: actor.start.remote(), timeout_s=timeout_s)

    def close(self) -> None:
        """End the gang."""
        self.gang.close()


def merged(steps: tuple[StepFigures, ...]) -> StepFigures:
    """One step as its ranks report it: means of the figures, time of the slowest."""
    first = steps[0]
    return StepFigures(
        phase=first.phase,
        step=first.step,
        learning_rate=first.learning_rate,
        gradient_norm=first.gradient_norm,
        figures=mean_figures([step.figures for step in steps]),
        duration_s=max(step.duration_s for step in steps),
    )
