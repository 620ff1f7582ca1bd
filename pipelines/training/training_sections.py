"""Sections of the training recipe that say what is kept, checked and warned about."""

from dataclasses import dataclass

from liveedit_core.errors import ConfigError
from liveedit_core.training.diagnostics_recipe import DiagnosticsRecipe

__all__ = ["DiagnosticsRecipe", "KeepSection", "LayerSearchSection", "ValidationSection"]


@dataclass(frozen=True, kw_only=True)
class KeepSection:
    """Which checkpoints stay in the store."""

    store: str = ""
    """Root of the store, `s3://bucket/prefix` or a path; empty: `store` in the run folder."""
    last_k: int = 3
    """How many of the newest; the best by validation stays as well."""

    def __post_init__(self) -> None:
        if self.last_k < 1:
            raise ConfigError(f"last_k must be at least 1, got {self.last_k}")


@dataclass(frozen=True, kw_only=True)
class ValidationSection:
    """The five metrics while training, on entities that are not trained on."""

    every_steps: int = 100
    """Optimizer steps of a phase between two validations; they are taken at checkpoints, so use a
    multiple of `checkpoint.every_steps`. There is always one at the end of a phase. 0: no
    validation, and no entity is held out."""
    num_cases: int = 50
    """Cases whose probes are scored; their edits are in the bank."""
    bank_edits: int = 100
    """Edits in the bank, all of held-out entities."""
    batch_size: int = 16
    """Probes per forward."""

    def __post_init__(self) -> None:
        if self.every_steps < 0:
            raise ConfigError(f"every_steps must be 0 or more, got {self.every_steps}")
        for name in ("num_cases", "bank_edits", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_cases > self.bank_edits:
            raise ConfigError(
                f"num_cases must be at most bank_edits ({self.bank_edits}), got {self.num_cases}: "
                "the edits of all scored cases are in the bank"
            )


@dataclass(frozen=True, kw_only=True)
class LayerSearchSection:
    """The short run of `--find-layer`."""

    layers: tuple[int, ...] = ()
    """Candidate edit layers; empty: five, spread from a third of the depth to nine tenths."""
    num_cases: int = 48
    """Training cases, of different entities; as many, of other entities, are scored."""
    steps: int = 40
    """Optimizer steps for each layer."""
    batch_size: int = 16
    """Edits per step."""
    learning_rate: float = 1.5e-3
    """After a few steps of warm-up."""

    def __post_init__(self) -> None:
        if len(set(self.layers)) != len(self.layers) or min(self.layers, default=0) < 0:
            raise ConfigError(f"layers must be different numbers from 0, got {self.layers}")
        for name in ("num_cases", "batch_size"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name} must be at least 2, got {getattr(self, name)}")
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate must be more than 0, got {self.learning_rate}")
