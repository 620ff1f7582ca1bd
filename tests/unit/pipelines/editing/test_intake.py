"""What comes in is numbered once; what is refused is on record."""

import os
import pickle
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.evaluation.comparable import cases_identity
from liveedit_core.inputs.rejects import Rejected
from pipelines.editing import case_file
from pipelines.editing.intake import CaseIndex, Source, log_requests, open_source
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.job.recipe_loader import load_recipe
from tests.unit.tiny_inputs import PROMPT, case, image, request
from workers.messages import EvaluationUnit


def test_a_file_read_twice_changes_nothing(tmp_path: Path) -> None:
    log = RequestLog(ObjectStore(tmp_path))
    refused = Rejected(line_number=3, error_type="NotJson", message="not JSON")
    source = Source(name="test", digest="d", items=[request(0), request(1), refused])
    first, second = log_requests(source, log), log_requests(source, log)
    assert (first.num_accepted, first.num_new) == (2, 2)
    assert (second.num_accepted, second.num_new) == (2, 0)
    assert second.rejected == [refused]
    assert len(log) == 2
    assert len(log.rejects.read()) == 1


def test_a_stop_ends_the_reading(tmp_path: Path) -> None:
    log = RequestLog(ObjectStore(tmp_path))
    items = (request(number) for number in range(1000))
    log_requests(Source(name="endless", digest="", items=items), log, should_stop=lambda: True)
    assert 0 < len(log) < 1000


def test_cases_keep_their_probes_and_requests_come_back_from_the_log(tmp_path: Path) -> None:
    log = RequestLog(ObjectStore(tmp_path))
    plain = request(5)
    intake = log_requests(Source(name="test", digest="", items=[case(0), plain]), log)
    kept = intake.cases.of([plain.edit_id, case(0).edit.edit_id])
    assert [item.edit.edit_id for item in kept] == [case(0).edit.edit_id, plain.edit_id]
    found = intake.cases.with_images(kept)
    assert found[0] == case(0)
    assert (found[1].case_id, found[1].edit, found[1].probes) == (plain.edit_id, plain, ())


def test_cases_wait_without_their_images(tmp_path: Path) -> None:
    shown, older, other = case(0), request(7), request(8)
    corrected = replace(shown, earlier=(older, other), tags={"domain": "photo"})
    log = RequestLog(ObjectStore(tmp_path))
    intake = log_requests(Source(name="test", digest="", items=[corrected]), log)
    (kept,) = intake.cases.of(intake.cases.edit_ids)
    assert not any(edit.image_bytes for edit in kept.requests)
    assert not any(probe.image_bytes for probe in kept.all_probes())
    assert cases_identity([kept]) == cases_identity([corrected])
    assert [edit.edit_id for edit in kept.requests] == [e.edit_id for e in corrected.requests]
    assert intake.cases.with_images([kept]) == [corrected]
    reduced = replace(kept, probes=(), earlier=kept.earlier[1:])
    expected = replace(corrected, probes=(), earlier=(other,))
    assert intake.cases.with_images([reduced]) == [expected]


def test_other_processes_read_the_images_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_file, "_PIECE_BYTES", 1000)  # no case is in one piece
    store, plain = ObjectStore(tmp_path), request(5)
    whole = [case(number) for number in range(3)]
    intake = log_requests(Source(name="test", digest="", items=[*whole, plain]), RequestLog(store))
    kept = intake.cases.of(intake.cases.edit_ids)
    unit = EvaluationUnit(cases=tuple(kept), protocols=(), load=intake.cases.stored)
    sent = pickle.dumps(unit)
    assert not any((edit.image_bytes or b"") in sent for one in whole for edit in one.requests)
    found = pickle.loads(sent).loaded().cases
    assert found[:3] == tuple(whole)
    assert found[3].edit == plain
    stored = list(store.list("cases/"))
    assert len(stored) > 3
    old = time.time() - 31 * 24 * 3600
    os.utime(tmp_path / stored[0], (old, old))
    again = log_requests(Source(name="next", digest="", items=whole), RequestLog(store))
    assert again.cases.stored != intake.cases.stored
    assert stored[0] not in store.list("cases/"), "a run that was killed left it"
    intake.cases.delete_stored()
    assert not set(stored) & set(store.list("cases/"))


def test_a_textual_edit_comes_back_without_an_image(tmp_path: Path) -> None:
    shown = case(0)
    textual = replace(shown, edit=replace(shown.edit, image_bytes=None), earlier=(shown.edit,))
    log = RequestLog(ObjectStore(tmp_path))
    intake = log_requests(Source(name="test", digest="", items=[textual]), log)
    assert intake.cases.with_images(intake.cases.of(intake.cases.edit_ids)) == [textual]


def test_a_file_of_requests_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(image(1))
    file = tmp_path / "facts.jsonl"
    line = f'{{"image": "cat.png", "prompt": "{PROMPT}", "target": "Tom"}}\n'
    file.write_text(line + "not JSON\n" + line)
    recipe = load_recipe(LifelongEditRecipe, None, [f"requests.path={file}"])
    source = open_source(recipe, ObjectStore(tmp_path), print)
    intake = log_requests(source, RequestLog(ObjectStore(tmp_path)))
    assert source.digest
    assert (intake.num_accepted, intake.num_duplicates, len(intake.rejected)) == (1, 1, 1)


def test_an_unreachable_uri_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text('{"image": "http://example.com/a.png", "prompt": "What?", "target": "Tom"}\n')
    recipe = load_recipe(LifelongEditRecipe, None, [f"requests.path={file}"])
    intake = log_requests(
        open_source(recipe, ObjectStore(tmp_path), print), RequestLog(ObjectStore(tmp_path))
    )
    (refused,) = intake.rejected
    assert "http" in refused.message


def test_the_last_case_of_an_edit_counts_at_the_place_of_the_first(tmp_path: Path) -> None:
    index = CaseIndex(RequestLog(ObjectStore(tmp_path)))
    first, again, other = case(0), replace(case(0), probes=()), case(1)
    for item in (first.edit, other, first, again, first.edit):
        index.add(item)
    ids = [first.edit.edit_id, other.edit.edit_id]
    assert index.edit_ids == ids
    assert index.among([*reversed(ids), "unknown"]) == ids
    assert index.among([]) == []
    assert index.with_images(index.of(ids)) == [again, other]


def test_the_input_takes_no_memory(tmp_path: Path) -> None:
    index, number = CaseIndex(RequestLog(ObjectStore(tmp_path))), 2000
    whole, plain = case(0), request(0)
    index.add(whole)
    tracemalloc.start()
    for n in range(number):
        edit = replace(plain, target=f"entity {n}")
        index.add(edit)
        index.add(replace(whole, edit=edit))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 10 * number, "bytes"
    assert len(index.edit_ids) == number + 1
