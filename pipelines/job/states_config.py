"""The section `states` of a recipe: whether and how rows at l_e are remembered between jobs."""

from dataclasses import dataclass
from pathlib import Path

from liveedit_core.errors import ConfigError
from liveedit_core.method.config import StateDtype


@dataclass(frozen=True, kw_only=True)
class StatesSection:
    """The state cache, shared by training, expert generation and evaluation."""

    is_cached: bool = True
    """Whether states are read from the cache; false computes them whenever they are needed."""
    store: str = ""
    """Root URI of the store that holds the cache, file:///... or s3://bucket/prefix; empty: the
    folder `cache` under `run_root`, which all jobs on it share."""
    dtype: StateDtype = "float16"
    """Number format at rest. float16 is exact to about 1e-3; bfloat16 has its range but a tenth of
    its precision, for backbones whose rows exceed 65 504; float32 is exact."""
    max_bytes: int = 50_000_000_000
    """Budget. Beyond it the states that were not used for the longest time go, and what finds no
    room is computed whenever it is needed; 0 sets no limit."""
    num_workers: int = 0
    """Actors that encode a split before training; 0 encodes in the job's own process, without
    Ray."""
    max_in_flight: int = 4
    """Chunks on their way at one time."""
    num_threads: int = 1
    """Threads of torch in each actor."""
    num_cpus: float = 1.0
    """CPUs that Ray sets aside for each actor; for placement only, and may be a fraction."""
    node_resource: str = ""
    """Custom Ray resource that marks the nodes to run on; empty for any node."""

    def __post_init__(self) -> None:
        """Refuse counts below their floor and stores that are none."""
        for name, least in (
            ("max_bytes", 0),
            ("num_workers", 0),
            ("max_in_flight", 1),
            ("num_threads", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}")
        if not 0.0 <= self.num_cpus < float("inf"):
            raise ConfigError(f"num_cpus must be 0 or more, got {self.num_cpus}")
        scheme, separator, _ = self.store.partition("://")
        if separator and scheme not in ("file", "s3"):
            raise ConfigError(
                f"store must be a folder, file:///... or s3://..., got {self.store!r}"
            )

    def store_uri(self, run_root: str) -> str:
        """Root URI of the cache's store, a plain folder made absolute."""
        if "://" in self.store:
            return self.store
        return Path(self.store or Path(run_root) / "cache").absolute().as_uri()
