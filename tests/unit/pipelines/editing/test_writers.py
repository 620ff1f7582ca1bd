"""What the stages that write experts are started with."""

from typing import Any

import pytest

from pipelines.editing import writers
from pipelines.editing.recipe import FollowSection, LifelongEditRecipe
from pipelines.editing.writers import start_writers
from pipelines.job.sections import EmbeddingSection, EvaluationSection, GeneratorSection
from tests.unit.tiny_models import TinyModels
from workers.models import CacheNames


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Options by stage, of stages that do not start."""
    seen: dict[str, dict[str, Any]] = {}

    def note(stage: str) -> Any:
        return lambda *arguments, **options: seen.update({stage: options})

    for stage in ("start_generator", "start_embedder", "embedder_in"):
        monkeypatch.setattr(writers, stage, note(stage))
    return seen


def test_states_are_kept_exactly_where_evaluations_read_them(
    started: dict[str, dict[str, Any]],
) -> None:
    start_writers(LifelongEditRecipe(), TinyModels())
    cache = started["start_generator"]["cache"]
    assert isinstance(cache, CacheNames)
    assert cache.dtype == "float32"
    start_writers(LifelongEditRecipe(follow=FollowSection(is_on=True)), TinyModels())
    assert started["start_generator"]["cache"] is None


@pytest.mark.parametrize(
    ("shards", "num_workers", "is_shared", "cpus"),
    [(1, 0, True, 1.0), (1, 2, False, 2.0), (2, 0, False, 2.5), (2, 3, False, 3.5)],
)
def test_the_generators_actors_embed_unless_others_are_asked_for_or_it_is_sharded(
    started: dict[str, dict[str, Any]], shards: int, num_workers: int, is_shared: bool, cpus: float
) -> None:
    recipe = LifelongEditRecipe(
        generator=GeneratorSection(shards=shards, num_cpus=1.0),
        embedding=EmbeddingSection(num_workers=num_workers, num_cpus=0.5),
    )
    start_writers(recipe, TinyModels())
    assert ("embedder_in" in started) is is_shared
    assert (started["start_generator"]["embedding"] is not None) is is_shared
    assert recipe.writer_cpus == cpus


@pytest.mark.parametrize(
    ("embedders", "shards", "evaluators", "found"),
    [(0, 1, 0, 0), (0, 1, 2, 2), (1, 1, 0, 1), (0, 2, 0, 1), (1, 1, 3, 3)],
)
def test_the_generators_actors_evaluate_only_where_they_also_embed(
    embedders: int, shards: int, evaluators: int, found: int
) -> None:
    recipe = LifelongEditRecipe(
        generator=GeneratorSection(shards=shards),
        embedding=EmbeddingSection(num_workers=embedders),
        evaluation=EvaluationSection(num_workers=evaluators),
    )
    assert recipe.evaluation_stage.num_workers == found


def test_what_evaluates_in_the_generators_actors_has_the_recipes_settings(
    started: dict[str, dict[str, Any]],
) -> None:
    section = EvaluationSection(num_workers=0, batch_size=3, max_new_tokens=40)
    recipe = LifelongEditRecipe(store="there", evaluation=section)
    start_writers(recipe, TinyModels())
    options = started["start_generator"]["evaluation"]
    assert (options["batch_size"], options["max_new_tokens"]) == (3, 40)
    assert options["cache"] == started["start_generator"]["cache"]
    assert options["answers_uri"] == recipe.store_uri
