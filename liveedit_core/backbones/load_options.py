"""How a backbone is loaded; apart from the loading itself, so that recipes need no torch."""

from typing import Annotated, Literal

from pydantic import Field

from liveedit_core.settings import PositiveInt, Settings, rule

ComputeDtype = Literal["auto", "float32", "bfloat16", "float16"]
ModelDtype = ComputeDtype | Literal["int8", "nf4"]
"""Also "int8" and "nf4": linear maps of the decoder and the image tower in 8 or 4 bits
(bitsandbytes)."""
QUANTIZED = ("int8", "nf4")
Device = Annotated[
    str,
    rule(
        lambda name: name in ("auto", "spread") or name.partition(":")[0] in ("cpu", "cuda", "mps"),
        'be "auto", "cpu", "cuda", "cuda:0" or "spread"',
    ),
]
PromptProtocol = Literal["chat", "paper"]
"""How prompts reach the model: worded by its chat template, or raw as the published code does."""
EditLayer = Annotated[int, Field(ge=-1)]


class LoadOptions(Settings):
    """How a backbone is loaded."""

    dtype: ModelDtype = "auto"
    """dtype of the weights, part of the backbone's identity; "auto" is that of the files, whatever
    the model computes in."""
    compute_dtype: ComputeDtype = "auto"
    """dtype in memory; "auto" is `dtype`, or where that is no float bfloat16 on GPUs that have it
    and, for the built-in model, on CPUs that do; else float32."""
    keeps_float32: bool = False
    """Whether "auto" is float32 on every CPU: small steps of a training are lost in bfloat16."""
    device: Device = "auto"
    """"cpu", "cuda", "cuda:1"; "auto": the first GPU that this process sees, else the CPU; or
    "spread": layers over all GPUs, then the CPU (accelerate)."""
    edit_layer: EditLayer = -1
    """l_e, 0-based; -1 for that of the generator, or without one two thirds of the depth."""
    has_prompt_encoder: bool = False
    """Whether prompts are embedded too (see `prompt_encoder`); a generator's says so itself."""
    has_image_views: bool = False
    """Whether pyramids are those of trimmed images, each followed by that of its figure."""
    prompt_protocol: PromptProtocol = "chat"
    """"paper" replaces the wording of every prompt by that of LiveEdit's own code (raw)."""
    batch_size: PositiveInt = 8
    """Sequences in one forward."""

    @property
    def dtype_in_memory(self) -> ComputeDtype:
        """As `devices.chosen_dtype` takes it; of a quantized model, what is not quantized."""
        if self.compute_dtype != "auto" or self.dtype in QUANTIZED:
            return self.compute_dtype
        return self.dtype  # type: ignore[return-value]  # narrowed above
