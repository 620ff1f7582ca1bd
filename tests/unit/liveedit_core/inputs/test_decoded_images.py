"""An image is decoded once: by all calls of a process, and an expensive one by all of a node."""

import io
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from PIL import Image

from liveedit_core.inputs import decoded_images, images
from liveedit_core.inputs.datasets import load_requests
from liveedit_core.inputs.decoded_images import ImagesInMemory, ImagesOnDisk
from liveedit_core.inputs.decoders import DECODERS
from liveedit_core.inputs.images import decode_image
from liveedit_core.inputs.rejects import RefusedInputError, Rejected, RejectType


def noise(side: int = 24) -> Image.Image:
    return Image.effect_noise((side, side), 90).convert("RGB")


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every image is expensive, none is remembered, and the cache is empty."""
    monkeypatch.setattr(images, "_EXPENSIVE_S", 0.0)
    monkeypatch.setattr(images, "_MEMORY", ImagesInMemory(max_bytes=0))
    monkeypatch.setenv("LIVEEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def num_decoded(image_bytes: bytes, expected: Image.Image) -> int:
    with patch.object(DECODERS, "decoded", wraps=DECODERS.decoded) as decoder:
        assert decode_image(image_bytes).tobytes() == expected.tobytes()
    return decoder.call_count


def test_an_expensive_image_is_decoded_once_by_all_processes(folder: Path) -> None:
    image = noise()
    assert [num_decoded(encoded(image), image) for _ in range(2)] == [1, 0]
    code = (
        "import sys; from liveedit_core.inputs import decoders, images; "
        "decoders.Decoders.decoded = None; "  # it cannot be decoded there
        "sys.stdout.buffer.write(images.decode_image(sys.stdin.buffer.read()).tobytes())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=encoded(image), capture_output=True, check=True)
    assert done.stdout == image.tobytes()
    (file,) = folder.iterdir()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, file)]
    assert modes == [0o700, 0o600]


def test_other_images_are_kept_in_memory_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_EXPENSIVE_S", 60.0)
    monkeypatch.setattr(images, "_MEMORY", ImagesInMemory(max_bytes=100_000))
    image = noise()
    assert [num_decoded(encoded(image), image) for _ in range(2)] == [1, 0]
    assert not folder.exists()


def test_its_limit_of_pixels_holds_for_an_image_from_disk() -> None:
    data = encoded(noise(24))
    decode_image(data)
    with pytest.raises(RefusedInputError, match="24 x 24 pixels"):
        decode_image(data, max_pixels=24 * 24 - 1)


@pytest.mark.parametrize("damage", [b"", b"\0" * 11, b"\0" * 5_000, b"\xff" * 5_000, "cut", "bit"])
def test_what_is_damaged_on_disk_is_decoded_again(folder: Path, damage: bytes | str) -> None:
    image = noise()
    decode_image(encoded(image))
    (file,) = folder.iterdir()
    content = file.read_bytes()
    altered = bytes([*content[:-1], content[-1] ^ 1])
    made = {"cut": content[:-1], "bit": altered}
    file.write_bytes(damage if isinstance(damage, bytes) else made[damage])
    assert [num_decoded(encoded(image), image) for _ in range(2)] == [1, 0]


def test_a_disk_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    image = noise()
    assert [num_decoded(encoded(image), image) for _ in range(2)] == [1, 1]
    with patch.object(Path, "replace", side_effect=OSError(28, "No space left on device")):
        (tmp_path / "cache").unlink()
        assert num_decoded(encoded(image), image) == 1
    assert list((tmp_path / "cache" / "decoded").iterdir()) == []


def test_a_user_without_a_home_folder_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIVEEDIT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    image = noise()
    assert [num_decoded(encoded(image), image) for _ in range(2)] == [1, 1]


def test_another_decoder_decodes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise()
    decode_image(encoded(image))
    monkeypatch.setattr(decoded_images, "_decoder", lambda: "another release")
    assert num_decoded(encoded(image), image) == 1


def test_the_disk_is_bounded_and_forgets(tmp_path: Path) -> None:
    size = 3 * 24 * 24 + 12
    disk = ImagesOnDisk(max_bytes=3 * size, max_age_s=3600, cache_dir=lambda: tmp_path)
    folder = tmp_path / "decoded"
    for number in range(6):
        disk.put(str(number), noise())
        for file in folder.iterdir():  # each is older than the next
            os.utime(file, (0, file.stat().st_mtime - 10))
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 3 * size
    assert [disk.get(str(number)) is not None for number in range(6)] == 3 * [False] + 3 * [True]
    (folder / ".left-by-a-killed-process").write_bytes(b"half")
    for file in folder.iterdir():
        os.utime(file, (0, time.time() - 4000))
    disk.put("new", noise())
    assert disk.get("new") is not None
    assert len(list(folder.iterdir())) == 1


def test_memory_is_bounded() -> None:
    remembered = ImagesInMemory(max_bytes=1_000)
    for number in range(100):
        remembered.put(str(number), Image.new("RGB", (8, 8)))
        remembered.put(str(number), Image.new("RGB", (8, 8)))
    assert remembered.get("99") is not None
    assert remembered.get("90") is None
    assert remembered._num_bytes == 3 * 4 * 64
    remembered.put("large", Image.new("RGB", (80, 80)))
    assert remembered.get("large") is None


def test_many_lines_that_name_one_bad_image_cost_one_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = ImagesInMemory(max_bytes=10_000)
    monkeypatch.setattr(images, "_MEMORY", memory)
    (tmp_path / "bad.png").write_bytes(encoded(noise())[:-30])
    line = {"image": "bad.png", "target": "a thing"}
    lines = [json.dumps(line | {"prompt": f"What is {number}?"}) for number in range(20)]
    (tmp_path / "facts.jsonl").write_text("\n".join(lines))
    with patch.object(DECODERS, "decoded", wraps=DECODERS.decoded) as decoder:
        refused = list(load_requests(tmp_path / "facts.jsonl"))
    kinds = [item.error_type for item in refused if isinstance(item, Rejected)]
    assert kinds == 20 * [RejectType.IMAGE_UNREADABLE]
    assert decoder.call_count == 1
    with patch.object(time, "monotonic", lambda: 1e12):  # its reason may have passed
        assert memory.get(next(iter(memory._found))) is None
