"""Settings of `serve_editor.py`."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method.config import IndexMode, RefineSection
from liveedit_core.settings import (
    Amount,
    List,
    Name,
    Positive,
    PositiveInt,
    Settings,
    StoreUri,
    Text,
)
from pipelines.job.recipe_loader import Recipe
from pipelines.job.sections import BackboneSection, GeneratorSection, RaySection, store_uri

LOOPBACK = ("127.0.0.1", "localhost", "::1")
Port = Annotated[int, Field(ge=0, le=65535)]


class ServedBankSection(Settings):
    """The bank that is served where the registry has no champion."""

    name: Literal[""] | Name = ""
    """Empty: the only bank of the store, or "main", which teaching makes where there is none."""


class BatchSection(Settings):
    """How requests share the forwards of one model."""

    max_running: PositiveInt = 16
    """Sequences that are decoded together."""
    max_waiting: PositiveInt = 256
    """Sequences that may wait for a place; beyond, a client is told to come back (429)."""
    max_tokens: PositiveInt = 256
    """Longest answer that may be asked for."""
    max_choices: PositiveInt = 8
    """Most sequences of one request (`n`)."""
    num_threads: Annotated[int, Field(ge=0)] = 0
    """Threads of torch; 0 leaves it to torch."""


class HttpSection(Settings):
    """What is accepted over HTTP."""

    max_body_bytes: PositiveInt = 33_554_432
    body_timeout_s: Positive = 30.0
    """A client that takes longer to send its request is cut off (408)."""
    max_connections: PositiveInt = 1024
    """Requests at one time; beyond, 429. A request whose answer streams counts until its end."""
    image_hosts: List[str] = ()
    """Hosts from which http(s) images are fetched; none by default: data URIs only."""
    image_timeout_s: Positive = 5.0
    """For one image, fetched and decoded."""
    logs_prompts: bool = False
    """Whether log lines hold prompts and answers."""


class VersionsSection(Settings):
    """Which bank versions are held, and how they follow the store."""

    poll_s: Positive = 0.5
    """Pause between two looks at the champion and at the bank."""
    max_loaded: PositiveInt = 4
    """Versions in memory besides the current one."""
    expert_cache_bytes: PositiveInt = 268_435_456
    """Matrices of experts in memory; others are read when an input keeps them."""
    index: IndexMode = "auto"
    """Whether banks of 50 000 edits and more are searched by an index of their images, which may
    miss one of many that match; `liveedit_index_missed_experts` counts them."""


class TeachSection(Settings):
    """The editing loop beside the server."""

    is_on: bool = False
    """Whether posted edits are taught here, and not by a `--follow` job."""
    window_s: Amount = 0.0
    """How long an edit may wait for others of its window."""
    poll_s: Annotated[float, Field(ge=0.01, allow_inf_nan=False)] = 0.2


class ReplicasSection(Settings):
    """Ray Serve: copies of model and server."""

    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 1
    """More than `min_replicas`: as many as the load asks for."""
    target_requests: Positive = 8.0
    """Requests in progress of one replica that autoscaling aims at."""
    num_cpus: Amount = 1.0
    num_gpus: Amount = 0.0
    """Of each replica; without one it computes on the CPU."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas must be at least min_replicas")
        return self


class ServeRecipe(Recipe):
    """Settings of `serve_editor.py`."""

    job: ClassVar[str] = "serve"

    run_root: Text = "runs"
    """Holds MLflow's database, where MLFLOW_TRACKING_URI names no server, and the log."""
    store: StoreUri = ""
    """Store of the bank; empty: that of the quickstart."""
    operations: StoreUri = ""
    """Store of promotions and nightly runs; empty: `operations` under the run root."""
    host: Text = "127.0.0.1"
    """Any address but a loopback needs both keys in the environment."""
    port: Port = 8000
    is_local: bool = False
    """One process, without Ray."""
    bank: ServedBankSection = ServedBankSection()
    backbone: BackboneSection = BackboneSection()
    generator: GeneratorSection = GeneratorSection()
    refine: RefineSection = RefineSection()
    """Of what is taught here; the setting of the job that made the bank is not known."""
    limits: InputLimits = InputLimits()
    batch: BatchSection = BatchSection()
    http: HttpSection = HttpSection()
    versions: VersionsSection = VersionsSection()
    teach: TeachSection = TeachSection()
    replicas: ReplicasSection = ReplicasSection()
    ray: RaySection = RaySection()

    @property
    def loaded_backbone(self) -> BackboneSection:
        """The backbone as a server loads it: a replica that reserves no GPU takes none."""
        is_free = self.is_local or self.replicas.num_gpus > 0
        return self.backbone if is_free else self.backbone.with_changes(device="cpu")

    @property
    def store_uri(self) -> str:
        return store_uri(self.store, Path(self.run_root) / "quickstart" / "store")

    @property
    def operations_uri(self) -> str:
        return store_uri(self.operations, Path(self.run_root) / "operations")

    @property
    def is_loopback(self) -> bool:
        return self.host in LOOPBACK
