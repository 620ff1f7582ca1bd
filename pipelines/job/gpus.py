"""Which stages of a job compute on GPUs, and how many each of their actors reserves.

    generator, evaluation, state encoding --share--> GPUs of the nodes they may run on

The driver asks for none.
"""

import math
from collections.abc import Sequence

from liveedit_core.errors import ConfigError
from pipelines.job.ray_session import num_gpus_on
from pipelines.job.sections import ActorSection, GeneratorSection
from workers.models import ModelNames, ModelSource


def gpus_of_each(section: ActorSection, beside: Sequence[ActorSection] = ()) -> float:
    """GPUs to reserve for each actor of a stage, in an open Ray session; `beside` are the stages
    that the job starts too."""
    if section.num_gpus != "auto":
        return section.num_gpus
    if section.device == "cpu":
        return 0.0
    others = [one for one in beside if _share_nodes(one, section)]
    free = num_gpus_on(section.node_resource)
    asked = {id(one): one.num_gpus for one in others}
    free -= sum(number * one.num_actors for one in others if (number := asked[id(one)]) != "auto")
    wanting = [one for one in (section, *others) if one.num_gpus == "auto" and one.device != "cpu"]
    for one in [one for one in wanting if _is_sharded(one)]:
        each = 1.0 if free >= one.num_actors else 0.0  # shards cannot share a GPU
        if one is section:
            return each
        free -= each * one.num_actors
        wanting.remove(one)
    if free < 1:
        return 0.0
    return 1 / math.ceil(sum(one.num_actors for one in wanting) / free)


def placed(models: ModelSource, section: ActorSection, num_gpus: float) -> ModelSource:
    """The models as an actor of a stage loads them; see `device_of`."""
    if not isinstance(models, ModelNames):
        return models
    return models.on(device_of(section, num_gpus, models.options.device), section.compute_dtype)


def device_of(section: ActorSection, num_gpus: float, default: str = "auto") -> str:
    """Where an actor of a stage computes; ConfigError where that is a GPU that nobody reserves."""
    device = (default if section.device == "auto" else section.device).partition(":")[0]
    if device in ("cuda", "spread") and not num_gpus:
        name = type(section).__name__.removesuffix("Section").lower()
        raise ConfigError(
            f"{name}: device is {device!r}, but no GPU is reserved for its actors: set num_gpus of "
            "that section to a number above 0 (start GPU nodes if there are none), or device to "
            '"auto"'
        )
    return device if num_gpus else "cpu"


def _share_nodes(first: ActorSection, second: ActorSection) -> bool:
    names = {first.node_resource, second.node_resource}
    return len(names) == 1 or "" in names


def _is_sharded(section: ActorSection) -> bool:
    return isinstance(section, GeneratorSection) and section.shards > 1
