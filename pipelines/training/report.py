"""The report of a training run, from its curve and its last validation."""

from collections.abc import Mapping, Sequence

from infra.reports.data import Example, Histogram, TrainingReportData
from liveedit_core.evaluation.probes import ProbeResult
from liveedit_core.schema import Case
from liveedit_core.training.diagnostics import RoutingSamples
from liveedit_core.training.validation import ValidationReport
from pipelines.evaluation.pages import ExampleBuilder, choose_worst
from pipelines.job.recipe_loader import to_toml
from pipelines.training.loop import Curve
from pipelines.training.recipe import TrainRecipe


def training_report_data(
    recipe: TrainRecipe,
    *,
    phase_steps: Mapping[str, int],
    curve: Curve,
    validation: ValidationReport | None,
    bank_cases: Sequence[Case],
    facts: Mapping[str, str],
    duration_s: float,
) -> TrainingReportData:
    """The page's data; `validation` is the last one, against a bank of `bank_cases`."""
    return TrainingReportData(
        title=f"Training of {recipe.run_name}",
        subtitle="" if validation is None else validation_subtitle(validation, bank_cases),
        seed=recipe.seed,
        duration_s=duration_s,
        phase_steps=phase_steps,
        curve=curve,
        histograms=histograms(validation.samples, recipe.model.min_gate) if validation else [],
        worst_cases=[] if validation is None else worst_cases(validation.results, bank_cases),
        warnings=() if validation is None else validation.warnings,
        facts=facts,
        recipe_text=to_toml(recipe),
    )


def validation_subtitle(validation: ValidationReport, bank_cases: Sequence[Case]) -> str:
    """How the numbers of the validation were measured."""
    num_cases = len({result.case_id for result in validation.results})
    num_entities = len({case.entity for case in bank_cases})
    return (
        f"Validation: {len(validation.results):,} probes of {num_cases} cases against a bank of "
        f"{len(bank_cases)} edits, of {num_entities} training entities that were held out"
    )


def histograms(samples: RoutingSamples, min_gate: float) -> list[Histogram]:
    """Visual margins, experts kept, prompt gates of a validation."""
    return [
        Histogram(
            title="Visual margins",
            caption="Visual similarity minus the sentinel's: above 0 an expert passes the hard "
            "filter. Other entity: the nearest expert of another entity, for each question.",
            x_label="visual margin",
            samples={
                "own expert": samples.own_margins,
                "nearest other entity": samples.other_entity_margins,
            },
            threshold=0.0,
        ),
        Histogram(
            title="Experts that answer",
            caption="Number of experts kept by hard filter and gate. On other images none should "
            "be.",
            x_label="experts kept",
            samples={
                "own entity in the image": samples.num_kept,
                "another image": samples.num_kept_other_image,
            },
        ),
        Histogram(
            title="Prompt gates",
            caption="sigmoid of the prompt similarity to the own expert: near 1 on its own "
            "question, near 0 on another question about the same image.",
            x_label="gate of the own expert",
            samples={
                "its own question": samples.own_gates,
                "another question": samples.other_question_gates,
            },
            threshold=min_gate or None,
        ),
    ]


def worst_cases(results: Sequence[ProbeResult], bank_cases: Sequence[Case]) -> list[Example]:
    """The cases with the lowest means, each by its worst probe, with images."""
    by_edit = {case.edit.edit_id: case.edit for case in bank_cases}
    shown = choose_worst(results)
    builder = ExampleBuilder(bank_cases, lambda edit_ids: by_edit, shown)
    return [builder.example(result, len(by_edit)) for result in shown]
