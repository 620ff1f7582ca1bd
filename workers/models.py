"""Models, cached states and stored answers: named by the driver, opened in the worker."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, Self

from liveedit_core.backbones.load_options import ComputeDtype, LoadOptions
from liveedit_core.backbones.protocol import Backbone
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.unedited_answers import AnswerCache
from liveedit_core.method.config import GeneratorConfig, StateDtype
from liveedit_core.method.generator import CONFIG_FILE, LiveEditGenerator, load_generator
from liveedit_core.state_source import BackboneStates, StateIdentity, StateSource

BUILTIN = "builtin"


class ModelSource(Protocol):
    """Names a backbone and a generator; picklable and small."""

    def load_backbone(self) -> Backbone:
        """Load the frozen model."""

    def load_generator(self) -> LiveEditGenerator:
        """Load the trained generator."""


@dataclass(frozen=True, kw_only=True)
class ModelNames:
    """Models by their names in a recipe."""

    backbone: str = BUILTIN
    """"builtin", a folder, or a repository of the hub ("owner/model" or "owner/model@revision")."""
    generator: str = BUILTIN
    """"builtin", the folder of a checkpoint, or "" where a generator is still to be trained."""
    options: LoadOptions = field(default_factory=LoadOptions)

    def on(self, device: str, compute_dtype: ComputeDtype = "auto") -> Self:
        """The same models, loaded on a device and, unless it is "auto", in a dtype."""
        changes = {} if compute_dtype == "auto" else {"compute_dtype": compute_dtype}
        return replace(self, options=self.options.with_changes(device=device, **changes))

    def load_backbone(self) -> Backbone:
        """Load the frozen model with the generator's layers, unless the options name others."""
        from liveedit_core.builtin.backbone import load_named_backbone

        return load_named_backbone(self.backbone, self._options_of_generator())

    def _options_of_generator(self) -> LoadOptions:
        if not self.generator:
            return self.options
        try:
            values = json.loads((self.generator_folder() / CONFIG_FILE).read_text(encoding="utf-8"))
            return GeneratorConfig.from_dict(values).load_options(self.options)
        except (OSError, ValueError, ConfigError):
            return self.options  # load_generator reports what is wrong with the checkpoint

    def load_generator(self) -> LiveEditGenerator:
        """Load the trained generator."""
        return load_generator(self.generator_folder())

    def generator_folder(self) -> Path:
        """Folder of the checkpoint; raises ConfigError if there is none."""
        if self.generator == BUILTIN:
            from liveedit_core.builtin.backbone import builtin_generator_folder

            return builtin_generator_folder()
        folder = Path(self.generator)
        if not folder.is_dir():
            raise ConfigError(
                f"generator.checkpoint: {self.generator!r} is not a folder; expected one that "
                'holds safetensors and config.json, or "builtin"'
            )
        return folder.absolute()


@dataclass(frozen=True, kw_only=True)
class CacheNames:
    """The state cache of a recipe; picklable and small."""

    store_uri: str
    dtype: StateDtype = "float16"
    max_bytes: int = 0


def open_states(
    backbone: Backbone,
    cache: CacheNames | None,
    *,
    has_large_calls: bool = False,
    one_by_one: bool = False,
) -> StateSource:
    """States from the cache, which the worker fills; without one, from the backbone.

    With `has_large_calls` every call is committed, so that a lost worker loses nothing.
    """
    computed = BackboneStates(backbone, one_by_one=one_by_one)
    if cache is None:
        return computed
    # Import Lance only if there is a cache.
    from infra.cache.cached_states import WRITE_AT_ONCE, CachedStates
    from infra.cache.state_cache import StateCache
    from infra.storage.object_store import ObjectStore

    identity = StateIdentity.of(backbone, cache.dtype)
    opened = StateCache(ObjectStore(cache.store_uri), identity, max_bytes=cache.max_bytes)
    write_at_once = 1 if has_large_calls else WRITE_AT_ONCE
    return CachedStates(
        opened, computed, is_filling=True, write_at_once=write_at_once, device=backbone.device
    )


def open_answers(
    backbone: Backbone, cache: CacheNames | None, answers_uri: str
) -> AnswerCache | None:
    """The stored answers of the unedited backbone, from the states of `cache`; "" stores none."""
    if not answers_uri:
        return None
    from infra.cache.answer_table import AnswerTable
    from infra.storage.object_store import ObjectStore

    identity = StateIdentity.of(backbone, cache.dtype if cache else "float32")
    return AnswerTable(ObjectStore(answers_uri), identity)


def limit_threads(num_threads: int) -> None:
    """Threads of torch in this process, whose node others share; 0 leaves them as they are."""
    import torch

    torch.set_num_threads(num_threads or torch.get_num_threads())
