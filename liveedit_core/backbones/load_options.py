"""How a backbone is loaded; apart from the loading itself, so that recipes need no torch."""

from typing import Annotated, Literal

from pydantic import Field

from liveedit_core.settings import List, PositiveInt, Settings, rule

ModelDtype = Literal["auto", "float32", "bfloat16", "float16"]
Device = Annotated[
    str,
    rule(
        lambda name: name == "auto" or name.partition(":")[0] in ("cpu", "cuda", "mps"),
        'be "cpu", "cuda", "cuda:0" or "auto"',
    ),
]
PromptProtocol = Literal["chat", "paper"]
"""How prompts reach the model: worded by its chat template, or raw as the published code does."""
EditLayer = Annotated[int, Field(ge=-1)]


class LoadOptions(Settings):
    """How a backbone that is not the built-in one is loaded."""

    dtype: ModelDtype = "auto"
    """dtype of the weights in memory; "auto" is that of the files."""
    device: Device = "cpu"
    """"cpu", "cuda", "cuda:1"; or "auto": layers spread over GPUs, then the CPU (accelerate)."""
    edit_layer: EditLayer = -1
    """l_e, 0-based; -1 for that of the generator, or without one two thirds of the depth."""
    prompt_templates: List[str] | None = None
    """Of prompt pyramids; None for those of the generator, or without one none."""
    has_image_views: bool = False
    """Whether pyramids are those of trimmed images, and edits have further views of theirs."""
    prompt_protocol: PromptProtocol = "chat"
    """"paper" replaces the wording of every prompt by that of LiveEdit's own code (raw)."""
    batch_size: PositiveInt = 8
    """Sequences in one forward."""
