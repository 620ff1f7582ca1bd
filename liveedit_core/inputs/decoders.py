"""Processes that decode images (`decoding.py`): started when needed, used again, replaced when one
dies."""

import atexit
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from liveedit_core.errors import LiveEditError
from liveedit_core.inputs.decoding import HEADER, MAX_CPU_S, unreadable
from liveedit_core.inputs.rejects import RefusedInputError, RejectType

_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}
_TRIES = 3
"""Of processes that somebody else ended."""
_MAX_IDLE = 2
_GOOD = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 58, 0, 0, 54, 40, 1, 1, 1, 24, *[0] * 6) + bytes(4)
"""A black pixel."""
_PIPE_BYTES = 1 << 20
"""Most images fit, so that neither side waits for the other."""
_CODE = (
    "import sys; sys.path[:] = sys.argv[1:]; from liveedit_core.inputs import decoding; "
    "decoding.main()"
)


class NoDecoderError(LiveEditError):
    """No image can be decoded: it is not the fault of one."""

    ends_job = True


class Decoded(NamedTuple):
    image: Image.Image
    """RGB."""
    cpu_s: float
    """What it took."""


class Decoders:
    """At most one image at a time in each process; threads get one each."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def decoded(self, image_bytes: bytes, max_pixels: int) -> Decoded:
        """The image. RefusedInputError for one that is bad, too large, takes too long or
        ends its decoder; NoDecoderError where a good one does so too."""
        for _ in range(_TRIES):
            with self._process() as process:
                try:
                    return _answer(process, image_bytes, max_pixels)
                except (BrokenPipeError, EOFError):
                    code = process.wait()
            if code == -signal.SIGXCPU:
                raise RefusedInputError(
                    f"the image takes more than {MAX_CPU_S} s to be decoded: save it anew",
                    RejectType.IMAGE_TOO_LARGE,
                )
            if -code in _CRASHES:
                break
        if image_bytes == _GOOD:
            raise NoDecoderError(
                f"no process that decodes images works here; the last ended with code {code}"
            )
        self.decoded(_GOOD, max_pixels)
        raise unreadable(f"the image is damaged: it ends its decoder (code {code}); save it anew")

    @contextlib.contextmanager
    def _process(self) -> Iterator[subprocess.Popen[bytes]]:
        """An idle process, or a new one. It is kept unless it ended or its work was cut short."""
        with self._lock:
            process = self._idle.pop() if self._idle else None
        if process is None:
            process = _started()
        is_usable = False
        try:
            yield process
            is_usable = process.poll() is None
        except RefusedInputError:
            is_usable = True
            raise
        finally:
            with self._lock:
                if is_usable and len(self._idle) < _MAX_IDLE:
                    self._idle.append(process)
                    process = None
            if process is not None:
                _end(process)

    def close(self) -> None:
        """End all; the next image starts another one."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            _end(process)

    def forget(self) -> None:
        """After a fork: the processes are those of the parent."""
        self.__init__()  # type: ignore[misc]


def _started() -> subprocess.Popen[bytes]:
    # A decoder needs no credentials of the environment.
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=kept,
        pipesize=_PIPE_BYTES,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(BrokenPipeError), process:
        process.communicate()


def _answer(process: subprocess.Popen[bytes], image_bytes: bytes, max_pixels: int) -> Decoded:
    requests, answers = process.stdin, process.stdout
    assert requests is not None
    assert answers is not None
    requests.write(HEADER.pack(len(image_bytes), max_pixels))
    requests.write(image_bytes)
    requests.flush()
    line = answers.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer = json.loads(line)
    if "size" not in answer:
        raise RefusedInputError(answer["message"], RejectType(answer["error_type"]))
    width, height = answer["size"]
    pixels = answers.read(3 * width * height)
    if len(pixels) < 3 * width * height:
        raise EOFError
    return Decoded(Image.frombytes("RGB", (width, height), pixels), answer["cpu_s"])


DECODERS = Decoders()
atexit.register(DECODERS.close)
os.register_at_fork(after_in_child=DECODERS.forget)
