"""How a worker gets its frozen models: named by the driver, loaded where the work runs."""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from liveedit_core.backbones.protocol import Backbone
from liveedit_core.errors import ConfigError
from liveedit_core.generator import LiveEditGenerator, load_generator

BUILTIN = "builtin"


class ModelSource(Protocol):
    """Names a backbone and a generator; picklable and small."""

    def load_backbone(self) -> Backbone:
        """Load the frozen model."""

    def load_generator(self) -> LiveEditGenerator:
        """Load the trained generator."""


@dataclass(frozen=True, kw_only=True)
class ModelNames:
    """Models by the names that a recipe gives them."""

    backbone: str = BUILTIN
    generator: str = BUILTIN

    def load_backbone(self) -> Backbone:
        """Load the frozen model.

        Raises:
            ConfigError: The name is not known.
        """
        if self.backbone != BUILTIN:
            raise ConfigError(
                f'backbone.name: expected "{BUILTIN}", got {self.backbone!r}; no other backbone '
                "can be loaded yet"
            )
        from liveedit_core.builtin.backbone import builtin_checkpoint, load_builtin_backbone

        with one_process_at_a_time():
            builtin_checkpoint()
        return load_builtin_backbone()

    def load_generator(self) -> LiveEditGenerator:
        """Load the trained generator; raises ConfigError when there is no such folder."""
        return load_generator(self.generator_folder())

    def generator_folder(self) -> Path:
        """Where the checkpoint lies.

        Raises:
            ConfigError: There is no such folder.
        """
        if self.generator == BUILTIN:
            from liveedit_core.builtin.generator import builtin_generator_folder

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
    """Let the first worker of a node fetch and convert the built-in parts, while others wait.

    In a cache that may not be written to, as in an image, there is nothing to wait for.
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
    """Let torch use this many threads in this process; actors share the cores of a node."""
    import torch

    torch.set_num_threads(num_threads)
