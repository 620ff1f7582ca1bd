"""The recipe of the editing job: every setting, its meaning, its default and what it may be.

A recipe is a TOML file in `recipes/`; see `recipe_loader` for how files and overrides are read.
Nothing is optional in the sense of None: an empty text or a zero means "not set" where the
docstring of the field says so.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from infra.bank.matrix_place import MatrixPlace
from infra.bank.policy import GrowthPolicy
from liveedit_core.backbones.load_options import LoadOptions, ModelDtype
from liveedit_core.errors import ConfigError
from liveedit_core.inputs.limits import InputLimits
from pipelines.editing.follow_config import FollowSection
from pipelines.evaluation.sections import PromotionAtEndSection
from pipelines.job.benchmark_options import BenchmarkSection
from pipelines.job.recipe_loader import load_recipe, to_dict, to_toml
from pipelines.job.states_config import StatesSection

__all__ = [
    "QUICKSTART",
    "LifelongEditRecipe",
    "load_recipe",
    "to_dict",
    "to_toml",
]

QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart.toml"
"""The recipe that is used when none is named."""

PROTOCOLS = ("teacher_forced", "free_generation")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class RequestsSection:
    """Which facts to teach. With neither `path` nor `cases`: those of `benchmark`, or the built-in
    evaluation cases."""

    path: str = ""
    """JSONL file of plain requests: {"image": ..., "prompt": ..., "target": ...}."""
    cases: str = ""
    """JSONL file of cases: {"edit": {...}, "probes": [...]}."""
    limit: int = 0
    """Teach only the first so many; 0 teaches all."""

    def __post_init__(self) -> None:
        """Refuse two sources at once and a negative limit."""
        _check(
            not (self.path and self.cases),
            "path and requests.cases are both set; set one of them",
        )
        _at_least("limit", self.limit, 0)


@dataclass(frozen=True, kw_only=True)
class BackboneSection:
    """The frozen vision-language model."""

    name: str = "builtin"
    """"builtin", the small one that the project brings; a checkpoint folder; or a repository of the
    Hugging Face hub, "owner/model" or "owner/model@revision"."""
    dtype: ModelDtype = "auto"
    """Number format of the weights: "auto" (as stored), "float32", "bfloat16" or "float16"."""
    device: str = "cpu"
    """"cpu", "cuda", "cuda:1"; or "auto", layers spread over GPUs and CPU."""
    edit_layer: int = -1
    """l_e; -1 for that of the generator checkpoint, and in training two thirds of the depth."""

    def __post_init__(self) -> None:
        """Refuse an empty name and what cannot be loaded."""
        _not_empty("name", self.name)
        self.options()

    def options(self) -> LoadOptions:
        """How any backbone but the built-in one is loaded."""
        return LoadOptions(dtype=self.dtype, device=self.device, edit_layer=self.edit_layer)


@dataclass(frozen=True, kw_only=True)
class GeneratorSection:
    """The trained generator that writes experts, and the gangs of actors it runs in."""

    checkpoint: str = "builtin"
    """"builtin", or the folder of a generator checkpoint (safetensors and config.json)."""
    shards: int = 1
    """Actors that share one copy of backbone and generator (DeepSpeed ZeRO-3); 1 is plain torch."""
    gangs: int = 1
    """Independent copies that write experts side by side."""
    batch_size: int = 8
    """Requests in one forward pass."""
    num_threads: int = 1
    """Threads of torch in each actor."""
    num_cpus: float = 1.0
    """CPUs that Ray sets aside for each actor; for placement only, and may be a fraction."""
    node_resource: str = ""
    """Custom Ray resource that marks the nodes to run on; empty for any node."""

    def __post_init__(self) -> None:
        """Refuse an empty checkpoint and counts below one."""
        _not_empty("checkpoint", self.checkpoint)
        for name in ("shards", "gangs", "batch_size", "num_threads"):
            _at_least(name, getattr(self, name), 1)
        _check_cpus("num_cpus", self.num_cpus)


@dataclass(frozen=True, kw_only=True)
class EmbeddingSection:
    """The pool that adds an image embedding to each expert and writes it to the store."""

    num_workers: int = 1
    """Actors in the pool."""
    batch_size: int = 32
    """Images in one forward pass."""
    num_threads: int = 1
    """Threads of torch in each actor."""
    num_cpus: float = 0.5
    """CPUs that Ray sets aside for each actor; for placement only, and may be a fraction."""
    node_resource: str = ""
    """Custom Ray resource that marks the nodes to run on; empty for any node."""
    open_clip_model: str = "builtin"
    """"builtin", or the name of an open_clip model such as "ViT-B-32"."""
    open_clip_pretrained: str = ""
    """Weights of the open_clip model: a tag such as "laion2b_s34b_b79k", or a file."""
    near_duplicate_similarity: float = 0.95
    """Edits whose images are at least so similar (cosine) are flagged in the report."""

    def __post_init__(self) -> None:
        """Refuse counts below one, a similarity outside [-1, 1] and a model without weights."""
        for name in ("num_workers", "batch_size", "num_threads"):
            _at_least(name, getattr(self, name), 1)
        _check_cpus("num_cpus", self.num_cpus)
        _not_empty("open_clip_model", self.open_clip_model)
        _check(
            -1.0 <= self.near_duplicate_similarity <= 1.0,
            f"near_duplicate_similarity must lie in [-1, 1], got {self.near_duplicate_similarity}",
        )
        is_builtin = self.open_clip_model == "builtin"
        _check(
            not is_builtin or not self.open_clip_pretrained,
            'embedding.open_clip_pretrained needs embedding.open_clip_model; "builtin" has its own',
        )
        _check(
            is_builtin or bool(self.open_clip_pretrained),
            f"open_clip_pretrained must name the weights of {self.open_clip_model!r}",
        )


@dataclass(frozen=True, kw_only=True)
class BankSection:
    """The versioned table that the experts go to."""

    name: str = "main"
    """Name of the bank in the store."""
    window_edits: int = 25
    """Edits of one window; each window becomes one bank version."""

    def __post_init__(self) -> None:
        """Refuse a name that is no file name and an empty window."""
        _file_name("name", self.name)
        _at_least("window_edits", self.window_edits, 1)


@dataclass(frozen=True, kw_only=True)
class EvaluationSection:
    """When, how and on what the bank is examined."""

    num_workers: int = 1
    """Most actors in the pool; they start as there is work for them."""
    batch_size: int = 16
    """Probes in one forward pass."""
    num_threads: int = 1
    """Threads of torch in each actor."""
    num_cpus: float = 0.5
    """CPUs that Ray sets aside for each actor; for placement only, and may be a fraction."""
    node_resource: str = ""
    """Custom Ray resource that marks the nodes to run on; empty for any node."""
    at: tuple[int, ...] = (1, 10, 100, 1000)
    """Numbers of edits at which to evaluate; the end of the job is always evaluated."""
    curve_at: tuple[int, ...] = ()
    """Numbers of edits of a lifelong curve: at the end of the job the cases are taken in groups of
    so many, and each is asked against the edits of its group, over all groups. Every number costs
    an evaluation of its own; empty draws no curve."""
    max_cases: int = 0
    """Evaluate at most so many of the taught cases at each point; 0 takes all."""
    protocols: tuple[str, ...] = PROTOCOLS
    """How to score: "teacher_forced", "free_generation"."""
    free_generation_cases: int = 100
    """Free generation is slow: it scores at most so many cases at each point; 0 takes all."""
    max_new_tokens: int = 12
    """Longest answer under free generation, in tokens."""
    matrices: MatrixPlace = "auto"
    """Where an actor keeps the matrices of the experts: "resident" in memory, "on_demand" in the
    store until an input keeps their expert, or "auto": in memory up to a gibibyte."""

    def __post_init__(self) -> None:
        """Refuse counts below their floor, unordered points and unknown protocols."""
        for name, least in (
            ("num_workers", 1),
            ("batch_size", 1),
            ("num_threads", 1),
            ("max_cases", 0),
            ("free_generation_cases", 0),
            ("max_new_tokens", 1),
        ):
            _at_least(name, getattr(self, name), least)
        _check_cpus("num_cpus", self.num_cpus)
        for name in ("at", "curve_at"):
            points = list(getattr(self, name))
            _check(
                points == sorted(set(points)) and all(point >= 1 for point in points),
                f"{name} must be rising numbers of at least 1, got {points}",
            )
        unknown = [protocol for protocol in self.protocols if protocol not in PROTOCOLS]
        _check(
            not unknown and len(set(self.protocols)) == len(self.protocols) > 0,
            "protocols must name each at most once, and one at least, of "
            f"{', '.join(PROTOCOLS)}; got {list(self.protocols)}",
        )


@dataclass(frozen=True, kw_only=True)
class RaySection:
    """The Ray session."""

    address: str = ""
    """Cluster to join, such as "auto" or "ray://host:10001"; empty starts a local one."""
    num_cpus: int = 0
    """CPUs of a local session; 0 takes all of the machine."""
    max_in_flight: int = 4
    """Batches on their way through each stage at one time."""
    object_store_memory_bytes: int = 0
    """Shared memory of a local session; 0 leaves it to Ray."""

    def __post_init__(self) -> None:
        """Refuse impossible sizes, and sizes of a cluster that is not started here."""
        _at_least("num_cpus", self.num_cpus, 0)
        _at_least("max_in_flight", self.max_in_flight, 1)
        smallest = 80 * 1024 * 1024  # Ray itself refuses less than about 75 MiB
        _check(
            self.object_store_memory_bytes == 0 or self.object_store_memory_bytes >= smallest,
            f"object_store_memory_bytes must be 0 or at least {smallest:,}, "
            f"got {self.object_store_memory_bytes:,}",
        )


@dataclass(frozen=True, kw_only=True)
class TrackingSection:
    """Where MLflow files the run; the server itself is named by MLFLOW_TRACKING_URI."""

    experiment: str = "liveedit"
    """Name of the MLflow experiment."""

    def __post_init__(self) -> None:
        """Refuse an empty experiment."""
        _not_empty("experiment", self.experiment)


@dataclass(frozen=True, kw_only=True)
class LifelongEditRecipe:
    """Settings of `lifelong_edit.py`."""

    job: ClassVar[str] = "lifelong_edit"

    seed: int = 0
    """Seed of everything that is drawn at random."""
    run_root: str = "runs"
    """Folder of all runs; holds MLflow's database too."""
    run_name: str = "lifelong_edit"
    """Folder of this run under `run_root`; a run that exists there is resumed."""
    store: str = ""
    """Root URI of the store, file:///... or s3://bucket/prefix; empty: `store` in the run's folder.

    A store holds one request log: every bank in it is made from all requests of the log.
    """
    requests: RequestsSection = field(default_factory=RequestsSection)
    benchmark: BenchmarkSection = field(default_factory=BenchmarkSection)
    limits: InputLimits = field(default_factory=InputLimits)
    backbone: BackboneSection = field(default_factory=BackboneSection)
    generator: GeneratorSection = field(default_factory=GeneratorSection)
    embedding: EmbeddingSection = field(default_factory=EmbeddingSection)
    bank: BankSection = field(default_factory=BankSection)
    growth: GrowthPolicy = field(default_factory=GrowthPolicy)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    states: StatesSection = field(default_factory=lambda: StatesSection(is_cached=False))
    ray: RaySection = field(default_factory=RaySection)
    tracking: TrackingSection = field(default_factory=TrackingSection)
    promotion: PromotionAtEndSection = field(default_factory=PromotionAtEndSection)
    follow: FollowSection = field(default_factory=FollowSection)

    def __post_init__(self) -> None:
        """Refuse what no run could be named or stored by, and two inputs at once."""
        has_file = bool(self.requests.path or self.requests.cases)
        _check(
            not self.follow.is_on or not (has_file or self.benchmark.is_on),
            "follow.is_on takes requests from its inbox: put the file there instead of naming it "
            "in requests or benchmark",
        )
        _check(
            not (has_file and self.benchmark.is_on),
            "benchmark.name and a file of requests are both set; set one of them",
        )
        _check(
            self.generator.shards == 1 or self.backbone.device == "cpu",
            f"backbone.device: {self.backbone.device!r} with generator.shards = "
            f"{self.generator.shards}; shards are processes that compute on the CPU, use one of "
            "the two",
        )
        _check_run(self.seed, self.run_root, self.run_name)
        scheme, separator, _ = self.store.partition("://")
        _check(
            not separator or scheme in ("file", "s3"),
            f"store must be a folder, file:///... or s3://..., got {self.store!r}",
        )

    @property
    def run_folder(self) -> Path:
        """Folder of this run."""
        return Path(self.run_root) / self.run_name

    @property
    def store_uri(self) -> str:
        """Root URI of the store, with the default filled in and a plain folder made absolute."""
        if "://" in self.store:
            return self.store
        return Path(self.store or self.run_folder / "store").absolute().as_uri()


def _check(is_fine: bool, message: str) -> None:
    if not is_fine:
        raise ConfigError(message)


def _at_least(name: str, value: int, least: int) -> None:
    _check(value >= least, f"{name} must be at least {least}, got {value}")


def _check_cpus(name: str, value: float) -> None:
    _check(0.0 <= value < float("inf"), f"{name} must be 0 or more, got {value}")


def _not_empty(name: str, value: str) -> None:
    _check(bool(value.strip()), f"{name} must not be empty")


def _file_name(name: str, value: str) -> None:
    _check(
        _NAME.fullmatch(value) is not None,
        f"{name} must be made of letters, digits, '.', '_' and '-', got {value!r}",
    )


def _check_run(seed: int, run_root: str, run_name: str) -> None:
    _check(0 <= seed < 2**32, f"seed must lie in [0, 2**32), got {seed}")
    _not_empty("run_root", run_root)
    _file_name("run_name", run_name)
