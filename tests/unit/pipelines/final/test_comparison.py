"""Other editors are compared on the cases of the final numbers, with the settings chosen."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from liveedit_core.schema import Case
from pipelines.baselines.compare import Comparison
from pipelines.baselines.recipe import CompareRecipe
from pipelines.compare_editors import TUNED
from pipelines.final import job
from pipelines.final.recipe import FinalNumbersRecipe
from pipelines.job.recipe_loader import load_recipe
from tests.tiny_backbone import case


def test_editors_are_compared_on_the_same_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[CompareRecipe, Sequence[Case]]] = []

    def compared(recipe: CompareRecipe, cases: Sequence[Case], say: object) -> Comparison:
        seen.append((recipe, cases))
        return Comparison(recipe=recipe, scores=(), digests={"backbone": "tiny"})

    monkeypatch.setattr(job, "compare_on", compared)
    monkeypatch.setattr(job, "write_files", lambda comparison: None)
    cases = [case(seed) for seed in range(2)]
    recipe = FinalNumbersRecipe(split="validation", generator="folder", seed=3)
    tree = job._compare(recipe, cases, tmp_path, print)
    ((found, given),) = seen
    assert (given, tree["digests"], tree["rows"]) == (cases, {"backbone": "tiny"}, [])
    assert (found.generator, found.seed, found.benchmark.split) == ("folder", 3, "validation")
    assert found.wise == load_recipe(CompareRecipe, TUNED).wise
    assert found.run_folder == tmp_path / "editors"
    assert job._compare(recipe.with_changes(comparison=""), cases, tmp_path, print) == {}
