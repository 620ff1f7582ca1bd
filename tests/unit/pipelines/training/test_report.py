"""The training report gathers its worst cases and histograms from the last validation."""

from infra.reports.training import render_training_report
from liveedit_core.training.recipe import DiagnosticsRecipe
from liveedit_core.training.validation import ValidationReport, Validator
from pipelines.training.recipe import TrainRecipe
from pipelines.training.report import training_report_data, worst_cases
from tests.tiny_backbone import case
from tests.unit.tiny_models import CONFIG, TinyBackbone, TinyModels

BANK = [case(number) for number in range(4)]


def validated() -> ValidationReport:
    """A generator that lets everything pass, so that answers change and experts are shown."""
    generator = TinyModels().load_generator()
    generator.config = CONFIG.with_changes(gain=30.0)
    validator = Validator(TinyBackbone(), BANK, num_cases=3, limits=DiagnosticsRecipe())
    return validator(generator)


def test_worst_cases_show_the_probe_that_failed() -> None:
    report = validated()
    shown = worst_cases(report.results, BANK)
    assert shown
    scores = {(r.case_id, str(r.kind)): r.score for r in report.results}
    for example in shown:
        result = example.result
        lowest = min(score for (case_id, _), score in scores.items() if case_id == result.case_id)
        assert result.score == lowest
        assert example.num_edits == len(BANK)


def test_the_report_of_a_run() -> None:
    report = validated()
    data = training_report_data(
        TrainRecipe(seed=3, run_name="mine"),
        phase_steps={"experts": 10},
        curve=[{"phase": "experts", "step": 10, **report.figures}],
        validation=report,
        bank_cases=BANK,
        facts={"git_commit": "abc"},
        duration_s=1.0,
    )
    text = render_training_report(data)
    assert data.title == "Training of mine"
    assert "24 probes of 3 cases against a bank of 4 edits, of 4 training entities" in text
    assert f"own expert (n = {len(report.samples.own_margins)})" in text
    assert "[experts]" in text
    assert data.warnings == report.warnings
