"""Training recipes: what a section means together with another, and that nothing goes unread."""

from pathlib import Path

import pytest

from liveedit_core.builtin import backbone as builtin_backbone
from liveedit_core.errors import ConfigError
from pipelines.job.recipe_loader import load_recipe
from pipelines.training.cases import load_training_backbone
from pipelines.training.recipe import TrainRecipe


def recipe(tmp_path: Path, text: str) -> TrainRecipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return load_recipe(TrainRecipe, path)


def test_sections_arrive_in_the_plan(tmp_path: Path) -> None:
    made = recipe(
        tmp_path,
        """
        seed = 7
        [joint]
        steps = 30
        accumulation = 4
        schedule = "milestones"
        milestones = [10, 20]
        [losses]
        soft_absolute = 0
        kl_direction = "edited_to_original"
        [optimization]
        max_gradient_norm = 0.5
        dtype = "bfloat16"
        has_activation_checkpointing = true
        [sharding]
        shards = 2
        zero_stage = 2
        """,
    )
    plan = made.plan
    assert (plan.seed, plan.phases["joint"].milestones) == (7, (10, 20))
    assert plan.losses.weights["soft_absolute"] == 0
    assert plan.losses.kl_direction == "edited_to_original"
    assert plan.optimization == made.optimization
    assert plan.optimization.dtype == "bfloat16"
    assert (made.sharding.shards, made.sharding.zero_stage) == (2, 2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "[experts]\nsteps = 1\naccumulation = 3\n[sharding]\nshards = 2",
            "experts.accumulation: 3 micro-batches cannot be shared equally by sharding.shards = 2",
        ),
        ("[experts]\nsteps = 1\n[losses]\nnll = 0", "'experts' has steps, but all its losses"),
        ("[losses]\nnl = 1", "did you mean losses.nll?"),
        ("[sharding]\nstart_timeout_s = 5", "start_timeout_s must be at least timeout_s (60)"),
        ("[sharding]\nhas_cpu_offload = true", "has_cpu_offload moves weights out of"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(tmp_path, text)
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("setting", "num_encoders"),
    [("states.num_workers=2", 2), ("sharding.gpus_per_shard=1", 1), ("sharding.shards=2", 1)],
)
def test_beside_actors_the_driver_needs_no_gpu(
    setting: str, num_encoders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []
    monkeypatch.setattr(
        builtin_backbone,
        "load_named_backbone",
        lambda name, options, **_: devices.append(options.device),
    )
    accumulation = [f"{phase}.accumulation=2" for phase in ("prompt", "experts", "joint")]
    recipe = load_recipe(TrainRecipe, None, ["backbone.device=cuda", setting, *accumulation])
    assert recipe.encoding.num_workers == num_encoders
    load_training_backbone(recipe, has_actors=recipe.has_actors)
    alone = load_recipe(TrainRecipe, None, ["backbone.device=cuda"])
    load_training_backbone(alone, has_actors=alone.has_actors)
    assert devices == ["cpu", "cuda"]
