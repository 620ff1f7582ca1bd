"""Sections that the recipes of several jobs share.

Nothing is optional in the sense of None: an empty text or a zero means "not set" where the
docstring of the field says so.
"""

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from infra.bank.policy import MatrixPlace
from liveedit_core.backbones.load_options import (
    ComputeDtype,
    Device,
    EditLayer,
    LoadOptions,
    ModelDtype,
    PromptProtocol,
)
from liveedit_core.errors import ConfigError
from liveedit_core.inputs.limits import MAX_TARGET_TOKENS, InputLimits
from liveedit_core.method.config import StateDtype, WeakEdits
from liveedit_core.settings import (
    Amount,
    Count,
    List,
    Name,
    PositiveInt,
    Seed,
    Settings,
    StoreUri,
    Text,
    rule,
)
from pipelines.job.recipe_loader import Recipe

PublishedName = Literal["evqa", "eic", "vlkeb", "cckeb", "mmke", "comprehendedit"]
BenchmarkName = Literal["emblem_edit", "user_world", "builtin", PublishedName]
EvaluationSplit = Literal["development", "validation", "test"]
MissingImages = Literal["fatal", "skipped"]
ScoringProtocol = Literal["teacher_forced", "free_generation"]
Protocols = Annotated[
    List[ScoringProtocol],
    Field(min_length=1),
    rule(lambda names: len(set(names)) == len(names), "name each protocol at most once"),
]
RisingCounts = Annotated[
    List[int],
    rule(
        lambda points: list(points) == sorted(set(points)) and all(n >= 1 for n in points),
        "be rising numbers of at least 1",
    ),
]
"""Numbers of edits, smallest first."""


def store_uri(store: str, default: Path) -> str:
    """Root URI of a store, with the default filled in and a plain folder made absolute."""
    return store if "://" in store else Path(store or default).absolute().as_uri()


class FolderRecipe(Recipe):
    """The recipe of a job that has a folder under a root."""

    run_root: Text = "runs"
    """Folder of all runs; holds MLflow's database where MLFLOW_TRACKING_URI names no server."""
    run_name: Name = ""
    """Folder of this run under `run_root`; a run that exists there is resumed."""

    @property
    def run_folder(self) -> Path:
        return Path(self.run_root) / self.run_name


class RunRecipe(FolderRecipe):
    """The recipe of a job whose results depend on a seed."""

    seed: Seed = 0
    """Seed of everything that is drawn at random."""

    def fixed_settings(self) -> dict[str, object]:
        """What stored results depend on: must stay the same while a run is resumed."""
        return {"seed": self.seed}


class BenchmarkSection(Settings):
    """The benchmark that cases come from; see the READMEs of `liveedit_core/builtin` and
    `liveedit_core/published`."""

    name: Literal["", BenchmarkName] = ""
    """"emblem_edit", "user_world", "builtin" (both), or a published one: "evqa" (E-VQA), "eic"
    (E-IC), "vlkeb", "cckeb", "mmke" (MMKE-Bench), "comprehendedit"; empty for a file of cases, or
    emblem_edit where none is named."""
    split: EvaluationSplit = "development"
    """Of a built-in benchmark: "development", its third "validation", where settings are chosen, or
    the sealed "test", whose looks are announced and recorded. Not for training."""
    data: str = ""
    """Folder with its JSON files. Training takes the training file, other jobs the evaluation."""
    images: str = ""
    """Folder that image paths start from; empty: its published name in `data`, or `data` itself."""
    missing_images: MissingImages = "fatal"
    """What missing or unreadable images do: "fatal" stops, "skipped" leaves out their records."""
    protocol: PromptProtocol = "chat"
    """How prompts reach the model: "chat", worded by its chat template as everywhere else, or
    "paper", raw as in LiveEdit's own code. Also of files that `convert_benchmark.py` wrote."""
    derived_localities: bool = False
    """Whether evaluation also asks the edit's prompt about the most similar other image and about
    none, and the most similar other prompt about the edit's image (after De-VQA). Off: they are not
    in the published files, and the one without an image counts as text_locality."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_published and not self.data:
            raise ValueError(f"data must name the folder with the files of {self.name!r} (--data)")
        for field in ("data", "images", "derived_localities"):
            if getattr(self, field) and not self.is_published:
                raise ValueError(f"{field} is set, but no published benchmark is named")
        if self.is_published and self.split != "development":
            raise ValueError(f"split: {self.name} has its own evaluation file")
        return self

    @property
    def is_on(self) -> bool:
        """Whether a benchmark is named."""
        return self.name != ""

    @property
    def is_published(self) -> bool:
        return self.name in get_args(PublishedName)

    @property
    def title(self) -> str:
        """For people: "emblem_edit, validation"."""
        return self.name if self.is_published else f"{self.name or 'emblem_edit'}, {self.split}"


class BackboneSection(Settings):
    """The frozen vision-language model."""

    name: Text = "builtin"
    """"builtin", a checkpoint folder, or "owner/model[@revision]" of the Hugging Face hub."""
    dtype: ModelDtype = "auto"
    """dtype of the weights, part of the backbone's identity: "auto" (as stored, whatever a stage
    computes in), "float32", "bfloat16", "float16", or on GPUs "int8" or "nf4" (bitsandbytes)."""
    device: Device = "auto"
    """Where the job's own process, if it needs the backbone, and stages with `device` "auto"
    compute: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", or "spread"."""
    edit_layer: EditLayer = -1
    """l_e; -1 for that of the generator checkpoint, and in training two thirds of the depth."""

    def options(self, prompt_protocol: PromptProtocol = "chat") -> LoadOptions:
        """How the backbone is loaded."""
        return LoadOptions(
            dtype=self.dtype,
            device=self.device,
            edit_layer=self.edit_layer,
            prompt_protocol=prompt_protocol,
        )


StageDevice = Literal["auto", "cpu", "cuda", "spread"]
NumGpus = Annotated[
    Literal["auto"] | Amount,
    rule(
        lambda number: number == "auto" or number <= 1 or number == int(number),
        'be "auto", a fraction of one GPU, or a whole number',
    ),
]


class ActorSection(Settings):
    """What each Ray actor of a stage gets."""

    num_threads: PositiveInt = 1
    """Threads of torch in each actor."""
    num_cpus: Amount = 1.0
    """CPUs that Ray reserves for each actor; for placement only, and may be a fraction."""
    num_gpus: NumGpus = "auto"
    """GPUs that Ray reserves for each actor. "auto": a whole GPU where the nodes that are up have
    enough for all actors, else an equal part of one; none where there is no GPU. A cluster that
    starts GPU nodes when they are asked for needs a number."""
    device: StageDevice = "auto"
    """Where the stage computes: "cpu", "cuda", "spread" (layers over the actor's GPUs and the CPU),
    or "auto": the GPU that is reserved for the actor, else the CPU."""
    compute_dtype: ComputeDtype = "auto"
    """dtype of the model in memory: "float32", "bfloat16", "float16", or "auto": where
    `backbone.dtype` names none, bfloat16 on GPUs that have it and, for the built-in model, on CPUs
    that do; else float32."""
    node_resource: str = ""
    """Custom Ray resource that marks the nodes to run on; empty for any node."""

    @property
    def num_actors(self) -> int:
        """The most actors that the stage starts."""
        return 1

    @model_validator(mode="after")
    def _check_gpus(self) -> Self:
        if self.device in ("cuda", "spread") and self.num_gpus == 0:
            raise ValueError(
                f"device is {self.device!r}, but num_gpus is 0: set num_gpus of the same section "
                'to the GPUs of each actor, such as 1 or 0.5, or device to "auto"'
            )
        return self


class WorkerSection(ActorSection):
    """A pool of workers."""

    num_workers: PositiveInt = 1
    """Most actors in the pool; they start as there is work for them."""
    batch_size: PositiveInt = 16
    """Items in one forward pass."""

    @property
    def num_actors(self) -> int:
        return self.num_workers


class GeneratorSection(ActorSection):
    """The trained generator that writes experts, and the gangs of actors it runs in."""

    checkpoint: Text = "builtin"
    """"builtin", or the folder of a generator checkpoint (safetensors and config.json)."""
    shards: PositiveInt = 1
    """Actors that share one copy of backbone and generator (DeepSpeed ZeRO-3); 1 is plain torch."""
    gangs: PositiveInt = 1
    """Most independent copies that write experts side by side; one that was idle for five minutes
    ends, and starts again when requests wait."""
    batch_size: PositiveInt = 8
    """Requests in one forward pass."""

    @property
    def num_actors(self) -> int:
        return self.gangs * self.shards

    @model_validator(mode="after")
    def _check_shards(self) -> Self:
        if self.shards > 1 and self.num_gpus not in ("auto", 0, 1):
            raise ValueError(
                f"num_gpus is {self.num_gpus:g} with shards = {self.shards}: each shard computes "
                "on one whole GPU (1) or on the CPU (0)"
            )
        return self


class EditsSection(Settings):
    """What happens to edits after their experts were written."""

    weak: WeakEdits = "refuse"
    """An edit whose own question is not answered: "refuse" it with the reason, or "commit" it
    (`liveedit edits list --state weak`)."""


class EmbeddingSection(WorkerSection):
    """The pool that adds an image embedding to each expert and writes it to the store."""

    num_workers: Count = 0
    """Most actors of their own, which end and start as `gangs` do; 0: the generator's actors do it,
    or one actor beside shards."""
    batch_size: PositiveInt = 32
    num_cpus: Amount = 0.5
    num_gpus: NumGpus = 0.0
    open_clip_model: Text = "builtin"
    """"builtin", or the name of an open_clip model such as "ViT-B-32"."""
    open_clip_pretrained: str = ""
    """Weights of the open_clip model: a tag such as "laion2b_s34b_b79k", or a file."""
    near_duplicate_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.95
    """Edits whose images are at least this similar (cosine) are flagged in the report."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.open_clip_model == "builtin" and self.open_clip_pretrained:
            raise ValueError(
                'open_clip_pretrained needs embedding.open_clip_model; "builtin" has its own'
            )
        if self.open_clip_model != "builtin" and not self.open_clip_pretrained:
            raise ValueError(
                f"open_clip_pretrained must name the weights of {self.open_clip_model!r}"
            )
        return self


class BankSection(Settings):
    """The versioned table that the experts go to."""

    name: Name = "main"
    window_edits: PositiveInt = 25
    """Edits of one window; each window becomes one bank version."""


class ScoringSection(WorkerSection):
    """How cases are scored, and by how many workers."""

    protocols: Protocols = ("teacher_forced", "free_generation")
    """How to score: "teacher_forced", "free_generation"."""
    free_generation_cases: Count = 0
    """Most cases of an evaluation scored by free generation; 0 for all."""
    max_new_tokens: PositiveInt = MAX_TARGET_TOKENS
    """Longest answer under free generation, in tokens; no accepted target may be longer."""

    def check_length(self, limits: InputLimits) -> None:
        """ConfigError where accepted targets may be longer than answers."""
        answer, target = self.max_new_tokens, limits.max_target_tokens
        if answer < target:
            raise ConfigError(
                f"evaluation.max_new_tokens is {answer}, but targets of up to {target} tokens are "
                "accepted: under free generation answers to longer targets would be cut and count "
                f"as wrong. Set evaluation.max_new_tokens={target}, or refuse longer targets with "
                f"limits.max_target_tokens={answer}"
            )


class EvaluationSection(ScoringSection):
    """When, how and on what the bank is evaluated."""

    num_workers: Count = 1
    """Most actors in the pool; they start as there is work for them. 0: the generator's actors
    evaluate, two units at a time and with its models, where they also embed; else one actor."""
    num_cpus: Amount = 0.5
    at: RisingCounts = (1, 10, 100, 1000)
    """Numbers of edits at which to evaluate; the end of the job is always evaluated."""
    curve_at: RisingCounts = ()
    """Numbers of edits of a lifelong curve: at the end, each case is scored against the edits of
    its group of this size. Every number costs an evaluation; empty draws no curve."""
    max_cases: Count = 0
    """Evaluate at most this many of the edited cases at each point; 0 for all."""
    matrices: MatrixPlace = "auto"
    """Where an actor keeps the matrices of the experts: "resident" in memory, "on_demand" in the
    store until an input keeps their expert, or "auto": in memory up to a gibibyte."""


class StatesSection(ActorSection):
    """The cache of hidden states at l_e, shared by training, expert generation and evaluation."""

    is_cached: bool = True
    """Whether states are read from the cache; false computes them whenever they are needed."""
    store: StoreUri = ""
    """Root URI of the cache's store; empty: `cache` under `run_root`, shared by all its jobs."""
    dtype: StateDtype = "float16"
    """dtype at rest: float16 is exact to about 1e-3; bfloat16 is for hidden states beyond 65 504,
    with a tenth of that precision; float32 is exact."""
    max_bytes: Count = 50_000_000_000
    """Budget; beyond it the least recently used states are evicted. 0 sets no limit."""
    num_workers: Count = 0
    """Actors that encode a split before training; 0 encodes in the job's own process, or in one
    actor where training has shards or GPUs of its own."""
    max_in_flight: PositiveInt = 4
    """Chunks in flight at one time."""

    @property
    def num_actors(self) -> int:
        return self.num_workers

    def store_uri(self, run_root: str) -> str:
        return store_uri(self.store, Path(run_root) / "cache")


_LEAST_OBJECT_STORE = 80 * 1024 * 1024
"""Ray itself refuses less than about 75 MiB."""


class RaySection(Settings):
    """The Ray session."""

    address: str = ""
    """Cluster to join, such as "auto" or "ray://host:10001"; empty starts a local one."""
    num_cpus: Count = 0
    """CPUs of a local session; 0 takes all of the machine."""
    max_in_flight: PositiveInt = 4
    """Batches in flight through each stage at one time."""
    object_store_memory_bytes: Annotated[
        int,
        rule(
            lambda size: size == 0 or size >= _LEAST_OBJECT_STORE,
            f"be 0 or at least {_LEAST_OBJECT_STORE:,}",
        ),
    ] = 0
    """Shared memory of a local session; 0 leaves it to Ray."""


class TrackingSection(Settings):
    """Where MLflow files the run; the server itself is named by MLFLOW_TRACKING_URI."""

    experiment: Text = "liveedit"
