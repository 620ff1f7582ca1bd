"""What runs in the actors of the pool tests; it imports little, as each actor is a new process."""

import os
import signal
import time
from pathlib import Path

from liveedit_core.errors import InputError


class Worker:
    """Does what a test asks, and dies when it asks for that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def double(self, number: int) -> int:
        return 2 * number

    def wait_for(self, name: str) -> str:
        while name and not (self._folder / name).exists():
            time.sleep(0.05)
        return name

    def halves(self, number: int) -> tuple[int, bytes]:
        return number, bytes([number]) * 200_000

    def sized(self, num_bytes: int) -> tuple[int, bytes]:
        return num_bytes, bytes(1000)

    def size(self, data: bytes) -> tuple[int, int]:
        return len(data), data[0]

    def die_once(self, number: int) -> int:
        mark = self._folder / f"died-{number}"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    def die(self) -> None:
        (self._folder / f"died-{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def refuse(self) -> None:
        raise InputError("prompt is empty")
