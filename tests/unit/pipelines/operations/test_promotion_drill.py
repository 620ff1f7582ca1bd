"""The drill: promote, add edits of a corrupted generator, notice, refuse, promote anyway, go back.

On a tiny backbone with a generator that was never trained: its experts leave other answers alone
until it is corrupted. tests/integration/test_operations.py does it with the built-in models.
"""

import json
from typing import Any

import pytest

from infra.tracking.audit_log import AuditLog
from infra.tracking.model_registry import BANK_MODEL
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.edited_model import EditedModel
from liveedit_core.method.generator import load_generator
from pipelines.nightly_evaluation import print_outcome
from pipelines.operations.open_editor import open_editor
from pipelines.operations.promoter import print_decision
from tests.tiny_backbone import image, tiny_backbone
from tests.unit.tiny_operations import Operations, scaled, some_cases

NUM_EDITS = 24
"""Of the first version; as many are added by the corrupted generator."""
CASES = some_cases(1, NUM_EDITS)
EVALUATED = CASES[:16]
"""Cases of a nightly run; scoring all would take most of this test's time."""


def answers(model: EditedModel) -> tuple[list[str], list[Any]]:
    """Texts, and the logits behind some of them, of edited and of other questions."""
    images = [case.edit.image_bytes for case in CASES[:4]] + [image(777)]
    questions = [
        BackboneInput(prompt="What is shown here?", target="golden raven", image_bytes=image)
        for image in images
    ]
    editor = model.editor
    states = editor.backbone.encode(questions)
    residual = editor.residual(editor.route(states))
    assert residual is not None
    rows = [state.hidden_TD[None] for state in states]
    logits = [
        editor.backbone.target_logits([state], row + residual(row)[index : index + 1])[0].tolist()
        for index, (state, row) in enumerate(zip(states, rows, strict=True))
    ]
    texts = [model.answer(item.image_bytes, item.prompt) for item in questions]
    return texts, logits


@pytest.mark.slow
def test_a_corrupted_generator_is_noticed_refused_and_undone(
    operations: Operations, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = operations.versions.tracking_uri
    good = operations.teach(CASES)
    fine = operations.nightly("2026-11-24", EVALUATED)
    assert print_outcome(fine, "2026-11-24", operations.root) == 0
    assert print_decision(operations.promoter(why="the first").promote()) == 0
    champion = answers(open_editor(backbone=tiny_backbone(), tracking_uri=uri))
    files = operations.files()

    corrupted = scaled(load_generator(operations.folder), 400.0)
    corrupted.digest = operations.generator.digest  # damaged in memory: no digest tells
    assert operations.bank.num_edits() == NUM_EDITS
    bad = operations.teach(some_cases(NUM_EDITS + 1, 2 * NUM_EDITS), corrupted)
    assert operations.bank.num_edits() == 2 * NUM_EDITS
    worse = operations.nightly("2026-11-25", EVALUATED)
    capsys.readouterr()
    assert print_outcome(worse, "2026-11-25", operations.root) == 3
    assert "REGRESSION   modal_locality.teacher_forced: 1.000 ->" in capsys.readouterr().err

    assert print_decision(operations.promoter().promote()) == 2
    refused = capsys.readouterr().err
    assert "refused: thresholds: modal_locality is 0." in refused
    assert "refused: no_regression: image_swap_locality.teacher_forced: 1.000 ->" in refused
    assert operations.alias("champion") == good.version

    # Somebody insists, with gates that ask nothing and tolerate everything.
    lax = [f"tolerances.{name}=1.0" for name in ("modal_locality", "image_swap_locality")]
    lax += ["tolerances.prompt_swap_locality=1.0", "thresholds.modal_locality=0.0"]
    assert print_decision(operations.promoter(*lax, who="boris").promote()) == 0
    assert (operations.alias("champion"), operations.alias("previous_champion")) == (
        bad.version,
        good.version,
    )
    assert answers(open_editor(backbone=tiny_backbone(), tracking_uri=uri)) != champion

    assert print_decision(operations.promoter(why="wrong answers").roll_back()) == 0
    assert operations.alias("champion") == good.version
    assert answers(open_editor(backbone=tiny_backbone(), tracking_uri=uri)) == champion
    assert {path: digest for path, digest in operations.files().items() if path in files} == files
    log = AuditLog(operations.operations_store, BANK_MODEL).records()
    assert [(item.action, item.version, item.who) for item in log] == [
        ("promotion", good.version, "anna"),
        ("promotion", bad.version, "boris"),
        ("rollback", good.version, "anna"),
    ]
    tags = operations.versions.find(f"models:/{BANK_MODEL}/{bad.version}").tags
    assert json.loads(tags["promotion.numbers"])["difference.modal_locality.teacher_forced"] < -0.5
