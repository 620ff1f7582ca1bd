"""Wires the training job: checkpoints, validation and MLflow around the loop; publishes, reports.

The newest checkpoint in the store is where a run resumes.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.reports.page import write_page
from infra.reports.training import render_training_report
from infra.storage.object_store import ObjectStore
from infra.tracking.generator_checkpoints import GeneratorCheckpoints
from infra.tracking.model_registry import ModelRegistry
from infra.tracking.tracker import Tracker
from liveedit_core.backbones.protocol import Backbone
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.method.generator import load_generator, save_generator
from liveedit_core.schema import Case
from liveedit_core.training.recipe import Phase
from liveedit_core.training.snapshot import MODEL, MOMENT, Snapshot, with_prefix
from liveedit_core.training.validation import split_by_entity
from liveedit_core.whole_files import state_of
from pipelines.job.accepted_cases import answer_alone, on_cases
from pipelines.job.ray_session import address_of, num_gpus_on, open_session
from pipelines.job.run_folder import run_facts
from pipelines.job.sections import RaySection
from pipelines.training.data import Material, prepare_material
from pipelines.training.loop import GeneratorTrainer
from pipelines.training.recipe import TrainRecipe
from pipelines.training.records import TrainingRecords, first_norm, recipe_digest
from pipelines.training.report import training_report_data
from pipelines.training.validation import Validation

EXPERIMENT = "liveedit-training"
TRAINING_FILE = "training.json"
"""In a generator's folder, beside its curve; no part of its digest."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a finished training job tells the user."""

    digest: str
    folder: Path
    """generator.safetensors, config.json, the curve and the seconds of the training."""
    report: Path
    warnings: tuple[str, ...]
    num_record_failures: int
    tracking_uri: str


def on_cluster(recipe: TrainRecipe) -> TrainRecipe:
    """The recipe with a GPU for each process of the training where it joins a cluster that has
    enough, unless it says how many: then this process, which may be on a head without one, leaves
    encoding, training and validation to actors. These read stores that may lie under `run_root`,
    which other nodes can see only if it is absolute."""
    sharding = recipe.sharding
    is_given = "gpus_per_shard" in sharding.model_fields_set
    if is_given or not address_of(RaySection()) or not Path(recipe.run_root).is_absolute():
        return recipe
    with open_session(RaySection(), needed_cpus=0):
        has_enough = num_gpus_on() >= sharding.shards
    changed = sharding.with_changes(gpus_per_shard=1) if has_enough else sharding
    return recipe.with_changes(sharding=changed)


def train_on(
    recipe: TrainRecipe, backbone: VisionLanguageBackbone, cases: Sequence[Case]
) -> TrainingResult:
    """Prepare the data and train. A case that fails in a forward is left out; which entities are
    held out stays as it was."""
    num_held_out = recipe.validation.bank_edits if recipe.validation.every_steps else 0
    split = split_by_entity(cases, num_held_out=num_held_out, seed=recipe.seed)

    def attempt(some: list[Case]) -> TrainingResult:
        left = {case.case_id for case in some}
        material = prepare_material(
            recipe, backbone, recipe.run_folder / "material", split.held_out_entities, cases=some
        )
        held_out = [case for case in split.held_out if case.case_id in left]
        return do_training(recipe, backbone, material, held_out, run_facts())

    return on_cases(cases, attempt, lambda case: answer_alone(backbone, case), print)


def do_training(
    recipe: TrainRecipe,
    backbone: VisionLanguageBackbone,
    material: Material,
    held_out: Sequence[Case],
    facts: Mapping[str, str],
    load_backbone: Callable[[], Backbone] | None = None,
) -> TrainingResult:
    """Train from the newest checkpoint (or the beginning) to the end.

    `held_out` are the validation cases, whose entities are not in `material`; `facts` of this start
    go to MLflow and the report. `load_backbone` loads the backbone in other processes, by default
    the one that the recipe names.
    """
    start_s = time.perf_counter()
    validator = Validation(recipe, backbone, held_out, load_backbone) if held_out else None
    records = open_records(recipe, validator)
    trainer = GeneratorTrainer(
        recipe,
        backbone,
        material,
        on_step=records.on_step,
        on_checkpoint=records.on_checkpoint,
        load_backbone=load_backbone,
    )
    status = "FAILED"
    try:
        records.started(facts)
        restore(trainer, records.checkpoints, recipe)
        if validator is not None:
            validator.first_norm = first_norm(trainer.curve)
        with processes(recipe):
            trainer.run()
            if validator is not None and records.last_report is None:
                records.last_report = validator(trainer.generator)  # resumed after its last step
            if validator is not None:
                validator.close()
        folder, report = recipe.run_folder / "generator", recipe.run_folder / "report.html"
        save_result(trainer, folder, is_half=recipe.checkpoint.is_half)
        data = training_report_data(
            recipe,
            phase_steps=records.phase_steps,
            curve=trainer.curve,
            validation=records.last_report,
            bank_cases=held_out,
            facts=facts,
            duration_s=time.perf_counter() - start_s,
        )
        write_page(report, render_training_report(data))
        digest = records.finished(folder, report)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        records.tracker.end(status)
    return TrainingResult(
        digest=digest,
        folder=folder,
        report=report,
        warnings=records.last_report.warnings if records.last_report is not None else (),
        num_record_failures=records.num_failures,
        tracking_uri=records.tracker.tracking_uri,
    )


def processes(recipe: TrainRecipe) -> contextlib.AbstractContextManager[object]:
    """A Ray session, if the run needs other processes."""
    if not recipe.has_actors:
        return contextlib.nullcontext()
    needed = recipe.sharding.needed_cpus + recipe.validation.num_cpus
    return open_session(RaySection(), needed_cpus=needed)


def open_records(recipe: TrainRecipe, validator: Validation | None) -> TrainingRecords:
    """Store and MLflow of a run; nothing is written yet."""
    store = ObjectStore(recipe.store_root)
    tracker = Tracker(Path(recipe.run_root), experiment=EXPERIMENT, run_name=recipe.run_name)
    return TrainingRecords(
        recipe,
        tracker=tracker,
        registry=ModelRegistry(tracker),
        checkpoints=GeneratorCheckpoints(store, recipe.run_name, last_k=recipe.keep.last_k),
        state_file=recipe.run_folder / "recorded.json",
        validate=validator,
    )


def restore(
    trainer: GeneratorTrainer, checkpoints: GeneratorCheckpoints, recipe: TrainRecipe
) -> None:
    """Resume a trainer from the newest checkpoint in the store, if there is one."""
    state = checkpoints.resume()
    if state is None:
        return
    position = state.position
    position.check_same_run(seed=recipe.seed, recipe_digest=recipe_digest(recipe))
    with tempfile.TemporaryDirectory() as scratch:
        generator = load_generator(checkpoints.fetch(state.entry.digest, Path(scratch)))
    phases: dict[str, Phase] = {name: name for name in recipe.plan.phases}
    snapshot = Snapshot(
        config=generator.config,
        phase=phases[position.phase],
        step=position.step,
        tensors=with_prefix(MODEL, generator.state_dict()) | with_prefix(MOMENT, state.moments),
        seconds=position.seconds,
    )
    trainer.resume(snapshot, [dict(row) for row in position.curve])


def save_result(trainer: GeneratorTrainer, folder: Path, *, is_half: bool) -> None:
    """Weights, config, curve and seconds of the trained generator."""
    save_generator(trainer.generator.half() if is_half else trainer.generator, folder)
    (folder / "curve.json").write_text(json.dumps(trainer.curve))
    facts = {"seconds": round(trainer.seconds, 3)}
    (folder / TRAINING_FILE).write_text(json.dumps(facts) + "\n")


def seconds_of_training(folder: Path) -> float | None:
    """Those of a generator's folder; None where they were not recorded."""
    found = state_of(folder / TRAINING_FILE)
    seconds = found.get("seconds") if isinstance(found, dict) else None
    return float(seconds) if isinstance(seconds, int | float) else None
