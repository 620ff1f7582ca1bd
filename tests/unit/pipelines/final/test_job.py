"""The final numbers: what is checked before anything is scored."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from infra.reports.outcomes import outcome_rows
from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.builtin.backbone import builtin_generator_folder
from liveedit_core.errors import ConfigError
from liveedit_core.method.config import RefineSection
from liveedit_core.method.generator import load_generator
from liveedit_core.outcome import WriteOutcome
from pipelines.baselines.recipe import CompareRecipe
from pipelines.compare_editors import TUNED
from pipelines.final import job
from pipelines.final.job import check_same_cases, comparison_of, final_numbers
from pipelines.final.recipe import FinalNumbersRecipe
from pipelines.final.record import numbers_tree
from pipelines.final_numbers import parse_arguments
from pipelines.job.entry import resolve
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.sections import BenchmarkSection
from tests.tiny_backbone import (
    OUR_CONFIG,
    PROMPT_SIZE,
    TinyPromptEncoder,
    case,
    tiny_backbone,
    tiny_generator,
)

CASES = [case(seed) for seed in range(100)]


def test_editors_are_compared_with_the_settings_chosen() -> None:
    recipe = FinalNumbersRecipe(split="validation", generator="folder", seed=3)
    found = comparison_of(recipe, CASES)
    assert found is not None
    assert (found.generator, found.seed, found.benchmark.split) == ("folder", 3, "validation")
    assert found.wise == load_recipe(CompareRecipe, TUNED).wise
    assert comparison_of(recipe.with_changes(comparison=""), CASES) is None


def test_too_few_cases_are_refused_before_anything_is_scored() -> None:
    with pytest.raises(ConfigError, match="need 100 cases"):
        comparison_of(FinalNumbersRecipe(split="validation"), CASES[:12])


def test_answers_are_as_long_as_targets() -> None:
    options = parse_arguments(["evaluation.max_new_tokens=12"])
    with pytest.raises(ConfigError, match="max_new_tokens is 12, but targets of up to 32 tokens"):
        resolve(FinalNumbersRecipe, options)


def test_a_split_is_scored_once_for_a_generator(tmp_path: Path) -> None:
    digest = load_generator(builtin_generator_folder()).digest
    output = tmp_path / "numbers.json"
    recipe = FinalNumbersRecipe(output=str(output), run_root=str(tmp_path))
    stored = {"about": {"generator": digest, "split": "test"}}
    output.write_text(json.dumps(stored), encoding="utf-8")
    assert final_numbers(recipe, Console(quiet=True)) == (stored, False)
    for changes in ({"generator": "another"}, {"split": "validation"}):
        other = {"about": {**stored["about"], **changes}}
        output.write_text(json.dumps(other), encoding="utf-8")
        with pytest.raises(ConfigError, match="numbers of another generator or split"):
            final_numbers(recipe, Console(quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]


def test_numbers_with_derived_questions_are_apart(tmp_path: Path) -> None:
    plain = FinalNumbersRecipe(run_root=str(tmp_path))
    derived = plain.with_changes(refine=RefineSection(derived=True))
    assert derived.output_file("a" * 64) != plain.output_file("a" * 64)
    editing = job._editing_recipe(derived, BenchmarkSection(), "a" * 64)
    assert editing.refine.derived
    assert editing.run_folder == derived.folder("a" * 64)


def test_edits_refused_as_weak_are_recorded() -> None:
    rows = outcome_rows([WriteOutcome(state=s, num_target_tokens=2) for s in ("weak", "verified")])
    for outcomes, num_weak in ((rows, 1), ((), 0)):
        numbers = numbers_tree(
            FinalNumbersRecipe(split="validation"),
            cases=CASES[:2],
            curve=[],
            large=[],
            compared={},
            outcomes=outcomes,
            digests={},
        )
        assert numbers["counts"]["weak"] == num_weak


def test_a_folder_holds_the_results_of_one_set_of_cases(tmp_path: Path) -> None:
    folder = tmp_path / "final"
    for _ in range(2):
        check_same_cases(folder, CASES[:3], 5000)
    for cases, large_bank in ((CASES[:2], 5000), (CASES[:3], 2000)):
        with pytest.raises(ConfigError, match="other cases, or of another large bank"):
            check_same_cases(folder, cases, large_bank)


def test_the_large_bank_is_written_as_the_job_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = OUR_CONFIG.with_changes(
        prompt_source="sentences", prompt_size=PROMPT_SIZE, prompt_rank=4
    )

    def load(name: str, options: LoadOptions | None = None) -> VisionLanguageBackbone:
        assert options is not None
        assert options.has_prompt_encoder
        assert options.compute_dtype == "float32"
        return tiny_backbone().with_prompt_encoder(TinyPromptEncoder())

    monkeypatch.setattr(job, "load_named_backbone", load)
    assert job._editor(tiny_generator(config), FinalNumbersRecipe()).refiner is not None
