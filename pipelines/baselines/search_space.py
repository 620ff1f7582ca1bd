"""What `compare_editors.py --tune` tries: equally many settings of each editor.

The first is the default, the others change some of its values. Of a trained editor, how it edits is
tried, not how it was trained. LiveEdit and lookup have no trials:
what theirs would be was chosen when the generator was trained.
"""

from collections.abc import Mapping

Changes = Mapping[str, float | int]
"""Values of a section by key."""

NUM_TRIALS = 8

_STEPS_AND_RATES: tuple[Changes, ...] = (
    {},
    {"learning_rate": 3e-5},
    {"learning_rate": 3e-4},
    {"learning_rate": 1e-3},
    {"learning_rate": 3e-3},
    {"max_steps": 25},
    {"max_steps": 25, "learning_rate": 3e-4},
    {"max_steps": 25, "learning_rate": 1e-3},
)

SEARCH_SPACE: Mapping[str, tuple[Changes, ...]] = {
    "ft-l": _STEPS_AND_RATES,
    "ft-m": _STEPS_AND_RATES,
    "lora": (
        {},
        {"learning_rate": 1e-4},
        {"learning_rate": 3e-4},
        {"learning_rate": 3e-3},
        {"max_steps": 20},
        {"max_steps": 20, "learning_rate": 3e-4},
        {"max_steps": 20, "learning_rate": 3e-3},
        {"max_steps": 20, "learning_rate": 3e-4, "rank": 32},
    ),
    "ike": (
        {},
        {"least_similarity": 0.0},
        {"least_similarity": 0.8},
        {"least_similarity": 0.85},
        {"num_facts": 1},
        {"num_facts": 1, "least_similarity": 0.8},
        {"num_facts": 1, "least_similarity": 0.85},
        {"num_facts": 1, "image_weight": 0.8, "least_similarity": 0.8},
    ),
    "grace": (
        {},
        {"radius": 0.1},
        {"radius": 0.12},
        {"radius": 0.2},
        {"radius": 0.25},
        {"radius": 0.3},
        {"radius": 0.15, "learning_rate": 0.3},
        {"radius": 0.2, "learning_rate": 0.3},
    ),
    "wise": (
        {},
        {"learning_rate": 1.0},
        {"learning_rate": 10.0},
        {"threshold_ratio": 0.7},
        {"margin_weight": 0.3},
        {"margin_weight": 0.03},
        {"mask_share": 0.2, "learning_rate": 10.0},
        {"max_steps": 16, "learning_rate": 10.0},
    ),
    "time": (
        {},
        {"least_share": 0.75},
        {"least_share": 0.8},
        {"least_share": 0.9},
        {"rank": 4},
        {"rank": 4, "least_share": 0.8},
        {"rank": 12},
        {"rank": 12, "least_share": 0.8},
    ),
    "mend": (
        {},
        {"update_scale": 0.1},
        {"update_scale": 0.3},
        {"update_scale": 0.5},
        {"update_scale": 0.7},
        {"update_scale": 1.5},
        {"update_scale": 2.0},
        {"update_scale": 3.0},
    ),
    "serac": (
        {},
        {"least_scope": 0.05},
        {"least_scope": 0.1},
        {"least_scope": 0.2},
        {"least_scope": 0.35},
        {"least_scope": 0.65},
        {"least_scope": 0.8},
        {"least_scope": 0.9},
    ),
    "recipe": (
        {},
        {"sentinel_margin": -4.0},
        {"sentinel_margin": -2.0},
        {"sentinel_margin": -1.0},
        {"sentinel_margin": -0.5},
        {"sentinel_margin": 0.5},
        {"sentinel_margin": 1.0},
        {"sentinel_margin": 2.0},
    ),
    "lte": (
        {},
        {"least_similarity": 0.8},
        {"least_similarity": 0.85},
        {"least_similarity": 0.9},
        {"num_facts": 1},
        {"num_facts": 1, "least_similarity": 0.8},
        {"num_facts": 1, "least_similarity": 0.85},
        {"num_facts": 1, "image_weight": 0.8, "least_similarity": 0.8},
    ),
}
"""By editor, in the order of the table."""
