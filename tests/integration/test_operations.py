"""The drill with the commands, the built-in models, a real Ray and a killed nightly run."""

from pathlib import Path

import pytest
import torch

from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import BANK_MODEL, ModelVersions
from infra.tracking.results import ResultsTable
from liveedit_core.builtin.backbone import builtin_generator_folder
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.method.generator import load_generator, save_generator
from liveedit_core.schema import PAPER_METRICS, ProbeKind
from pipelines.operations.open_editor import open_editor
from tests.integration.edit_job import Run, kill_at, needs_builtin_models

pytestmark = [needs_builtin_models, pytest.mark.long, pytest.mark.timeout(2400)]

NUM_EDITS = 100
"""Of the champion; as many more follow, and all are written by the corrupted generator."""
NUM_EVALUATED = 40
"""Cases of the nightly run."""
COMMON = ("ray.object_store_memory_bytes=100000000",)
EDIT = (
    *COMMON,
    'evaluation.protocols=["teacher_forced"]',
    "evaluation.at=[1000]",
    "evaluation.max_cases=1",
    "generator.batch_size=10",
    "bank.window_edits=50",
)
NIGHTLY = (*COMMON, 'evaluation.protocols=["teacher_forced"]', f"cases.limit={NUM_EVALUATED}")
STRICT = f"gates.min_samples={NUM_EVALUATED}"
LAX = (
    STRICT,
    *(f"tolerances.{kind}=1.0" for kind in ProbeKind),
    *(f"thresholds.{kind}=0.0" for kind in PAPER_METRICS),
)
"""Lets anything through, as someone might who is in a hurry."""


def corrupted_generator(folder: Path) -> Path:
    """The built-in generator; what writes the experts' second factor is noise."""
    generator = load_generator(builtin_generator_folder())
    torch.manual_seed(0)
    for name, parameter in generator.named_parameters():
        if name.startswith("up_generator") and parameter.dim() == 2:
            parameter.data = torch.randn_like(parameter) * parameter.std()
    save_generator(generator, folder)
    return folder


def champion_answers(uri: str) -> list[tuple[str, tuple[float, ...]]]:
    """Answers and routing weights of the champion."""
    edits = [case.edit for case in load_builtin_cases("development")[:5]]
    answers = open_editor(tracking_uri=uri).generate(
        [edit.image_bytes for edit in edits],
        [edit.prompt for edit in edits],
        max_new_tokens=12,
        do_sample=False,
    )
    return [(item.text, item.routing.weights if item.routing else ()) for item in answers]


def test_the_whole_drill(tmp_path: Path) -> None:
    run = Run(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    gates, nightly_recipe = tmp_path / "gates.toml", tmp_path / "nightly.toml"
    gates.write_text(f'job = "promotion"\n[gates]\nmin_samples = {NUM_EVALUATED}\n')
    nightly_recipe.write_text(
        'job = "nightly_evaluation"\n[evaluation]\nprotocols = ["teacher_forced"]\n'
    )

    # Teach, and promote at the end: the option does what the two commands do.
    code, output = run.do(
        *EDIT,
        f"requests.limit={NUM_EDITS}",
        "--promote",
        f"promotion.recipe={gates}",
        f"promotion.nightly_recipe={nightly_recipe}",
        timeout_s=900.0,
    )
    assert code == 0, output
    assert "promotion: version 1 is the champion now, before: none; audit record 1" in output
    before = champion_answers(uri)
    assert all(weights for _, weights in before)

    # More edits, by a corrupted generator.
    damaged = corrupted_generator(tmp_path / "corrupted")
    code, output = run.do(
        *EDIT,
        f"requests.limit={2 * NUM_EDITS}",
        "--run-name=damaged",
        f"--store={tmp_path / 'quickstart' / 'store'}",
        "bank.name=second",
        f"generator.checkpoint={damaged}",
        timeout_s=900.0,
    )
    assert code == 0, output

    # The nightly run is killed, resumes and finds the regression; once more it is done already.
    nightly = (*NIGHTLY, "--date=2026-11-25")
    process = run.start(*nightly, job="nightly_evaluation")
    kill_at(process, "liveedit-bank 1: ")
    operations = ObjectStore(tmp_path / "operations")
    num_newest = len(ResultsTable(operations, "nightly-2026-11-25-v2").read())
    code, output = run.do(*nightly, job="nightly_evaluation")
    assert code == 3, output
    assert "REGRESSION   reliability.teacher_forced: " in output
    assert len(ResultsTable(operations, "nightly-2026-11-25-v2").read()) == num_newest > 0
    assert (tmp_path / "nightly" / "2026-11-25" / "comparison.html").exists()
    code, output = run.do(*nightly, job="nightly_evaluation")
    assert (code, output.startswith("done: the nightly run 2026-11-25")) == (0, True), output

    # It is refused with reasons; once it is let through, there is a way back.
    code, output = run.do(STRICT, job="promotion")
    assert code == 2, output
    assert "refused: thresholds: reliability is 0." in output
    (refusal,) = (line for line in output.splitlines() if line.startswith("refused: no_regr"))
    assert "reliability.teacher_forced: 1.000 -> 0." in refusal
    code, output = run.do(*LAX, "--why=a mistake", job="promotion")
    assert code == 0, output
    code, output = run.do("--rollback", "--why=wrong answers", job="promotion")
    assert (code, output) == (
        0,
        "rollback: version 1 is the champion now, before: version 2; audit record 3\n",
    )
    assert champion_answers(uri) == before
    tags = ModelVersions(uri).find(f"models:/{BANK_MODEL}@champion").tags
    assert tags["rollback.why"] == "wrong answers"
