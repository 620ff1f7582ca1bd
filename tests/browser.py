"""A real headless browser, driven over Chromium's own pipe: no driver package, no open port."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless",
    "--no-sandbox",  # root has none, and pages of ours are all it opens
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-pipe",
)

Message = dict[str, Any]


def find_browser() -> str | None:
    """Path of a Chromium-like browser, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Visit:
    """What happened while a page was open."""

    problems: list[str] = field(default_factory=list)
    """Errors and warnings of the console, uncaught exceptions, refused loads."""
    requests: list[str] = field(default_factory=list)
    """Everything that was asked for, the page itself and data in it included."""


class Browser:
    """One tab of a browser that was started for it."""

    def __init__(self, to_browser: IO[bytes], from_browser: IO[bytes]) -> None:
        """Open a tab.

        Args:
            to_browser: Takes commands, each ended by a zero byte.
            from_browser: Gives answers and events in the same form.
        """
        self._to_browser = to_browser
        self._from_browser = from_browser
        self._last_id = 0
        self._session = ""
        self._visit = Visit()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    @classmethod
    @contextmanager
    def started(cls, path: str, folder: Path) -> Iterator[Self]:
        """Start a browser with an empty profile in a folder, and end it afterwards."""
        to_child, to_browser = os.pipe()
        from_browser, from_child = os.pipe()
        # The browser listens on descriptor 3 and speaks on 4; sh would take no number above 9.
        command = ["bash", "-c", f'exec "$@" 3<&{to_child} 4>&{from_child}', "-", path, *OPTIONS]
        with (folder / "browser.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, f"--user-data-dir={folder / 'profile'}"],
                pass_fds=(to_child, from_child),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        os.close(to_child)
        os.close(from_child)
        try:
            with os.fdopen(to_browser, "wb") as writer, os.fdopen(from_browser, "rb") as reader:
                yield cls(writer, reader)
        finally:
            process.kill()
            process.wait()

    def open(self, page: Path, *, width: int = 1240, height: int = 900) -> Visit:
        """Open a file and wait until it is loaded and its images are decoded."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self._visit = Visit()
        self._call("Page.navigate", url=page.as_uri())
        while self._receive().get("method") != "Page.loadEventFired":
            pass
        self.evaluate(
            "Promise.all([...document.images].map(image => image.decode().catch(() => 0)))"
        )
        return self._visit

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is waited for."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> Message:
        self._last_id += 1
        message: Message = {"id": self._last_id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._to_browser.write(json.dumps(message).encode() + b"\0")
        self._to_browser.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self._last_id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: Message = answer["result"]
                return result

    def _receive(self) -> Message:
        """The next message; events are noted on the way."""
        parts = bytearray()
        while (byte := self._from_browser.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser ended; see browser.log")
            parts += byte
        message: Message = json.loads(parts)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, parameters: Message) -> None:
        if method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self._visit.problems.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self._visit.problems.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self._visit.problems.append(str(parameters["args"]))
        elif method == "Network.requestWillBeSent":
            self._visit.requests.append(parameters["request"]["url"])
