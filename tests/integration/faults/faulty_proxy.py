"""A proxy before an S3 server that answers a share of the requests badly, as busy services do.

The signature of a request covers its Host header, so requests pass through it byte by byte.
"""

import contextlib
import http.client
import http.server
import random
import threading
from collections import Counter
from dataclasses import dataclass, fields
from urllib.parse import urlsplit

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade"})


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Of all requests."""

    slow_down: float = 0.0
    """503, not passed on."""
    internal_error: float = 0.0
    """500, not passed on."""
    lost_answer: float = 0.0
    """Passed on and done, but the answer never comes: the worst there is."""
    stall: float = 0.0
    """Taken, not passed on, and never answered: the client must give up by itself."""
    late_answer: float = 0.0
    """Passed on and done; when the answer would come, the client has given up."""
    done_but_error: float = 0.0
    """Passed on and done, answered with 500."""
    cut_answer: float = 0.0
    """Passed on and done; the connection ends in the middle of the answer."""
    cut_request: float = 0.0
    """Not passed on: the connection ends in the middle of the request."""


_FAULTS = tuple(field.name for field in fields(Shares))
_MAX_HOLD_S = 120.0
"""A client that waits longer for an answer is at fault; its connection is broken."""


class FaultyProxy:
    """Listens on a port of its own until `close`."""

    def __init__(self, upstream: str, shares: Shares, *, seed: int = 0) -> None:
        self._upstream = urlsplit(upstream).netloc
        self.shares = shares
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        self.injected: Counter[str] = Counter()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def num_faults(self) -> int:
        return sum(count for name, count in self.injected.items() if name)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault_of(self, method: str, path: str) -> str:
        """What this request gets; by default any may get any."""
        return self.fault()

    def fault(self) -> str:
        """What the next request gets; "" for a true answer."""
        with self._lock:
            number = self._draw.random()
            name = ""
            for candidate in _FAULTS:
                share = getattr(self.shares, candidate)
                if number < share:
                    name = candidate
                    break
                number -= share
            self.injected[name] += 1
            return name

    def ask(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the server really says."""
        connection = http.client.HTTPConnection(self._upstream, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: FaultyProxy

    def _handle(self) -> None:
        num_bytes = int(self.headers.get("Content-Length", 0))
        fault = self.owner.fault_of(self.command, self.path)
        if fault == "cut_request":
            self.close_connection = True
            self.rfile.read(num_bytes // 2)
            return
        body = self.rfile.read(num_bytes)
        if fault == "slow_down":
            self._refuse(503, "SlowDown")
            return
        if fault == "internal_error":
            self._refuse(500, "InternalError")
            return
        if fault == "stall":
            self._hold()
            return
        headers = [
            (name, value)
            for name, value in self.headers.items()
            if name.lower() not in _HOP_BY_HOP and name.lower() != "expect"
        ]
        try:
            status, answer_headers, content = self.owner.ask(self.command, self.path, headers, body)
        except OSError:
            self._refuse(503, "ServiceUnavailable")
            return
        if fault == "lost_answer":
            self.close_connection = True
            return
        if fault == "late_answer":
            self._hold()
            return
        if fault == "done_but_error":
            self._refuse(500, "InternalError")
            return
        if fault == "cut_answer":
            self.close_connection = True
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(content) + 16))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            return
        self.send_response_only(status)
        is_sized = False
        for name, value in answer_headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
                is_sized = is_sized or name.lower() == "content-length"
        if not is_sized:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):  # a client that gave up meanwhile
                self.wfile.write(content)

    def _hold(self) -> None:
        """Say nothing until the client hangs up."""
        self.close_connection = True
        self.connection.settimeout(_MAX_HOLD_S)
        with contextlib.suppress(OSError):
            self.connection.recv(1)

    def _refuse(self, status: int, code: str) -> None:
        content = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle
