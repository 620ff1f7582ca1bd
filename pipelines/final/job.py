"""All final numbers of one generator, stage after stage. A repeated start resumes; only the
large bank begins anew.

test cases --editing job--> bank, lifelong curve --+
crowd --large bank--> false activations -----------+--> numbers.json --> tables (tables.py)
test cases --compare_editors--> other editors -----+
"""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.builtin.backbone import BUILTIN, builtin_generator_folder, load_named_backbone
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.method.editor import Editor
from liveedit_core.method.forms.writing import form_writer_for
from liveedit_core.method.generator import LiveEditGenerator, load_generator
from liveedit_core.method.refine import refiner_for
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Case, EditRequest
from pipelines.baselines.compare import plan
from pipelines.baselines.job import compare_on
from pipelines.baselines.recipe import CompareRecipe
from pipelines.baselines.tables import to_tree, write_files
from pipelines.editing.intake import Source
from pipelines.editing.job import JobResult, do_job
from pipelines.editing.recipe import LifelongEditRecipe, RequestsSection
from pipelines.final.large_bank import score_large_bank
from pipelines.final.recipe import RECIPES, FinalNumbersRecipe
from pipelines.final.record import numbers_tree
from pipelines.job.cases import cases_digest, load_builtin
from pipelines.job.progress import say_on
from pipelines.job.ray_session import open_session
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.run_folder import enter_run_folder, log_to_file
from pipelines.job.sections import (
    BankSection,
    BenchmarkSection,
    EvaluationSection,
    GeneratorSection,
    StatesSection,
)
from pipelines.job.state_cache import state_source

Say = Callable[[str], None]


def final_numbers(recipe: FinalNumbersRecipe, console: Console) -> tuple[dict[str, Any], bool]:
    """The numbers, and whether a signal stopped the job before they were complete. Numbers that
    exist for this generator are returned as they are."""
    say = say_on(console)
    generator = load_generator(_generator_folder(recipe))
    output = recipe.output_file(generator.digest)
    if output.exists():
        stored: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        about = stored["about"]
        if (about["generator"], about["split"]) == (generator.digest, recipe.split):
            say(f"{output}: {recipe.split} was scored for this generator already")
            return stored, False
        raise ConfigError(f"output: {output} holds the numbers of another generator or split")
    reader = f"final numbers of generator {generator.digest[:12]}"
    section = BenchmarkSection(name="builtin", split=recipe.split)
    cases = load_builtin(section, reader, say, limit=recipe.max_cases or None)
    compared_by = comparison_of(recipe, cases)
    check_same_cases(recipe.folder(generator.digest), cases, recipe.large_bank)
    editing = _editing_recipe(recipe, section, generator.digest)
    edited = _edit(editing, cases, console)
    if edited.outcome.was_stopped:
        return {}, True
    editor = _editor(generator, recipe)
    large: list[ProbeResult] = []
    if recipe.large_bank:
        requests = _large_bank(cases, recipe.large_bank)
        file = editing.run_folder / "large_bank.jsonl"
        with state_source(editing.states, editing.run_root, editor.backbone) as source:
            large = score_large_bank(editor, cases, requests, file, source, say)
    compared = _compare(compared_by, cases, editing.run_folder, say) if compared_by else {}
    tree = numbers_tree(
        recipe,
        cases=cases,
        curve=[*edited.outcome.curve, *edited.outcome.evaluations[-1:]],
        large=large,
        compared=compared,
        outcomes=edited.outcomes,
        digests={"generator": generator.digest, "backbone": editor.backbone.digest},
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"written to {output}")
    return tree, False


def _generator_folder(recipe: FinalNumbersRecipe) -> Path:
    is_builtin = recipe.generator == BUILTIN
    return builtin_generator_folder() if is_builtin else Path(recipe.generator)


def check_same_cases(folder: Path, cases: Sequence[Case], large_bank: int) -> None:
    """Raise ConfigError if a run's folder holds results of other cases or another large bank."""
    file, wanted = folder / "cases.json", {"cases": cases_digest(cases), "large_bank": large_bank}
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    elif json.loads(file.read_text(encoding="utf-8")) != wanted:
        raise ConfigError(
            f"run_name: {folder} holds results of other cases, or of another large bank; set "
            "another run_name"
        )


def _editor(generator: LiveEditGenerator, recipe: FinalNumbersRecipe) -> Editor:
    """As the job edits: what it writes is verified and refined."""
    refine, options = recipe.refine, LoadOptions(compute_dtype=recipe.evaluation.compute_dtype)
    backbone = load_named_backbone(BUILTIN, generator.config.load_options(options))
    refiner = refiner_for(backbone, generator, refine)
    form_writer = form_writer_for(backbone, generator, refiner, refine)
    nothing = ExpertRepository.empty(generator.config)
    return Editor(backbone, generator, nothing, refiner, form_writer=form_writer)


def _editing_recipe(
    recipe: FinalNumbersRecipe, section: BenchmarkSection, digest: str
) -> LifelongEditRecipe:
    """Teach every case, score the groups of the curve and the whole bank."""
    shared = recipe.evaluation.model_dump()
    return LifelongEditRecipe(
        run_root=recipe.run_root,
        run_name=recipe.folder(digest).name,
        seed=recipe.seed,
        requests=RequestsSection(limit=recipe.max_cases),
        benchmark=section,
        generator=GeneratorSection(
            checkpoint=recipe.generator, compute_dtype=recipe.evaluation.compute_dtype
        ),
        bank=BankSection(name="final", window_edits=100),
        evaluation=EvaluationSection(at=(), curve_at=recipe.curve_at, **shared),
        refine=recipe.refine,
        states=StatesSection(is_cached=True),
        ray=recipe.ray,
    )


def _edit(editing: LifelongEditRecipe, cases: list[Case], console: Console) -> JobResult:
    start_s = time.perf_counter()
    enter_run_folder(editing)
    log_to_file(editing.run_folder)
    source = Source(name=f"built-in cases ({editing.benchmark.title})", digest="", items=cases)
    with contextlib.ExitStack() as session:
        session.enter_context(open_session(editing.ray, needed_cpus=editing.needed_cpus))
        return do_job(editing, console, session=session, start_s=start_s, source=source)


def _large_bank(cases: list[Case], size: int) -> list[EditRequest]:
    """The edits of the cases, then further edits of other entities, `size` in all."""
    further = [
        *load_builtin_cases("crowd", "user_world"),
        *load_builtin_cases("development", "emblem_edit"),
        *load_builtin_cases("development", "user_world"),
    ]
    requests = {r.edit_id: r for case in [*cases, *further] for r in case.requests}
    if len(requests) < size:
        raise ConfigError(f"large_bank: there are {len(requests):,} edits, not {size:,}")
    return list(requests.values())[:size]


def comparison_of(recipe: FinalNumbersRecipe, cases: Sequence[Case]) -> CompareRecipe | None:
    """How other editors are compared on the same cases; None if the recipe names no comparison."""
    if not recipe.comparison:
        return None
    compared = load_recipe(CompareRecipe, RECIPES / recipe.comparison).with_changes(
        seed=recipe.seed,
        editors=recipe.editors,
        groups=recipe.groups,
        generator=recipe.generator,
        generators=recipe.generators,
        benchmark=BenchmarkSection(name="builtin", split=recipe.split),
    )
    plan(compared, cases)  # refuses too few cases before anything is scored
    return compared


def _compare(recipe: CompareRecipe, cases: list[Case], folder: Path, say: Say) -> dict[str, Any]:
    """What `compare_editors.py` finds, finished groups of an earlier start included."""
    placed = recipe.with_changes(run_root=str(folder), run_name="editors")
    comparison = compare_on(placed, cases, say)
    write_files(comparison)
    return to_tree(comparison)
