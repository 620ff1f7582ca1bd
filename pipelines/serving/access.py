"""The gate before every path: keys, origin, size and time limits, security headers (plain ASGI).

Keys are in the environment: LIVEEDIT_API_KEY reads, LIVEEDIT_EDIT_KEY also changes knowledge. With
neither, only loopback is served, and only to pages and programs of this machine.
"""

import asyncio
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from liveedit_core.errors import ConfigError
from pipelines.serving.errors import error_response
from pipelines.serving.recipe import LOOPBACK, ServeRecipe

READ_KEY = "LIVEEDIT_API_KEY"
EDIT_KEY = "LIVEEDIT_EDIT_KEY"
OPEN_PATHS = frozenset({"/", "/page.css", "/page.js", "/favicon.ico", "/health", "/ready"})
"""Tell nothing of what was taught: the page's files are those of the repository."""
MAX_MARKS = 50_000
"""Commas and opening brackets of a body. Images have none, in base64; each value of a JSON text has
one, and a wrong one costs up to a kilobyte and ten microseconds to be refused."""
_LARGEST_AT_ONCE = 8
"""Bodies of the largest size that are held in memory; beyond, a request has its share of that."""
READ_BY_POST = frozenset({"/v1/chat/completions", "/v1/edits/search"})
HEADERS = (
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
            b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The keys of the environment; "" where there is none."""

    read: str = ""
    edit: str = ""

    @classmethod
    def of_environment(cls) -> "Keys":
        return cls(read=os.environ.get(READ_KEY, ""), edit=os.environ.get(EDIT_KEY, ""))

    def check_host(self, recipe: ServeRecipe) -> None:
        """ConfigError for an address that others reach without both keys."""
        if not recipe.is_loopback and not (self.read and self.edit):
            raise ConfigError(
                f"host: {recipe.host} can be reached from outside: set {READ_KEY} and {EDIT_KEY} "
                "in the environment, or serve 127.0.0.1"
            )

    def refusal(self, key: str, *, is_change: bool) -> tuple[int, str]:
        """Status and reason for a request with this key; 0 if it may pass."""
        if not (self.read or self.edit):
            return 0, ""
        is_editor, is_reader = _is_equal(key, self.edit), _is_equal(key, self.read)
        if is_editor or (is_reader and not is_change) or (not self.read and not is_change):
            return 0, ""
        if is_reader:
            return 403, f"this key reads; changing knowledge needs the key of {EDIT_KEY}"
        return 401, "send a valid key: Authorization: Bearer KEY"


def _is_equal(given: str, expected: str) -> bool:
    is_same = hmac.compare_digest(given.encode(), expected.encode())
    return is_same and bool(expected)


class Gate:
    """Refuses what must not reach the app."""

    def __init__(
        self, app: ASGIApp, recipe: ServeRecipe, keys: Keys, count: Callable[[Scope, int], None]
    ) -> None:
        self._app = app
        self._count = count
        self._limits = recipe.http
        self._keys = keys
        self._num_open = 0
        self._num_bytes = 0
        """Of bodies in memory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                added = [pair for pair in HEADERS if pair[0] not in own]
                message["headers"] = [*message["headers"], *added]
                self._count(scope, message["status"])
            await send(message)

        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        status, reason = self._refusal(scope, headers)
        if status:
            await error_response(status, reason)(scope, receive, send_safely)
            return
        self._num_open += 1
        num_bytes = 0
        try:
            body = await self._body(headers, receive)
            if isinstance(body, bytes):
                num_bytes = len(body)
                self._num_bytes += num_bytes
                await self._app(scope, _replayed(body, receive), send_safely)
            else:
                await error_response(*body)(scope, receive, send_safely)
        finally:
            self._num_open -= 1
            self._num_bytes -= num_bytes

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> tuple[int, str]:
        path, method = scope["path"], scope["method"]
        if path in ("/health", "/ready") and method == "GET":
            return 0, ""
        if self._num_open >= self._limits.max_connections:
            return 429, f"{self._num_open:,} requests are open; try again"
        if not self._keys.read and not _is_of_this_machine(headers):
            return 403, (
                f"without {READ_KEY} this server answers programs and its own page on this machine "
                "only: the Host header must be a loopback name, and Origin its own"
            )
        if path in OPEN_PATHS and method in ("GET", "HEAD"):
            return 0, ""
        scheme, _, key = headers.get(b"authorization", "").partition(" ")
        is_change = method not in ("GET", "HEAD", "OPTIONS") and path not in READ_BY_POST
        return self._keys.refusal(
            key.strip() if scheme.lower() == "bearer" else "", is_change=is_change
        )

    async def _body(self, headers: dict[bytes, str], receive: Receive) -> bytes | tuple[int, str]:
        """The whole body, or why it is refused."""
        limit = self._limits.max_body_bytes
        too_large = (413, f"the body has more than {limit:,} bytes")
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and int(length[:20]) > limit:
            return too_large
        parts, num_bytes, most = [], 0, _LARGEST_AT_ONCE * limit
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return 400, "the client went away"
                    parts.append(message.get("body", b""))
                    num_bytes += len(parts[-1])
                    self._num_bytes += len(parts[-1])
                    if num_bytes > limit:
                        return too_large
                    if self._num_bytes > most and num_bytes > most // self._limits.max_connections:
                        return 429, "too many large requests are open; try again"
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            return 408, f"the body did not arrive within {self._limits.body_timeout_s:g} s"
        finally:
            self._num_bytes -= num_bytes
        body = b"".join(parts)
        if sum(map(body.count, (b",", b"[", b"{"))) > MAX_MARKS:
            return 413, f"the body has more than {MAX_MARKS:,} commas and brackets: send less"
        return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body once, then waits for the client to go away."""
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _is_of_this_machine(headers: dict[bytes, str]) -> bool:
    """Whether Host is a loopback name and Origin, if any, the server itself: a page of another
    site, or a name that was bound to this address, gets nothing."""
    host, origin = headers.get(b"host", ""), headers.get(b"origin", "")
    try:
        is_own = not origin or urlsplit(origin).netloc == host
        return is_own and urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:  # brackets that hold no address
        return False


def gated(app: ASGIApp, recipe: ServeRecipe, count: Callable[[Scope, int], None]) -> Gate:
    """The app behind the gate; ConfigError where keys are needed and missing. `count` is told the
    status of every answer."""
    keys = Keys.of_environment()
    keys.check_host(recipe)
    return Gate(app, recipe, keys, count)
