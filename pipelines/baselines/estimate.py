"""`--dry-run` of a comparison: the time of teaching and scoring every editor on one GPU."""

from pipelines.baselines.recipe import CompareRecipe
from pipelines.training.estimate import (
    GPU_TERAFLOPS,
    PROMPT_TOKENS,
    TARGET_TOKENS,
    EstimateLine,
)
from pipelines.training.model_sizes import BackboneSizes

PROBES_PER_CASE = 8
"""Edit, two rephrasings, two localities, two swapped ones, and the unedited model's answers."""
STEP_SECTIONS = {
    "ft-l": "fine_tuning",
    "ft-m": "projector_tuning",
    "lora": "lora",
    "grace": "grace",
    "wise": "wise",
}
"""Sections whose `max_steps` an edit takes at most."""


def comparison_lines(recipe: CompareRecipe, backbone: BackboneSizes) -> list[EstimateLine]:
    """Upper bounds, as every edit takes all of its steps."""
    tokens = backbone.num_image_tokens + PROMPT_TOKENS + TARGET_TOKENS
    ladders = recipe.ladders
    num_edits = sum(count * max(sizes) for count, sizes in ladders)
    num_scored = sum(
        max(recipe.scored_cases or count * size, count)
        for count, sizes in ladders
        for size in sizes
    )
    speed = GPU_TERAFLOPS * 1e12
    taught = num_edits * 2 * backbone.total  # each edit is encoded once by each editor
    for name in set(recipe.editors) & set(STEP_SECTIONS):
        steps = getattr(recipe, STEP_SECTIONS[name]).max_steps
        # Only the projector lies before the whole decoder: forward 2, gradients of inputs 2.
        passed = backbone.total if name == "ft-m" else backbone.suffix
        taught += num_edits * steps * 4 * passed
    scored = num_scored * PROBES_PER_CASE * 2 * backbone.total * len(recipe.editors)
    ground = f"{GPU_TERAFLOPS:g} TFLOP/s, {len(recipe.editors)} editors"
    edits = f"{num_edits:,} edits each, {ground}"
    cases = f"{num_scored:,} cases of {PROBES_PER_CASE} probes each, {ground}"
    return [
        EstimateLine("time to teach, at most", taught * tokens / speed, edits, "seconds"),
        EstimateLine("time to score", scored * tokens / speed, cases, "seconds"),
    ]
