"""How a worker gets its frozen models: named by the driver, loaded where the work runs."""

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
        from liveedit_core.builtin.backbone import load_builtin_backbone

        return load_builtin_backbone(progress=print)

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


def limit_threads(num_threads: int) -> None:
    """Let torch use this many threads in this process; actors share the cores of a node."""
    import torch

    torch.set_num_threads(num_threads)
