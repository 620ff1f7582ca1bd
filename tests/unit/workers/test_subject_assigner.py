"""Corrections win in a bank, whatever their wording; each is decided and stored once."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from infra.bank.expert_bank import ExpertBank
from infra.requests.log_integrity import repair_log
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.inputs.images import decode_image
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.method import corrections
from liveedit_core.method.features import EditQuestion
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.schema import EditRequest
from tests.unit.tiny_editing import Driver
from tests.unit.tiny_inputs import PROMPT, image, request
from tests.unit.tiny_models import CONFIG, IDENTITY, TinyModels
from workers import subject_assigner
from workers.generator_worker import GeneratorWorker
from workers.messages import AskedEdit, GeneratorFacts
from workers.subject_assigner import SubjectAssigner

CALLED = "What is this called?"
OPEN_GATE = CONFIG.with_changes(min_gate=1e-9)


@dataclass(frozen=True)
class OpenGate(TinyModels):
    """All prompts mean the same; images are compared by their pixels."""

    def load_generator(self) -> LiveEditGenerator:
        generator = super().load_generator()
        generator.config = OPEN_GATE
        return generator


@pytest.fixture(autouse=True)
def _no_least_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrections, "LEAST_GATE", 0.0)


def driver_at(folder: Path, models: TinyModels | None = None) -> Driver:
    driver = Driver(folder)
    driver.generator = GeneratorWorker(models or OpenGate(), InputLimits(max_target_tokens=4))
    return driver


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return driver_at(tmp_path)


def encoded(image_bytes: bytes, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    decode_image(image_bytes).save(buffer, kind, **options)
    return buffer.getvalue()


def with_exif(image_bytes: bytes) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    return encoded(image_bytes, "PNG", exif=exif)


def windows_of(num_edits: int) -> tuple[str, str]:
    return f"bank.window_edits={num_edits}", "evaluation.at=[]"


def held(driver: Driver) -> list[str]:
    return driver.bank.edit_ids()


A = request(0, target="A")
B = replace(A, target="B")
IN_OTHER_WORDS = replace(B, prompt=CALLED)


@pytest.mark.parametrize(
    "later",
    [
        replace(B, image_bytes=encoded(image(0), "BMP")),
        replace(B, image_bytes=with_exif(image(0))),
        replace(B, prompt=f"{PROMPT} "),
        replace(B, prompt=PROMPT.upper()),
    ],
    ids=["other bytes", "metadata", "space", "case"],
)
@pytest.mark.parametrize("window", [1, 4])
def test_what_asks_the_same_by_content_is_one_subject(
    tmp_path: Path, later: EditRequest, window: int
) -> None:
    driver = driver_at(tmp_path, TinyModels())  # without a prompt gate
    other = replace(A, prompt=CALLED)
    driver.run([A, other, later], *windows_of(window))
    assert held(driver) == [other.edit_id, later.edit_id]
    header = driver.log.headers(edit_ids=[later.edit_id])[0]
    assert (header.supersedes, header.similarity) == (A.edit_id, 1.0)


@pytest.mark.parametrize("window", [1, 4])
def test_a_correction_in_other_words_wins_and_is_on_record(driver: Driver, window: int) -> None:
    elsewhere = replace(request(1), target="B")
    driver.run([A, elsewhere, IN_OTHER_WORDS], *windows_of(window))
    assert held(driver) == [elsewhere.edit_id, IN_OTHER_WORDS.edit_id]
    header = driver.log.headers(edit_ids=[IN_OTHER_WORDS.edit_id])[0]
    assert header.supersedes == A.edit_id
    assert 0 < header.similarity < 1
    assert driver.bank.pending_sequences(driver.log) == []
    assert driver.bank.versions.record(driver.bank.version).num_superseded == (window == 1)


def test_a_question_that_a_word_sets_apart_corrects_nothing(driver: Driver) -> None:
    first, second = (replace(A, prompt=f"When does it {what}?") for what in ("open", "close"))
    driver.run([first, replace(second, target="B")], *windows_of(1))
    assert len(held(driver)) == 2


def test_the_same_answer_in_other_words_corrects_nothing(driver: Driver) -> None:
    driver.run([A, replace(A, prompt=CALLED)])
    assert len(held(driver)) == 2


def test_a_closed_gate_keeps_both(tmp_path: Path) -> None:
    driver = driver_at(tmp_path, TinyModels())
    driver.run([A, IN_OTHER_WORDS])
    assert len(held(driver)) == 2


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("between", [B, IN_OTHER_WORDS], ids=["same words", "other words"])
def test_a_change_of_mind_ends_where_it_began(
    driver: Driver, window: int, between: EditRequest
) -> None:
    items = [A, between, A]
    driver.run(items, *windows_of(window))
    assert held(driver) == [A.edit_id]
    assert len(driver.log) == 3
    version = driver.bank.version
    driver.run(items, *windows_of(window))  # the same command resumes: nothing to do
    assert (driver.bank.version, len(driver.log)) == (version, 3)
    epoch = driver.bank.acquire_writer()
    driver.bank.remove([A.edit_id], author="ann", reason="", epoch=epoch)
    driver.run(items)
    assert held(driver) == [between.edit_id]


def test_removal_brings_the_corrected_edit_back(driver: Driver) -> None:
    driver.run([A], *windows_of(1))
    before = driver.rows()
    driver.run([A, IN_OTHER_WORDS], *windows_of(1))
    epoch = driver.bank.acquire_writer()
    driver.bank.remove([IN_OTHER_WORDS.edit_id], author="ann", reason="", epoch=epoch)
    assert driver.rows() == before
    driver.bank.restore([IN_OTHER_WORDS.edit_id], author="ann", reason="", epoch=epoch)
    assert held(driver) == [IN_OTHER_WORDS.edit_id]
    driver.bank.roll_back(2, author="ann", reason="", epoch=epoch)
    assert driver.rows() == before


def test_a_crash_between_assignment_and_commit_changes_nothing(tmp_path: Path) -> None:
    items = [A, request(1), IN_OTHER_WORDS, request(2), replace(A, target="C", prompt="Say what")]
    undisturbed, killed = driver_at(tmp_path / "one"), driver_at(tmp_path / "two")
    undisturbed.run(items, *windows_of(2))

    class PowerCutError(Exception):
        """The process ends here."""

    commit, num_left = ExpertBank.commit, 1

    def dying(self: ExpertBank, *arguments: object, **options: object) -> int:
        nonlocal num_left
        num_left -= 1
        if num_left < 0:
            raise PowerCutError
        return commit(self, *arguments, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExpertBank, "commit", dying)
        with pytest.raises(PowerCutError):
            killed.run(items, *windows_of(2))
    assert len(killed.log.subjects.read()) > killed.bank.num_edits()
    again = driver_at(tmp_path / "two")
    again.run(items, *windows_of(2))
    assert again.rows() == undisturbed.rows()
    logs = [d.log.subjects.read() for d in (again, undisturbed)]
    assert logs[0] == logs[1]


def test_another_bank_uses_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = driver_at(tmp_path)
    first.run([A, IN_OTHER_WORDS, request(1)])
    other = driver_at(tmp_path, TinyModels())  # its gate would keep both
    identity = replace(IDENTITY, generator_digest="another")
    other.bank = ExpertBank.open_or_create(other.store, "other", IDENTITY)
    assert identity != IDENTITY
    monkeypatch.setattr(subject_assigner, "_Window", None)  # nothing is left to decide
    other.run([])
    assert held(other) == held(first)


def test_edits_from_before_subjects_were_assigned_keep_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = driver_at(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(SubjectAssigner, "assign", lambda self, *batches: {})
        driver.run([A, IN_OTHER_WORDS])
    assert len(held(driver)) == 2
    again = driver_at(tmp_path)
    again.run([request(1)])
    assert len(held(again)) == 3
    last = replace(A, target="C", prompt="And this?")
    again.run([last])
    assert last.edit_id in held(again)
    assert len(held(again)) == 3, "of several that mean the same, the nearest is corrected"
    assert RequestLog(again.store).subjects_of([A.edit_id]) == {A.edit_id: A.subject_id}


def test_edits_from_before_keep_their_subjects_in_a_new_bank_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = driver_at(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(SubjectAssigner, "assign", lambda self, *batches: {})
        driver.run([A, IN_OTHER_WORDS])
    rebuilt = driver_at(tmp_path)
    rebuilt.bank = ExpertBank.open_or_create(rebuilt.store, "rebuilt", IDENTITY)
    rebuilt.run([], *windows_of(4))
    assert held(rebuilt) == held(driver)
    assert len(held(driver)) == 2
    own = {item.edit_id: item.subject_id for item in (A, IN_OTHER_WORDS)}
    assert rebuilt.log.subjects_of(list(own)) == own


def asked(sequence: int, item: EditRequest, direction: int) -> AskedEdit:
    """An edit whose image feature is one of several unit vectors."""
    feature = torch.zeros(2, 8)
    feature.view(-1)[direction] = 1.0
    prompt = torch.ones(2, 8)
    question = EditQuestion(
        visual_QM=feature, prompt_QM=prompt, threshold=0.0, own_margin=1 / (2 * 8**0.5)
    )
    return AskedEdit(
        sequence=sequence,
        edit_id=item.edit_id,
        visual_feature_QM=feature,
        prompt_feature_QM=prompt,
        question=question,
    )


def test_an_image_is_the_same_if_the_key_and_the_thumbnails_agree(tmp_path: Path) -> None:
    smooth = encoded(decode_to_smooth(), "PNG")
    as_jpeg = encoded(smooth, "JPEG", quality=60)
    log = RequestLog(ObjectStore(tmp_path))
    bank = ExpertBank.open_or_create(ObjectStore(tmp_path), "test", IDENTITY)
    first = EditRequest(image_bytes=smooth, prompt=PROMPT, target="A")
    again = EditRequest(image_bytes=as_jpeg, prompt=CALLED, target="B")
    another = EditRequest(image_bytes=image(5), prompt=CALLED, target="C")
    far = EditRequest(image_bytes=smooth, prompt="Elsewhere", target="D")
    requests = [first, again, another, far]
    log.append(requests)
    facts = GeneratorFacts(backbone_digest="", generator_digest="g", config=OPEN_GATE)
    assigner = SubjectAssigner(bank.store, bank.name, facts)
    edits = [asked(n, item, 0) for n, item in enumerate(requests, 1)]
    found = assigner.assign(edits)
    assert found[again.edit_id] == found[first.edit_id] == first.subject_id
    assert found[another.edit_id] == another.subject_id, "the key alone is not enough"
    assert found[far.edit_id] == first.subject_id
    supersedes = {item.edit_id: item.supersedes for item in log.subjects.read()}
    assert supersedes[again.edit_id] == first.edit_id
    assert supersedes[far.edit_id] == again.edit_id


def decode_to_smooth() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def test_an_edit_with_the_image_of_a_lost_request_stands_for_itself(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_assigner, "same_image", lambda asked, *_: [[0] for _ in asked])
    driver.run([A], *windows_of(1))
    for file in (Path(driver.log.table.uri) / "data").iterdir():
        file.unlink()
    repair_log(RequestLog(driver.store))
    again = driver_at(tmp_path)
    again.run([IN_OTHER_WORDS], *windows_of(1))
    assert held(again) == [A.edit_id, IN_OTHER_WORDS.edit_id]
    assert again.log.sequences_of([A.edit_id]) == []
    assert list(again.log.find([A.edit_id])) == []
