"""Images are decoded in another process: what a file does to it is the refusal of that file."""

import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from liveedit_core.inputs import decoders
from liveedit_core.inputs.datasets import check_known_good, load_requests
from liveedit_core.inputs.decoders import Decoders, NoDecoderError
from liveedit_core.inputs.rejects import RefusedInputError, Rejected, RejectType

_MAX_PIXELS = 1_000_000


def _png(colour: str = "red", side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pool() -> Iterator[Decoders]:
    pool = Decoders()
    yield pool
    pool.close()


def _altered(code: str) -> str:
    """The code of a process that first does something else."""
    return decoders._CODE.replace("decoding.main()", f"{code}; decoding.main()")


def _refusal(pool: Decoders, image_bytes: bytes) -> RefusedInputError:
    with pytest.raises(RefusedInputError) as caught:
        pool.decoded(image_bytes, _MAX_PIXELS)
    return caught.value


def test_a_process_decodes_one_image_after_another(pool: Decoders) -> None:
    assert pool.decoded(_png("red"), _MAX_PIXELS).image.getpixel((3, 3)) == (255, 0, 0)
    (process,) = pool._idle
    assert process.pid != os.getpid()
    assert "damaged" in _refusal(pool, _png()[:45]).message
    assert pool.decoded(_png("blue", 700), _MAX_PIXELS).image.getpixel((699, 699)) == (0, 0, 255)
    assert pool._idle == [process]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_file_that_crashes_its_decoder_is_refused(
    pool: Decoders, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    with monkeypatch.context() as patch:
        crash = (
            "import os; good = decoding.decoded; decoding.decoded = lambda data, most: good(data, "
            f"most) if data[:2] == b'BM' else os.kill(os.getpid(), {int(number)})"
        )
        patch.setattr(decoders, "_CODE", _altered(crash))
        refusal = _refusal(pool, _png())
    pool.close()
    assert refusal.error_type is RejectType.IMAGE_UNREADABLE
    assert "ends its decoder" in refusal.message
    assert pool.decoded(_png(), _MAX_PIXELS).image.size == (8, 8)


def test_a_file_that_takes_too_long_is_refused(
    pool: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "decoding.MAX_CPU_S = 0; decoding.decoded = lambda *_: [0 for _ in iter(int, 1)]"
    monkeypatch.setattr(decoders, "_CODE", _altered(endless))
    refusal = _refusal(pool, _png())
    assert refusal.error_type is RejectType.IMAGE_TOO_LARGE
    assert "takes more than" in refusal.message


def test_a_file_that_needs_too_much_memory_is_refused(
    pool: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = "decoding._BYTES_PER_PIXEL = 0; decoding._OTHER_BYTES = 1 << 26"
    monkeypatch.setattr(decoders, "_CODE", _altered(little))
    with pytest.raises(RefusedInputError, match="bytes to be decoded") as caught:
        pool.decoded(_png(side=5_000), 40_000_000)
    assert caught.value.error_type is RejectType.IMAGE_TOO_LARGE
    (process,) = pool._idle  # it lives on
    assert process.poll() is None


def test_the_limit_of_memory_is_enough_for_the_largest_images() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (2_000, 2_000), (0, 0, 0, 128)).save(buffer, "PNG")
    pool = Decoders()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoders, "_CODE", _altered("decoding._OTHER_BYTES = 1 << 27"))
            image = pool.decoded(buffer.getvalue(), 4_000_000).image
    finally:
        pool.close()
    assert image.getpixel((1_999, 1_999)) == (127, 127, 127)


def test_signals_to_the_whole_group_and_dead_processes_refuse_no_image(pool: Decoders) -> None:
    pool.decoded(_png(), _MAX_PIXELS)
    (process,) = pool._idle
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    pool.decoded(_png("blue"), _MAX_PIXELS)
    assert pool._idle == [process]
    process.kill()
    process.wait()
    assert pool.decoded(_png("green"), _MAX_PIXELS).image.size == (8, 8)
    assert pool._idle != [process]


def test_where_no_decoder_works_no_image_is_at_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new.png").write_bytes(_png("#102030"))
    lines = tmp_path / "facts.jsonl"
    lines.write_text('{"image": "new.png", "prompt": "What is this?", "target": "a thing"}\n')
    check_known_good()  # its image is remembered from now on
    decoders.DECODERS.close()
    with monkeypatch.context() as patch:
        patch.setattr(decoders, "_CODE", "raise SystemExit(3)")
        with pytest.raises(NoDecoderError, match="ended with code 3"):
            list(load_requests(lines))
    assert not any(isinstance(item, Rejected) for item in load_requests(lines))


def test_threads_decode_at_once_and_few_processes_stay(pool: Decoders) -> None:
    found: list[tuple[int, int]] = []

    def decode(number: int) -> None:
        found.append(pool.decoded(_png("red", number + 1), _MAX_PIXELS).image.size)

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [(side, side) for side in range(1, 7)]
    assert 1 <= len(pool._idle) <= 2


def test_the_process_has_no_secrets(pool: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    pool.decoded(_png(), _MAX_PIXELS)
    (process,) = pool._idle
    assert b"do-not-tell" not in Path(f"/proc/{process.pid}/environ").read_bytes()
