"""How one model is spread over several processes; imports no torch, so that recipes can read it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from liveedit_core.settings import Count, Positive, PositiveInt, Settings


class ShardingSection(Settings):
    """A gang of processes that shares one copy of backbone and generator (DeepSpeed ZeRO)."""

    shards: PositiveInt = 1
    """Processes of the gang; 1 is plain torch in this process."""
    zero_stage: Annotated[int, Field(ge=1, le=3)] = 3
    """What is sharded: 1 optimizer states, 2 also gradients, 3 also the weights of backbone and
    generator."""
    has_cpu_offload: bool = False
    """Keep what is sharded in host memory instead of GPU memory."""
    gpus_per_shard: Annotated[int, Field(ge=0, le=1)] = 0
    """GPUs that Ray sets aside for each process, 0 or 1; with 0 it computes on the CPU."""
    cpus_per_shard: Positive = 1.0
    """CPUs that Ray sets aside for each process."""
    threads_per_shard: PositiveInt = 1
    """Threads of torch in each process."""
    timeout_s: Positive = 60.0
    """How long a process waits for its peers before it considers them dead."""
    start_timeout_s: float = 900.0
    """How long the gang may take to start, loading of the models included."""
    max_rebuilds: Count = 3
    """How many times the gang is rebuilt after a process died, between two checkpoints."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.start_timeout_s < self.timeout_s:
            raise ValueError(
                f"start_timeout_s must be at least timeout_s ({self.timeout_s:g}), got "
                f"{self.start_timeout_s:g}"
            )
        if self.has_cpu_offload and not (self.gpus_per_shard and self.shards > 1):
            raise ValueError(
                "has_cpu_offload moves weights out of the memory of GPUs: it needs gpus_per_shard "
                "= 1 and more than one shard"
            )
        return self

    @property
    def needs_processes(self) -> bool:
        """Whether other processes than the driver's compute, so that a Ray session is needed."""
        return self.shards > 1 or self.gpus_per_shard > 0

    @property
    def needed_cpus(self) -> float:
        """CPUs that Ray sets aside for the whole gang."""
        return self.shards * self.cpus_per_shard if self.needs_processes else 0.0
