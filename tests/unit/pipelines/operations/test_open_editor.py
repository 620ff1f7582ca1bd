"""What was registered opens as an edited model that answers, or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infra.requests.request_log import RequestLog
from infra.tracking.audit_log import AuditLog
from infra.tracking.model_registry import BANK_MODEL, GENERATOR_MODEL
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.errors import ConfigError, InputError, IntegrityError, RepositoryMismatchError
from liveedit_core.inputs.same_question import pixel_digest
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Fact
from pipelines.cli.main import main
from pipelines.operations.open_editor import open_editor
from tests.tiny_backbone import PROMPTS, answers, image, tiny_backbone
from tests.unit.tiny_models import TinyBackbone
from tests.unit.tiny_operations import Operations, some_cases

Capture = pytest.CaptureFixture[str]
CASES = some_cases(1, 6)


@pytest.fixture
def uri(operations: Operations) -> str:
    """Two versions of four and six edits; the first one is the champion."""
    operations.teach(CASES[:4])
    operations.teach(CASES[4:])
    operations.make_champion(1)
    return operations.versions.tracking_uri


def test_alias_and_number_open_the_very_experts_that_were_written(
    operations: Operations, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    nothing = ExpertRepository.empty(operations.generator.config)
    written = Editor(tiny_backbone(), operations.generator, nothing)
    for window in (CASES[:4], CASES[4:]):
        written = written.with_edits([case.edit for case in window])
    for name, num_edits in (("@champion", 4), ("/2", 6)):
        model = open_editor(f"models:/{BANK_MODEL}{name}", tiny_backbone())
        repository = model.editor.repository
        expected = written.repository.take(range(num_edits))
        assert model.edits == expected.edit_ids
        assert torch.equal(repository.down_LD, expected.down_LD)
        assert torch.equal(repository.visual_features_NK, expected.visual_features_NK)
        questions = [BackboneInput(prompt=PROMPTS[0], image_bytes=image(n)) for n in range(3)]
        expected_answers = answers(written.with_repository(expected), questions)
        assert all(answer.routing is not None for answer in expected_answers)
        texts = [model.answer(item.image_bytes, item.prompt) for item in questions]
        assert texts == [answer.text for answer in expected_answers]


def test_edits_are_explained_by_the_requests_beside_the_bank(
    operations: Operations, uri: str
) -> None:
    request = CASES[0].edit
    assert open_editor(backbone=tiny_backbone(), tracking_uri=uri).fact(request.edit_id) is None
    assert not RequestLog.exists(operations.store), "opening writes nothing to the store"
    RequestLog(operations.store).append([case.edit for case in CASES])
    model = open_editor(backbone=tiny_backbone(), tracking_uri=uri)
    assert model.fact(request.edit_id) == Fact(
        prompt=request.prompt,
        target=request.target,
        subject_id=request.subject_id,
        pixel_digest=pixel_digest(request),
    )
    assert model.fact(CASES[5].edit.edit_id) is None, "the champion does not hold it"
    assert request.image_bytes is not None
    explanation = model.explain(request.image_bytes, request.prompt)
    assert explanation.num_edits == 4
    assert all(edit.fact == model.fact(edit.edit_id) is not None for edit in explanation.edits)
    with pytest.raises(InputError, match="no such edits"):
        model.remove(CASES[5].edit.edit_id)


def test_without_a_server_or_a_version_it_says_what_is_missing(uri: str) -> None:
    with pytest.raises(ConfigError, match="set MLFLOW_TRACKING_URI"):
        open_editor()
    with pytest.raises(InputError, match="versions there: 1, 2"):
        open_editor(f"models:/{BANK_MODEL}/3", tiny_backbone(), tracking_uri=uri)


def test_an_alias_to_an_altered_or_missing_shard_is_refused(
    operations: Operations, uri: str
) -> None:
    (first, *_) = operations.bank.file_keys(2)
    path = Path(operations.store.table_uri(first))
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(IntegrityError, match=f"liveedit-bank 1 is damaged.*{path.name} is altered"):
        open_editor(backbone=tiny_backbone(), tracking_uri=uri)
    path.unlink()
    with pytest.raises(IntegrityError, match=f"{path.name} is missing"):
        open_editor(backbone=tiny_backbone(), tracking_uri=uri)


def test_another_backbone_is_refused(uri: str) -> None:
    with pytest.raises(RepositoryMismatchError, match="this one is tiny-backbone"):
        open_editor(backbone=TinyBackbone(), tracking_uri=uri)


def test_an_altered_or_unknown_generator_is_refused(operations: Operations, uri: str) -> None:
    (version,) = operations.versions.all(GENERATOR_MODEL)
    (path,) = operations.root.glob(
        f"mlflow_artifacts/**/{version.model_id}/**/generator.safetensors"
    )
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="they were altered and must not serve"):
        open_editor(backbone=tiny_backbone(), tracking_uri=uri)
    client = operations.tracker.connect().client
    client.delete_registered_model(GENERATOR_MODEL)
    with pytest.raises(IntegrityError, match="is not a version of liveedit-generator"):
        open_editor(backbone=tiny_backbone(), tracking_uri=uri)


def test_a_champion_that_no_audit_record_explains_is_refused(
    operations: Operations, uri: str
) -> None:
    operations.versions.set_alias(BANK_MODEL, "champion", 2)
    with pytest.raises(IntegrityError, match=r"no audit record explains.*pipelines/promotion.py"):
        open_editor(backbone=tiny_backbone(), tracking_uri=uri)
    said: list[str] = []
    promoter = replace(operations.promoter(), say=said.append)
    promoter.roll_back()
    assert "It is set back to version 1" in said[0]
    assert len(open_editor(backbone=tiny_backbone(), tracking_uri=uri).edits) == 4
    nowhere = str(operations.root / "elsewhere")
    with pytest.raises(IntegrityError, match="LIVEEDIT_OPERATIONS"):
        open_editor(backbone=tiny_backbone(), tracking_uri=uri, operations=nowhere)


def test_a_manifest_of_another_store_is_refused(operations: Operations, uri: str) -> None:
    version = operations.versions.find(f"models:/{BANK_MODEL}/1")
    (path,) = operations.root.glob(f"mlflow_artifacts/**/{version.model_id}/**/manifest.json")
    path.write_text(path.read_text().replace("banks_store", "banks_stolen"))
    for name in ("@champion", "/1"):
        with pytest.raises(IntegrityError, match=r"its manifest is not the one .* was replaced"):
            open_editor(f"models:/{BANK_MODEL}{name}", tiny_backbone(), tracking_uri=uri)


def test_an_older_champion_in_the_place_of_the_newest_is_refused(
    operations: Operations, uri: str
) -> None:
    operations.make_champion(2)
    paths = [
        next(operations.root.glob(f"mlflow_artifacts/**/{version.model_id}/**/manifest.json"))
        for version in operations.versions.all(BANK_MODEL)
    ]
    paths[1].write_text(paths[0].read_text())
    with pytest.raises(IntegrityError, match="its manifest is not the one"):
        open_editor(backbone=tiny_backbone(), tracking_uri=uri)


def test_a_registry_that_was_made_again_serves_the_same_champion(
    operations: Operations, uri: str
) -> None:
    """Numbers start again, manifests stay."""
    operations.make_champion(2)
    client = operations.tracker.connect().client
    client.delete_registered_model(BANK_MODEL)
    again = operations.registry.register_bank_version(operations.bank, operations.bank.version)
    assert again.version == 1
    operations.versions.set_alias(BANK_MODEL, "champion", 1)
    assert len(open_editor(backbone=tiny_backbone(), tracking_uri=uri).edits) == 6


def test_the_command_line_checks_the_audit_log(
    operations: Operations, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    store = operations.operations_store
    command = ["bank", "verify", "--store", operations.store.root_uri, "--audit", store.root_uri]
    assert main(command) == 0
    assert AuditLog(store, BANK_MODEL).head() in capsys.readouterr().out
    assert main([*command[:-1], operations.store.root_uri]) == 0
    assert "there are no audit records in" in capsys.readouterr().out
    assert main([*command[:-1], f"{store.root_uri}-mistyped"]) == 1
    assert "there is nothing in" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(command) == 0
    operations.versions.set_alias(BANK_MODEL, "champion", 2)
    assert main(command) == 3
    assert "no audit record explains" in capsys.readouterr().out
    operations.versions.set_alias(BANK_MODEL, "champion", 0)
    assert main(command) == 3
    assert "'champion' of liveedit-bank is gone" in capsys.readouterr().out
    key = "audit/liveedit-bank/000000000001.json"
    store.put(key, store.get(key).replace(b'"version": 1', b'"version": 2'))
    operations.make_champion(2)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main(command) == 0, "nothing before the alteration was chained"
    store.put(key, store.get(key).replace(b"anna", b"eve!"))
    assert main(command) == 3
