"""A file names images of its own folder, the store and the named roots, and no others."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from liveedit_core.inputs.datasets import load_requests
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.inputs.rejects import Rejected
from liveedit_core.schema import EditRequest

GOOD: dict[str, Any] = {"image": "blue.png", "prompt": "What is this?", "target": "a rose"}


def _png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "blue.png").write_bytes(_png("blue"))
    (tmp_path / "album").mkdir()
    return tmp_path


def _write(folder: Path, *lines: object) -> Path:
    path = folder / "lines.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def _only_reject(path: Path, **options: Any) -> Rejected:
    (item,) = load_requests(path, **options)
    assert isinstance(item, Rejected)
    return item


@pytest.mark.parametrize("name", ["blue.png", "album/../blue.png", "{folder}/blue.png", "{uri}"])
def test_an_image_has_one_uri_however_it_is_named(folder: Path, name: str) -> None:
    name = name.format(folder=folder, uri=(folder / "blue.png").as_uri())
    (request,) = load_requests(_write(folder, GOOD | {"image": name}))
    assert isinstance(request, EditRequest)
    assert request.image_bytes == _png("blue")
    assert request.image_uri == (folder / "blue.png").resolve().as_uri()


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "green.png").write_bytes(_png("green"))
    return place


def test_images_outside_the_roots_are_refused_whether_they_exist_or_not(
    folder: Path, elsewhere: Path
) -> None:
    places = [str(elsewhere / "green.png"), (elsewhere / "none.png").as_uri(), str(elsewhere)]
    path = _write(folder, *(GOOD | {"image": place} for place in places))
    refused: list[Any] = list(load_requests(path))
    assert {item.error_type for item in refused} == {"ImageOutsideRoots"}
    assert len({item.message.partition(": ")[2] for item in refused}) == 1
    for option in (
        {"limits": InputLimits(image_roots=(str(elsewhere),))},
        {"store_uri": str(elsewhere)},
    ):
        first, second, third = load_requests(path, **option)
        assert isinstance(first, EditRequest)
        assert isinstance(second, Rejected)
        assert isinstance(third, Rejected)
        assert second.error_type == "ImageNotFound"


def test_links_are_not_followed(folder: Path, elsewhere: Path) -> None:
    (folder / "link.png").symlink_to(elsewhere / "green.png")
    (folder / "images").symlink_to(elsewhere)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    for name in ("link.png", "images/green.png", "loop.png"):
        reject = _only_reject(_write(folder, GOOD | {"image": name}))
        assert reject.error_type == "ImageNotAFile"
        assert "links are not followed" in reject.message
    (elsewhere / "file").symlink_to(folder)  # the folder of the file itself may be one
    (request,) = load_requests(elsewhere / "file" / _write(folder, GOOD).name)
    assert isinstance(request, EditRequest)


@pytest.mark.parametrize("key", ["rose.png", "other/a.png", "images/../a.png", "images//a.png"])
def test_only_the_store_and_the_roots_are_read_from_s3(folder: Path, key: str) -> None:
    limits = InputLimits(image_roots=("s3://bucket/images",))
    path = _write(folder, GOOD | {"image": f"s3://bucket/{key}"})
    reject = _only_reject(path, fetch=lambda uri: _png("red"), limits=limits)
    assert reject.error_type == "ImageOutsideRoots"
    path = _write(folder, GOOD | {"image": "s3://bucket/images/a.png"})
    (request,) = load_requests(path, fetch=lambda uri: _png("red"), limits=limits)
    assert isinstance(request, EditRequest)
