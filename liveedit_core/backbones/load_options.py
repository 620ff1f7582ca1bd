"""How a backbone is loaded; apart from the loading itself, so that recipes need no torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from liveedit_core.errors import ConfigError

ModelDtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a backbone that is not the built-in one is loaded."""

    dtype: ModelDtype = "auto"
    """Number format of the weights in memory; "auto" is that of the files."""
    device: str = "cpu"
    """"cpu", "cuda", "cuda:1"; or "auto": layers spread over GPUs, then the CPU (accelerate)."""
    edit_layer: int = -1
    """l_e, 0-based; -1 for that of the generator, or without one two thirds of the depth."""
    batch_size: int = 8
    """Sequences in one forward."""

    def __post_init__(self) -> None:
        if self.dtype not in get_args(ModelDtype):
            raise ConfigError(
                f"backbone.dtype: expected one of {', '.join(get_args(ModelDtype))}, got "
                f"{self.dtype!r}"
            )
        if self.device != "auto" and self.device.partition(":")[0] not in ("cpu", "cuda", "mps"):
            raise ConfigError(
                f'backbone.device: expected "cpu", "cuda", "cuda:0" or "auto", got {self.device!r}'
            )
        if self.edit_layer < -1 or self.batch_size < 1:
            raise ConfigError(
                "backbone: expected edit_layer of -1 or more and batch_size of 1 or more, got "
                f"{self.edit_layer} and {self.batch_size}"
            )
