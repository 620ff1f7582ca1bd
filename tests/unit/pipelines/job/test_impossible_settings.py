"""Every section refuses values that cannot work, by the name of the field."""

from typing import Any

import pytest

from infra.bank.policy import GrowthPolicy
from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.baselines.settings import (
    FineTuningConfig,
    GraceConfig,
    InContextConfig,
    LoraConfig,
    WiseConfig,
)
from liveedit_core.errors import ConfigError
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.training.recipe import (
    DiagnosticsRecipe,
    LossSection,
    OptimizationSection,
    PhaseSection,
)
from pipelines.editing.recipe import FollowSection, LifelongEditRecipe
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.sections import StatesSection
from workers.sharding_config import ShardingSection

IMPOSSIBLE: dict[Any, tuple[dict[str, Any], ...]] = {
    DiagnosticsRecipe: (
        {"max_empty_fraction": 0.0},
        {"max_kept_fraction": 1.5},
        {"max_norm_ratio": 1.0},
    ),
    FineTuningConfig: ({"max_steps": 0}, {"learning_rate": 0.0}, {"stop_loss": -1.0}),
    GraceConfig: ({"radius": 0.0},),
    InContextConfig: ({"image_weight": 2.0},),
    LoraConfig: ({"rank": 0},),
    FollowSection: (
        {"poll_s": 0.0},
        {"window_s": -1.0},
        {"max_file_bytes": 0},
        {"inbox": "https://example.org/inbox"},
    ),
    GrowthPolicy: (
        {"keep_days": -1.0},
        {"keep_versions": -1},
        {"every_windows": -1},
        {"fragment_bytes": 0},
    ),
    InputLimits: ({"max_probes": 0}, {"max_image_pixels": 10**9}),
    LoadOptions: ({"dtype": "int4"}, {"device": "gpu"}, {"edit_layer": -2}),
    LossSection: ({"hard_sentinel": -1.0},),
    OptimizationSection: ({"max_gradient_norm": 0.0}, {"dtype": "float16"}),
    PhaseSection: (
        {"steps": -1},
        {"accumulation": 0},
        {"warmup_fraction": 0.0},
        {"warmup_fraction": 1.0, "schedule": "cosine"},
        {"milestones": (), "schedule": "milestones"},
        {"milestones": (5,)},
        {"milestone_factor": 0.0},
        {"schedule": "linear"},
    ),
    ShardingSection: (
        {"shards": 0},
        {"zero_stage": 4},
        {"gpus_per_shard": 2},
        {"gpus_per_shard": True},
        {"max_rebuilds": -1},
    ),
    StatesSection: (
        {"max_bytes": -1},
        {"num_workers": -1},
        {"max_in_flight": 0},
        {"store": "http://x"},
    ),
    WiseConfig: (
        {"mask_share": 0.0},
        {"density": 1.5},
        {"threshold_ratio": 0.0},
        {"shard_edits": 0},
        {"num_unrelated": 0},
        {"beta": -1.0},
    ),
}


@pytest.mark.parametrize(
    ("section", "values"),
    [(section, values) for section, rows in IMPOSSIBLE.items() for values in rows],
)
def test_impossible_values_are_refused_by_name(section: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{next(iter(values))}\b"):
        section(**values)


def test_a_followed_inbox_excludes_a_file() -> None:
    with pytest.raises(ConfigError):
        load_recipe(LifelongEditRecipe, None, ["follow.is_on=true", "requests.path=facts.jsonl"])
