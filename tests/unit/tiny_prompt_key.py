"""The tiny backbone with a prompt encoder, and a generator with a prompt key that is sure."""

from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from tests.tiny_backbone import (
    OUR_CONFIG,
    PROMPT_SIZE,
    TinyPromptEncoder,
    tiny_backbone,
    tiny_generator,
)

CONFIG = OUR_CONFIG.with_changes(
    gain=30.0,
    prompt_source="sentences",
    prompt_size=PROMPT_SIZE,
    prompt_rank=6,
    min_gate=0.5,
    max_kept=0,
)
GREEDY = {"max_new_tokens": 4, "is_greedy": True}


def empty_editor() -> Editor:
    """Without edits."""
    backbone = tiny_backbone().with_prompt_encoder(TinyPromptEncoder())
    generator = tiny_generator(CONFIG)
    generator.prompt_key.log_scale.fill_(3.0)
    return Editor(backbone, generator, ExpertRepository.empty(CONFIG))
