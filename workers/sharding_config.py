"""How one model is spread over several processes; light, so that recipes can read it."""

from dataclasses import dataclass

from liveedit_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ShardingSection:
    """A gang of processes that shares one copy of backbone and generator (DeepSpeed ZeRO)."""

    shards: int = 1
    """Processes of the gang; 1 is plain torch in this process."""
    zero_stage: int = 3
    """What is shared out: 1 optimizer moments, 2 and gradients, 3 and the weights of backbone and
    generator."""
    has_cpu_offload: bool = False
    """Keep what is shared out in the memory of the host instead of the GPU's."""
    gpus_per_shard: int = 0
    """GPUs that Ray sets aside for each process, 0 or 1; with 0 it computes on the CPU."""
    cpus_per_shard: float = 1.0
    """CPUs that Ray sets aside for each process."""
    threads_per_shard: int = 1
    """Threads of torch in each process."""
    timeout_s: float = 60.0
    """How long a process waits for its peers before it takes them for dead."""
    start_timeout_s: float = 900.0
    """How long the gang may take to start, loading of the models included."""
    max_rebuilds: int = 3
    """How often the gang is built anew after a process died, between two checkpoints."""

    def __post_init__(self) -> None:
        for name in ("shards", "cpus_per_shard", "threads_per_shard", "timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be more than 0, got {getattr(self, name)}")
        if self.zero_stage not in (1, 2, 3):
            raise ConfigError(f"zero_stage must be 1, 2 or 3, got {self.zero_stage}")
        if self.gpus_per_shard not in (0, 1):
            raise ConfigError(f"gpus_per_shard must be 0 or 1, got {self.gpus_per_shard}")
        if self.start_timeout_s < self.timeout_s:
            raise ConfigError(
                f"start_timeout_s must be at least timeout_s ({self.timeout_s:g}), got "
                f"{self.start_timeout_s:g}"
            )
        if self.max_rebuilds < 0:
            raise ConfigError(f"max_rebuilds must be 0 or more, got {self.max_rebuilds}")
        if self.has_cpu_offload and not (self.gpus_per_shard and self.shards > 1):
            raise ConfigError(
                "has_cpu_offload moves weights out of the memory of GPUs: it needs gpus_per_shard "
                "= 1 and more than one shard"
            )

    @property
    def needs_processes(self) -> bool:
        """Whether other processes than the driver's compute, so that a Ray session is needed."""
        return self.shards > 1 or self.gpus_per_shard > 0

    @property
    def needed_cpus(self) -> float:
        """CPUs that Ray sets aside for the whole gang."""
        return self.shards * self.cpus_per_shard if self.needs_processes else 0.0
