#!/usr/bin/env python
"""What each part of the method is worth: the built-in generator with one part changed at a time.

    python -m tests.benchmarks.ablations [--edits 1000] [--output FILE.json] [section.key=value ...]
    python -m tests.benchmarks.ablations --corrections [--output FILE.json]
    python -m tests.benchmarks.ablations --refining [--output FILE.json]

N evaluation edits, then all their probes, teacher-forced; the same cases and seed for every row.
Parts of inference are switched in the config. Losses of the prompt phase are switched by training
that phase again (the experts do not depend on it), on the material of the built-in recipe, which is
encoded first where no earlier run has left it. The paper's "image compressed without the prompt"
has no row: our visual key never sees the prompt.

`--corrections` asks instead whether a second answer wins: 30 images, photographs first, are taught
A, then B in other words, in one model, and answer both wordings and two further ones.

`--refining` measures the CPU time of edits, one by one: of writing and refining over writing alone,
by length of the target.
"""

import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.builtin.backbone import BUILTIN, builtin_generator_folder, load_named_backbone
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.edited_model import EditedModel, open_model
from liveedit_core.evaluation.probes import PreparedCases
from liveedit_core.evaluation.scoring import CaseScorer
from liveedit_core.evaluation.summaries import paper_average, summarize
from liveedit_core.method.editor import Editor, edit_input
from liveedit_core.method.generator import LiveEditGenerator, load_generator
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Case
from liveedit_core.training.validation import split_by_entity
from pipelines.job.recipe_loader import load_recipe
from pipelines.train_generator import DEFAULT_RECIPE
from pipelines.training.data import Material, prepare_material
from pipelines.training.loop import GeneratorTrainer
from pipelines.training.recipe import TrainRecipe
from tests.benchmarks.frame import machine, parser_of, publish

BATCH_SIZE = 32
INFERENCE: dict[str, dict[str, object]] = {
    "full": {},
    "experts averaged": {"soft_routing": "average"},
    "soft routing by prompt alone (paper)": {"soft_routing": "prompt"},
    "no hard filter": {"has_hard_filter": False},
    "no visual gate": {"visual_gate": 0.0},
    "one midpoint for all images": {"other_image_midpoint": None},
    "no bound on kept experts": {"max_kept": 0},
    "no prompt gate": {"min_gate": 0.0},
}
TAUGHT = ("What is shown here?", "What is this called?")
"""Wordings of the first and of the second answer."""
FURTHER = ("Tell me the name of this.", "What do we see in this image?")
NUM_IMAGES = 30
STRATA = {"1-2": 2, "3-5": 5, "6-10": 10, "11-": 99}
"""Greatest number of target tokens."""
EDITS_A_STRATUM = 15
LOSSES = {"no absolute loss": "soft_absolute", "no relative loss": "soft_relative"}


def variants(
    recipe: TrainRecipe, backbone: VisionLanguageBackbone, material: Material
) -> Iterator[tuple[str, LiveEditGenerator]]:
    """Each row's name and generator."""
    for name, change in INFERENCE.items():
        generator = load_generator(builtin_generator_folder())
        if "other_image_midpoint" in change:
            change = change | {"other_image_midpoint": generator.config.visual_midpoint}
        generator.config = generator.config.with_changes(**change)
        yield name, generator
    for name, loss in LOSSES.items():
        yield name, retrained(recipe, backbone, material, loss)


def retrained(
    recipe: TrainRecipe, backbone: VisionLanguageBackbone, material: Material, loss: str
) -> LiveEditGenerator:
    """The built-in generator with a prompt phase that lacks one loss."""
    changed = recipe.with_changes(
        losses=recipe.losses.with_changes(**{loss: 0.0}),
        experts=recipe.experts.with_changes(steps=0),
    )
    trainer = GeneratorTrainer(changed, backbone, material)
    trainer.run()
    generator = load_generator(builtin_generator_folder())
    for side in ("edit_extractor", "input_extractor"):
        source = getattr(trainer.generator, side).state_dict()
        getattr(generator, side).load_state_dict(source)
    return generator


def score(
    backbone: VisionLanguageBackbone,
    generator: LiveEditGenerator,
    cases: list[Case],
    prepared: PreparedCases,
) -> dict[str, float]:
    """Means in per cent, rounded to a tenth."""
    editor = Editor(backbone, generator, ExpertRepository.empty(generator.config))
    requests = [case.edit for case in cases]
    edited = [probe.states for probe in prepared.probes if probe.probe_index == 0]
    experts = editor.write_experts(requests, edited)
    repository = ExpertRepository.from_experts(generator.config, experts)
    scorer = CaseScorer(editor, batch_size=BATCH_SIZE)
    summary = summarize(scorer.score(prepared, repository))
    means = {str(kind): round(100 * item.mean, 1) for (kind, _), item in summary.items()}
    average = paper_average(summary)
    assert average is not None
    return means | {"average_of_five": round(100 * average, 1)}


def development_alone() -> list[Case]:
    """The user's world of `development` without `validation`."""
    chosen = {case.case_id for case in load_builtin_cases("validation", "user_world")}
    cases = load_builtin_cases("development", "user_world")
    return [case for case in cases if case.case_id not in chosen]


def corrections() -> dict[str, Any]:
    """Of images of `development` without `validation`, and of `validation`."""
    cases = {
        "validation": load_builtin_cases("validation", "user_world"),
        "development": development_alone(),
    }
    result: dict[str, Any] = {"machine": machine()}
    for split, found in cases.items():
        found.sort(key=lambda case: case.tags["domain"] != "photo")  # stable: photographs first
        domains = {case.edit.image_bytes: case.tags["domain"] for case in found}
        images = list(domains)[:NUM_IMAGES]
        with open_model() as model:
            result["generator"] = model.editor.generator.digest
            result[split] = corrected(model, images)
        result[split]["domains"] = dict(Counter(domains[image] for image in images))
    return result


def corrected(model: EditedModel, images: Sequence[bytes | None]) -> dict[str, Any]:
    """How many edits were superseded, and how many answers to each wording are the new one."""
    targets = [[f"Unit {letter}-{n}" for n in range(len(images))] for letter in "AB"]
    edits = [
        model.edit_many(
            [(image, prompt, target) for image, target in zip(images, answers, strict=True)]
        )
        for prompt, answers in zip(TAUGHT, targets, strict=True)
    ]
    held = set(model.edits)
    counts: dict[str, Any] = {
        "images": len(images),
        "superseded": sum(edit_id not in held for edit_id in edits[0]),
        "new edits held": sum(edit_id in held for edit_id in edits[1]),
    }
    for prompt in (*TAUGHT, *FURTHER):
        said = model.generate(images, [prompt] * len(images), max_new_tokens=16)
        counts[prompt] = {
            name: sum(one.text == target for one, target in zip(said, answers, strict=True))
            for name, answers in zip(("old answer", "new answer"), targets, strict=True)
        }
    return counts


def refining() -> dict[str, Any]:
    """Costs by stratum, up to 10 tokens and of all strata, as in the whole split."""
    editor = open_model().editor
    refiner = editor.refiner
    assert refiner is not None
    found: dict[str, list[Case]] = defaultdict(list)
    for case in development_alone():
        size = editor.backbone.count_target_tokens(case.edit.target)
        found[next(name for name, most in STRATA.items() if size <= most)].append(case)
    result: dict[str, Any] = {"machine": machine(), "generator": editor.generator.digest}
    editor.edit_states([case.edit for case in found["1-2"][:1]])  # the first forward takes longer
    costs: dict[str, tuple[int, float, float]] = {}
    for name, cases in sorted(found.items(), key=lambda item: STRATA[item[0]]):
        chosen = random.Random(0).sample(cases, min(len(cases), EDITS_A_STRATUM))
        written_s, refined_s, outcomes = [], [], []
        for edit in (case.edit for case in chosen):
            start = time.process_time()
            states = editor.edit_states([edit])
            experts = editor._written([edit], states)
            written_s.append(time.process_time() - start)
            (expert,) = refiner.refine(experts, [edit_input(edit)], states)
            refined_s.append(time.process_time() - start)
            outcomes.append(expert.outcome)
        costs[name] = len(cases), sum(written_s) / len(chosen), sum(refined_s) / len(chosen)
        result[name] = {
            "edits": len(chosen),
            "verified as written": sum(one.state == "verified" for one in outcomes),
            "weak": sum(one.state == "weak" for one in outcomes),
            "steps": [one.steps for one in outcomes],
            "written_cpu_s": round(costs[name][1], 3),
            "refined_cpu_s": round(costs[name][2], 3),
            "cost": round(costs[name][2] / costs[name][1], 2),
        }
        print(name, result[name], flush=True)
    for name, most in (("1-10", 10), ("all", 99)):
        parts = [part for stratum, part in costs.items() if STRATA[stratum] <= most]
        refined, written = (sum(part[0] * part[n] for part in parts) for n in (2, 1))
        result[f"cost, {name} tokens"] = round(refined / written, 2)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Print one row a variant, and write all of them."""
    parser = parser_of(__doc__)
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--corrections", action="store_true")
    parser.add_argument("--refining", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_intermixed_args(arguments)
    if options.corrections or options.refining:
        publish(corrections() if options.corrections else refining(), options.output)
        return 0
    recipe = load_recipe(TrainRecipe, DEFAULT_RECIPE, options.overrides)
    nothing = load_generator(builtin_generator_folder())
    needed = nothing.config.load_options(LoadOptions(compute_dtype="float32"))
    backbone = load_named_backbone(BUILTIN, needed, builtin_batch_size=BATCH_SIZE)
    cases = load_builtin_cases("development")[: options.edits]
    empty = ExpertRepository.empty(nothing.config)
    prepared = CaseScorer(Editor(backbone, nothing, empty), batch_size=BATCH_SIZE).prepare(cases)
    split = split_by_entity(
        load_builtin_cases("train"), num_held_out=recipe.validation.bank_edits, seed=recipe.seed
    )
    folder = recipe.run_folder / "material"
    material = prepare_material(recipe, backbone, folder, split.held_out_entities)
    rows: dict[str, dict[str, float]] = {}
    for name, generator in variants(recipe, backbone, material):
        rows[name] = score(backbone, generator, cases, prepared)
        print(f"{name}: {rows[name]}", flush=True)
    if options.output:
        result = {"edits": len(cases), "seed": recipe.seed, "protocol": "teacher_forced"}
        options.output.write_text(json.dumps(result | {"rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
