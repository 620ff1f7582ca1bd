"""Files of requests and cases: good lines come out whole, bad ones as rejects, in file order."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from liveedit_core.errors import InputError, StorageUnavailableError
from liveedit_core.inputs import datasets, images, request_parser
from liveedit_core.inputs.datasets import (
    load_cases,
    load_requests,
    validate_request,
)
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import RefusedInputError, Rejected
from liveedit_core.schema import Case, EditRequest, ProbeKind, edit_id_of

GOOD: dict[str, Any] = {"image": "red.png", "prompt": "What is this?", "target": "a rose"}


def _png(colour: str, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "red.png").write_bytes(_png("red"))
    (tmp_path / "blue.png").write_bytes(_png("blue"))
    (tmp_path / "notes.png").write_text("these are notes")
    (tmp_path / "cut.png").write_bytes(_png("green", side=64)[:90])
    (tmp_path / "album").mkdir()
    return tmp_path


def _write(folder: Path, *lines: object) -> Path:
    path = folder / "lines.jsonl"
    rows = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(rows))
    return path


def _only_reject(path: Path, load: Callable[..., Any] = load_requests, **options: Any) -> Rejected:
    (item,) = load(path, **options)
    assert isinstance(item, Rejected)
    return item


def test_a_request_comes_out_whole(folder: Path) -> None:
    (request,) = load_requests(_write(folder, GOOD | {"submitter": "ann"}))
    assert isinstance(request, EditRequest)
    assert (request.prompt, request.target, request.submitter) == ("What is this?", "a rose", "ann")
    assert request.image_bytes == _png("red")
    assert request.image_uri == (folder / "red.png").resolve().as_uri()
    assert request.edit_id == edit_id_of(_png("red"), "What is this?", "a rose")


def test_other_wordings_are_part_of_an_edit_where_they_are_given(folder: Path) -> None:
    wordings = ["Which flower is it?", "Was ist das?"]
    lines = [GOOD, GOOD | {"also_asked": []}, GOOD | {"also_asked": wordings}]
    plain, repeated, worded = load_requests(_write(folder, *lines))
    assert isinstance(plain, EditRequest)
    assert isinstance(worded, EditRequest)
    assert isinstance(repeated, Rejected)
    assert plain.also_asked == ()
    assert worded.edit_id == edit_id_of(_png("red"), "What is this?", "a rose", wordings)
    assert worded.also_asked == tuple(wordings)


def test_a_case_comes_out_whole(folder: Path) -> None:
    probes = [
        {"kind": "text_generality", "image": "red.png", "prompt": "Name it.", "target": "a rose"},
        {"kind": "modal_generality", "image": "blue.png", "prompt": "What?", "target": "a rose"},
        {"kind": "text_locality", "image": None, "prompt": "Capital of France?"},
    ]
    (case,) = load_cases(_write(folder, {"edit": GOOD, "probes": probes}))
    assert isinstance(case, Case)
    assert case.case_id == case.edit.edit_id
    assert [probe.kind for probe in case.probes] == [
        ProbeKind.TEXT_GENERALITY,
        ProbeKind.MODAL_GENERALITY,
        ProbeKind.TEXT_LOCALITY,
    ]
    assert [probe.image_bytes for probe in case.probes] == [_png("red"), _png("blue"), None]
    assert case.probes[2].target == ""


def test_a_case_names_its_entity_tags_variants_and_earlier_edits(folder: Path) -> None:
    probe = {"kind": "portability", "image": "red.png", "prompt": "Who grew it?", "target": "Ann"}
    line = {
        "edit": GOOD,
        "probes": [probe, probe | {"variant": "2 hops"}],
        "entity": "rose",
        "earlier": [GOOD | {"prompt": "Name it.", "target": "a tulip"}],
        "tags": {"domain": "photo"},
    }
    (case,) = load_cases(_write(folder, line))
    assert isinstance(case, Case)
    assert case.entity == "rose"
    assert [item.variant for item in case.probes] == ["", "2 hops"]
    assert [request.target for request in case.requests] == ["a tulip", case.edit.target]
    assert case.tags == {"domain": "photo"}


def test_a_locality_target_is_a_hint_and_may_be_longer(folder: Path) -> None:
    probe = {"kind": "text_locality", "prompt": "Why?", "target": "x" * 3_000}
    (case,) = load_cases(_write(folder, {"edit": GOOD, "probes": [probe]}))
    assert isinstance(case, Case)
    probe["target"] += "x" * 2_000
    reject = _only_reject(_write(folder, {"edit": GOOD, "probes": [probe]}), load_cases)
    assert "at most 4,000" in reject.message


def test_bad_lines_do_not_stop_the_stream(folder: Path) -> None:
    path = _write(folder, GOOD, b"{oops", b"", GOOD | {"image": "blue.png"}, b'"\xff"', GOOD)
    items = list(load_requests(path))
    assert [type(item).__name__ for item in items] == [
        "EditRequest",
        "Rejected",
        "EditRequest",
        "Rejected",
        "Rejected",
    ]
    rejects = [item for item in items if isinstance(item, Rejected)]
    assert [(reject.line_number, reject.error_type) for reject in rejects] == [
        (2, "NotJson"),
        (5, "NotUtf8"),
        (6, "Duplicate"),
    ]
    assert "line 1" in rejects[2].message
    assert rejects[2].edit_id == edit_id_of(_png("red"), "What is this?", "a rose")


@pytest.mark.parametrize(
    ("change", "error_type", "reason"),
    [
        ({"image": "none.png"}, "ImageNotFound", "none.png does not exist"),
        ({"image": "album"}, "ImageNotAFile", "is a directory"),
        ({"image": "notes.png"}, "ImageUnreadable", "not an image"),
        ({"image": "cut.png"}, "ImageUnreadable", "truncated"),
        ({"image": "http://example.org/a.png"}, "ImageUnreachable", "s3://"),
        ({"image": "s3://bucket/a.png"}, "ImageUnreachable", "no object store"),
        ({"image": 7}, "WrongType", "image must be a text, got a number"),
        ({"prompt": None}, "WrongType", "got null"),
        ({"image": "a\0.png"}, "BadText", "control character \\x00 at position 2"),
        ({"image": "file://[abc/x.png"}, "ImageUnreachable", "is no valid address"),
        ({"image": "file://host/x.png"}, "ImageUnreachable", "another host"),
        ({"image": "x" * 300 + ".png"}, "ImageUnreadable", "cannot be read"),
        ({"image": "/etc/passwd"}, "ImageOutsideRoots", "limits.image_roots"),
        ({"image": "../none.png"}, "ImageOutsideRoots", "limits.image_roots"),
        ({"target": "\0"}, "BadText", "control character \\x00"),
        ({"target": "\u200b"}, "EmptyText", "not visible"),
        ({"target": "\u3164 \ufe0f"}, "EmptyText", "not visible"),
        ({"prompt": "What is \x1b]0;owned\x07 this?"}, "BadText", "\\x1b at position 9"),
        ({"prompt": "What is \u202ethis?"}, "BadText", "\\u202e"),
        ({"also_asked": ["Which?\x9b"]}, "BadText", "also_asked[0] holds the control character"),
        ({"prompt": ""}, "EmptyText", "prompt is empty"),
        ({"target": " \n"}, "EmptyText", "target is empty"),
        ({"target": ["a"]}, "WrongType", "target must be a text, got a list"),
        ({"prompt": "x" * 2001}, "TextTooLong", "2,001 characters"),
        ({"target": "x" * 501}, "TextTooLong", "at most 500"),
        ({"target": "\ud800"}, "BadText", "half of a character pair"),
        ({"promt": "typo"}, "UnknownKey", "did you mean 'prompt'"),
        ({"also_asked": "Which?"}, "WrongType", "also_asked must be a list of texts, got a text"),
        ({"also_asked": ["Which?", " "]}, "EmptyText", "also_asked[1] is empty"),
        ({"also_asked": ["Which?", 3]}, "WrongType", "also_asked[1] must be a text"),
        ({"also_asked": ["Which?"] * 17}, "TooManyWordings", "17 wordings; at most 16"),
        ({"submitter": True}, "WrongType", "submitter must be a text, got true/false"),
    ],
)
def test_refusals_name_the_field_and_the_reason(
    folder: Path, change: dict[str, object], error_type: str, reason: str
) -> None:
    reject = _only_reject(_write(folder, GOOD | change))
    assert reject.error_type == error_type
    assert reason in reject.message
    assert reject.raw.startswith("{")


@pytest.mark.parametrize(
    ("line", "error_type", "reason"),
    [
        (b"[1, 2]", "WrongType", "got a list"),
        (b"[" * 100_000, "NotJson", "nested too deeply"),
        (b"1" * 5_000, "NotJson", "not valid JSON"),
        (b'{"image": "red.png", "image": "blue.png"}', "RepeatedKey", "'image'"),
        (b'{"image": "red.png"}', "MissingKey", "key 'prompt' is missing"),
    ],
)
def test_lines_that_are_no_request(folder: Path, line: bytes, error_type: str, reason: str) -> None:
    reject = _only_reject(_write(folder, line))
    assert reject.error_type == error_type
    assert reason in reject.message
    assert len(reject.raw) <= 500


@pytest.mark.parametrize(
    ("probe", "error_type", "reason"),
    [
        ({"kind": "locality"}, "UnknownProbeKind", "text_generality"),
        ({"kind": "reliability"}, "UnknownProbeKind", "the edit itself"),
        ({"kind": 3}, "WrongType", "probes[0].kind must be a text"),
        ({"image": None}, "MissingKey", "probes[0].image is missing"),
        ({"target": ""}, "EmptyText", "probes[0].target is empty"),
        ({"kind": "text_locality"}, "WrongType", "must be left out"),
        ({"image": "none.png"}, "ImageNotFound", "probes[0].image"),
        ({"photo": "a"}, "UnknownKey", "in probes[0]"),
        ({"variant": 2}, "WrongType", "probes[0].variant must be a text, got a number"),
        ({"hop": 2}, "UnknownKey", "it is now called 'variant'"),
    ],
)
def test_bad_probes_refuse_the_case(
    folder: Path, probe: dict[str, object], error_type: str, reason: str
) -> None:
    good = {"kind": "text_generality", "image": "red.png", "prompt": "Name?", "target": "a rose"}
    reject = _only_reject(_write(folder, {"edit": GOOD, "probes": [good | probe]}), load_cases)
    assert reject.error_type == error_type
    assert reason in reject.message


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ({"probes": []}, "'edit' is missing"),
        ({"edit": "red.png"}, "edit must be an object"),
        ({"edit": GOOD, "probes": {}}, "probes must be a list"),
        ({"edit": GOOD, "probes": ["x"]}, "probes[0] must be an object, got a text"),
        ({"edit": GOOD | {"target": ""}}, "edit.target is empty"),
        (GOOD, "unknown key 'image' in a case"),
        ({"edit": GOOD, "probes": [{}] * 257}, "257 probes"),
        ({"edit": GOOD, "entity": 3}, "entity must be a text"),
        (
            {"edit": GOOD, "thing": "rose"},
            "unknown key 'thing' in a case; it is now called 'entity'",
        ),
        ({"edit": GOOD | {"thing": "rose"}}, "unknown key 'thing' in edit; known keys"),
    ],
)
def test_cases_of_another_shape(folder: Path, case: dict[str, object], reason: str) -> None:
    assert reason in _only_reject(_write(folder, case), load_cases).message


def test_an_over_long_line_is_skipped_whole(folder: Path) -> None:
    long = json.dumps(GOOD | {"prompt": "x" * 200_000}).encode()
    items = list(load_requests(_write(folder, long, GOOD), limits=InputLimits(max_line_bytes=999)))
    assert isinstance(items[0], Rejected)
    assert (items[0].error_type, items[0].line_number) == ("LineTooLong", 1)
    assert isinstance(items[1], EditRequest)
    assert len(items) == 2


def test_a_line_of_exactly_the_limit_is_read(folder: Path) -> None:
    line = json.dumps(GOOD).encode()
    limits = InputLimits(max_line_bytes=len(line))
    path = folder / "exact.jsonl"
    path.write_bytes(b"\xef\xbb\xbf".join([b"", line]) + b"\r\n" + line.replace(b"rose", b"lily"))
    first, second = load_requests(path, limits=InputLimits(max_line_bytes=len(line) + 3))
    assert isinstance(first, EditRequest)
    assert isinstance(second, EditRequest)
    path.write_bytes(line + b"\n")
    assert isinstance(next(load_requests(path, limits=limits)), EditRequest)


def test_too_many_bytes_or_pixels(folder: Path) -> None:
    path = _write(folder, GOOD)
    for limits in (InputLimits(max_image_bytes=20), InputLimits(max_image_pixels=63)):
        assert _only_reject(path, limits=limits).error_type == "ImageTooLarge"


@pytest.mark.parametrize(
    "limits", [InputLimits(max_image_bytes=100), InputLimits(max_image_pixels=64)]
)
def test_images_of_a_case_that_are_too_large_together_refuse_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limits: InputLimits
) -> None:
    probe = {"kind": "image_swap_locality", "image": "blue.png", "prompt": "What?"}
    path = _write(folder, {"edit": GOOD, "probes": [probe]}, {"edit": GOOD})
    monkeypatch.setattr(request_parser, "MAX_LARGE_IMAGES", 1)
    reject, case = load_cases(path, limits=limits)
    assert isinstance(reject, Rejected)
    assert reject.error_type == "ImageTooLarge"
    assert "together" in reject.message
    assert isinstance(case, Case)


def test_uris_go_through_the_callers_store(folder: Path) -> None:
    def fetch(uri: str) -> bytes:
        if uri != "s3://bucket/rose.png":
            raise PermissionError("the store does not let us")
        return _png("red")

    path = _write(
        folder, GOOD | {"image": "s3://bucket/rose.png"}, GOOD | {"image": "s3://bucket/gone.png"}
    )
    request, reject = load_requests(path, fetch=fetch, store_uri="s3://bucket")
    assert isinstance(request, EditRequest)
    assert request.image_uri == "s3://bucket/rose.png"
    assert isinstance(reject, Rejected)
    assert reject.error_type == "ImageUnreachable"
    assert "the store does not let us" in reject.message


def test_an_outage_of_the_images_store_refuses_nothing(folder: Path) -> None:
    def fetch(uri: str) -> bytes:
        raise StorageUnavailableError("no answer from the store")

    path = _write(folder, GOOD | {"image": "s3://bucket/rose.png"})
    with pytest.raises(StorageUnavailableError, match="no answer"):
        next(load_requests(path, fetch=fetch, store_uri="s3://bucket"))


def test_images_may_lie_elsewhere_than_the_file(folder: Path, tmp_path: Path) -> None:
    path = _write(tmp_path / "album", GOOD | {"image": "red.png"})
    (here,) = load_requests(path, images_at=folder)
    (there,) = load_requests(path, fetch=lambda uri: _png("blue"), images_at="s3://bucket/inbox")
    assert isinstance(here, EditRequest)
    assert here.image_bytes == _png("red")
    assert isinstance(there, EditRequest)
    assert (there.image_bytes, there.image_uri) == (_png("blue"), "s3://bucket/inbox/red.png")


def test_refused_credentials_end_the_reading(folder: Path) -> None:
    class RefusedError(InputError):
        ends_job = True

    def fetch(uri: str) -> bytes:
        raise RefusedError("the key is not known")

    path = _write(folder, GOOD | {"image": "s3://bucket/rose.png"})
    with pytest.raises(RefusedError):
        next(load_requests(path, fetch=fetch, store_uri="s3://bucket"))


def test_an_exception_of_one_line_is_its_refusal_and_one_of_all_ends_the_reading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, path = images.decode_image, _write(folder, GOOD, GOOD | {"image": "blue.png"})

    def fails_on_red(image_bytes: bytes, **options: Any) -> Image.Image:
        if image_bytes == _png("red"):
            raise ZeroDivisionError("red is too much")
        return decode(image_bytes, **options)

    monkeypatch.setattr(request_parser, "decode_image", fails_on_red)
    reject, request = load_requests(path)
    assert isinstance(reject, Rejected)
    assert (reject.error_type, reject.message) == ("ZeroDivisionError", "red is too much")
    assert isinstance(request, EditRequest)

    def fails(image_bytes: bytes, **options: Any) -> Image.Image:
        raise ZeroDivisionError("the decoder is broken")

    for module in (request_parser, datasets):
        monkeypatch.setattr(module, "decode_image", fails)
    with pytest.raises(ZeroDivisionError, match="broken"):
        next(load_requests(path))


def test_a_missing_file_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a file"):
        load_requests(tmp_path / "none.jsonl")


def test_a_request_from_elsewhere_is_checked_likewise() -> None:
    validate_request(EditRequest(image_bytes=_png("red"), prompt="What?", target="a rose"))
    with pytest.raises(RefusedInputError, match="target is empty"):
        validate_request(EditRequest(image_bytes=_png("red"), prompt="What?", target=""))
    with pytest.raises(RefusedInputError, match="not an image"):
        validate_request(EditRequest(image_bytes=b"text", prompt="What?", target="a rose"))


def test_a_refusal_survives_pickling() -> None:
    with pytest.raises(RefusedInputError) as caught:
        validate_request(EditRequest(image_bytes=b"text", prompt="What?", target="a rose"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.message, copy.error_type) == (caught.value.message, caught.value.error_type)


def test_repeated_lines_of_the_newest_images_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "_REMEMBERED_IMAGES", 1)
    red, blue = GOOD, GOOD | {"image": "blue.png"}
    found = list(load_requests(_write(folder, red, red, red, blue, red)))
    messages = [item.message if isinstance(item, Rejected) else "" for item in found]
    repeated = "same image, prompt and target as line 1; it is taught once"
    assert messages == ["", repeated, repeated, "", ""]
