"""How a worker gets its frozen models: named by the driver, loaded in the worker."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.protocol import Backbone
from liveedit_core.errors import ConfigError
from liveedit_core.method.generator import CONFIG_FILE, LiveEditGenerator, load_generator

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
    options: LoadOptions = field(default_factory=LoadOptions)
    """Of the built-in backbone, only the edit layer is used."""

    def load_backbone(self) -> Backbone:
        """Load the frozen model, split at the generator's layer unless the options name one.

        Raises:
            ConfigError: The backbone cannot be loaded.
            StorageUnavailableError: The hub, or a part of the built-in one, cannot be reached.
        """
        from liveedit_core.builtin.backbone import builtin_checkpoint, load_named_backbone

        if self.backbone == BUILTIN:
            with one_process_at_a_time():
                builtin_checkpoint()
        return load_named_backbone(self.backbone, self._options_of_generator())

    def _options_of_generator(self) -> LoadOptions:
        if self.options.edit_layer >= 0 or self.generator == BUILTIN:
            return self.options
        try:
            config = json.loads((self.generator_folder() / CONFIG_FILE).read_text(encoding="utf-8"))
            return self.options.with_changes(edit_layer=int(config["edit_layer"]))
        except (OSError, ValueError, KeyError):
            return self.options  # load_generator reports what is wrong with the checkpoint

    def load_generator(self) -> LiveEditGenerator:
        """Load the trained generator; raises ConfigError if there is no such folder."""
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


@contextlib.contextmanager
def one_process_at_a_time() -> Iterator[None]:
    """Let the first worker of a node fetch and convert the built-in parts while the others wait.

    A read-only cache, as in a container image, needs no lock.
    """
    from liveedit_core.builtin.parts import default_cache_dir

    cache = default_cache_dir()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((cache / ".lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def limit_threads(num_threads: int) -> None:
    """Threads of torch in this process; actors share the cores of a node."""
    import torch

    torch.set_num_threads(num_threads)
