"""Settings of the other editors chosen on the split `validation`, by equally many trials of each.

A trial teaches one group of edits and scores their probes:

    objective = (mean of the paper's five teacher-forced, without text locality
                 + free-generation reliability) / 2

Text locality says nothing about an editor that acts on questions with an image only. The first
trial of an editor is its default; of equal objectives the earlier trial wins.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.trained.checkpoint import digest_of, folder_of
from liveedit_core.baselines.trained.settings import RIVALS
from liveedit_core.errors import ConfigError
from liveedit_core.evaluation.probes import (
    FREE_GENERATION,
    PROTOCOLS,
    PreparedCases,
)
from liveedit_core.evaluation.scoring import CaseProbe, ProbePreparer
from liveedit_core.evaluation.summaries import EARNED_METRICS, paper_average, summarize
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import Case, EditRequest, ProbeKind
from liveedit_core.settings import Settings
from liveedit_core.state_source import StateSource
from liveedit_core.states import LayerStates
from pipelines.baselines.compare import Say, plan
from pipelines.baselines.editors import make_editors
from pipelines.baselines.recipe import SECTIONS, CompareRecipe
from pipelines.baselines.search_space import SEARCH_SPACE
from pipelines.job.cases import evaluation_digest

TUNING_SPLIT = "validation"
DEFAULTS = CompareRecipe()


def check_split(recipe: CompareRecipe) -> None:
    """Raise ConfigError where settings would be chosen on another split than validation."""
    if recipe.benchmark.split != TUNING_SPLIT:
        raise ConfigError(
            f"--tune: settings are chosen on the split {TUNING_SPLIT!r} and nowhere else, got "
            f"{recipe.benchmark.split!r}"
        )


def tune(
    recipe: CompareRecipe,
    backbone: VisionLanguageBackbone,
    cases: Sequence[Case],
    source: StateSource,
    say: Say,
) -> dict[str, Any]:
    """Every trial and the settings chosen, as plain values. Trials that are in the run's folder
    already are not repeated."""
    check_split(recipe)
    size = recipe.tuning_edits
    (group,) = plan(recipe.with_changes(edits=(size,), groups=(1,)), cases)
    prepared = _prepared(recipe, backbone, group.cases, source)
    requests = [request for case in group.cases for request in case.requests]
    states = source.states([edit_input(request) for request in requests])
    digest = evaluation_digest(group.cases, backbone.digest, recipe.max_new_tokens)
    file = recipe.run_folder / "trials.jsonl"
    finished = _finished(file)
    trials = []
    for name in (name for name in recipe.editors if name in SEARCH_SPACE):
        for number, changes in enumerate(SEARCH_SPACE[name]):
            section = default_section(recipe, name).with_changes(**changes)
            key = {"editor": name, "trial": number, "changes": dict(changes), "cases": digest}
            key |= {"settings": json.loads(section.model_dump_json())} | _part(recipe, name)
            trial = next((one for one in finished if key.items() <= one.items()), None)
            if trial is None:
                alone = recipe.with_changes(
                    editors=(name,), generators=(), **{SECTIONS[name]: section}
                )
                trial = key | _trial(alone, backbone, requests, states, prepared)
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(trial) + "\n")
            trials.append(trial)
            say(f"{name} {dict(changes)}: {trial['objective']:.3f} in {trial['seconds']:.0f} s")
    return {
        "split": recipe.benchmark.title,
        "backbone": backbone.digest,
        "seed": recipe.seed,
        "num_edits": size,
        "objective": "mean of the paper's five teacher-forced without text locality, and free "
        "reliability, averaged",
        "chosen": chosen(trials),
        "trials": trials,
    }


def default_section(recipe: CompareRecipe, name: str) -> Settings:
    """The default settings of an editor; its trained part is that of the recipe."""
    section: Settings = DEFAULTS.section(name)
    if name in RIVALS:
        section = section.with_changes(checkpoint=recipe.section(name).checkpoint)
    return section


def _part(recipe: CompareRecipe, name: str) -> dict[str, str]:
    """The identity of an editor's trained part, if it has one: trained anew, it is tried anew."""
    known = next((rival for rival in RIVALS if rival == name), None)
    if known is None:
        return {}
    return {"part": digest_of(folder_of(known, recipe.section(name).checkpoint))}


def chosen(trials: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The changes of the best trial, by section of the recipe."""
    best: dict[str, dict[str, Any]] = {}
    for trial in trials:
        editor = trial["editor"]
        if editor not in best or trial["objective"] > best[editor]["objective"]:
            best[editor] = trial
    return {SECTIONS[name]: trial["changes"] for name, trial in best.items()}


def to_recipe(settings: dict[str, dict[str, Any]]) -> str:
    """Chosen settings as a recipe file."""
    lines = [
        "# Settings of the other editors, chosen on the split validation by equally many trials of",
        "# each (compare_editors.py --tune); all trials: tests/benchmarks/tuned_editors.json.",
        'job = "compare_editors"',
    ]
    for section, changes in settings.items():
        if changes:
            lines += ["", f"[{section}]", *(f"{key} = {value!r}" for key, value in changes.items())]
    return "\n".join(lines) + "\n"


def _prepared(
    recipe: CompareRecipe,
    backbone: VisionLanguageBackbone,
    cases: Sequence[Case],
    source: StateSource,
) -> PreparedCases:
    """The probes that the objective reads."""
    wanted = [
        CaseProbe(case, index, probe, probe.kind is ProbeKind.RELIABILITY)
        for case in cases
        for index, probe in enumerate(case.all_probes())
        if probe.kind in EARNED_METRICS
    ]
    preparer = ProbePreparer(backbone, batch_size=recipe.batch_size)
    return preparer.prepare_probes(wanted, max_new_tokens=recipe.max_new_tokens, source=source)


def _trial(
    recipe: CompareRecipe,
    backbone: VisionLanguageBackbone,
    requests: Sequence[EditRequest],
    states: Sequence[LayerStates],
    prepared: PreparedCases,
) -> dict[str, Any]:
    """Metrics and objective of the recipe's only editor."""
    start_s = time.perf_counter()
    (row,) = make_editors(recipe, backbone, {})
    row.editor.teach(requests, states)
    summary = summarize(
        row.editor.score(prepared, protocols=PROTOCOLS, max_new_tokens=recipe.max_new_tokens)
    )
    forced = paper_average(summary, EARNED_METRICS)
    if forced is None:
        raise ConfigError("--tune: the cases have no probes of one of the paper's metrics")
    free = summary[ProbeKind.RELIABILITY, FREE_GENERATION].mean
    return {
        "metrics": {
            f"{kind}.{name}": round(item.mean, 4) for (kind, name), item in summary.items()
        },
        "num_samples": {
            f"{kind}.{name}": item.num_samples for (kind, name), item in summary.items()
        },
        "objective": round((forced + free) / 2, 6),
        "seconds": round(time.perf_counter() - start_s, 1),
    }


def _finished(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
