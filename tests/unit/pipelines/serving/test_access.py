"""The gate: keys, origin, limits, headers; and whatever arrives, a reason and no traceback."""

import asyncio
import json
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from liveedit_core.errors import ConfigError
from pipelines.serving.access import EDIT_KEY, READ_KEY, Gate, Keys
from pipelines.serving.recipe import HttpSection, ServeRecipe
from tests.running_server import EDIT, READ, Place, chat_body

CHAT = "/v1/chat/completions"


@pytest.fixture
def locked(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv(READ_KEY, READ)
    monkeypatch.setenv(EDIT_KEY, EDIT)
    with place.client("http.max_body_bytes=20000") as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_every_path_but_health_and_the_page_needs_a_key(locked: TestClient) -> None:
    for path in ("/health", "/ready", "/", "/page.js", "/page.css"):
        assert locked.get(path).status_code == 200, path
    for path in (
        "/v1/models",
        "/v1/edits",
        "/v1/versions",
        "/metrics",
        "/v1/status",
        "/openapi.json",
    ):
        assert locked.get(path).status_code == 401, path
        assert locked.get(path, headers=bearer("wrong")).status_code == 401, path
        assert locked.get(path, headers=bearer(READ)).status_code == 200, path
        assert locked.get(path, headers=bearer(EDIT)).status_code == 200, path
    refused = locked.post(CHAT, json=chat_body())
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"]["type"] == "authentication_error"
    assert locked.post(CHAT, json=chat_body(), headers=bearer(READ)).status_code == 200


def test_knowledge_is_changed_with_the_second_key_only(locked: TestClient) -> None:
    for method, path in (
        ("POST", "/v1/edits"),
        ("DELETE", f"/v1/edits/{'0' * 64}"),
        ("POST", f"/v1/edits/{'0' * 64}/restore"),
        ("POST", "/v1/versions/3/promote"),
        ("POST", "/v1/versions/rollback"),
    ):
        assert locked.request(method, path, json={}).status_code == 401
        refused = locked.request(method, path, json={}, headers=bearer(READ))
        assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
        assert locked.request(method, path, json={}, headers=bearer(EDIT)).status_code == 400


@pytest.mark.parametrize(
    ("keys", "key", "is_change", "status"),
    [
        (Keys(), "", True, 0),
        (Keys(read="r"), "r", True, 403),
        (Keys(read="r"), "", False, 401),
        (Keys(edit="e"), "", False, 0),
        (Keys(edit="e"), "", True, 401),
        (Keys(read="r", edit="e"), "", True, 401),
        (Keys(read="r", edit="e"), "é", False, 401),
    ],
)
def test_which_key_opens_what(keys: Keys, key: str, is_change: bool, status: int) -> None:
    assert keys.refusal(key, is_change=is_change)[0] == status


def test_others_are_served_with_both_keys_only(place: Place) -> None:
    recipe = place.recipe("host=0.0.0.0")
    for keys in (Keys(), Keys(read="r"), Keys(edit="e")):
        with pytest.raises(ConfigError, match=READ_KEY):
            keys.check_host(recipe)
    Keys(read="r", edit="e").check_host(recipe)


def test_pages_of_other_sites_get_nothing(client: TestClient) -> None:
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
    strange = {"Origin": "https://evil.example"}
    assert client.post(CHAT, json=chat_body(), headers=strange).status_code == 403
    assert client.get("/v1/models", headers={"Host": "["}).status_code == 403
    for origin in ("http://[", "http://[::1", "http://a]b", "null"):
        assert client.get("/v1/models", headers={"Origin": origin}).status_code == 403, origin
    own = {"Origin": "http://127.0.0.1"}
    assert client.get("/v1/models", headers=own).status_code == 200


def test_what_is_read_without_a_key_is_read_on_this_machine_only(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EDIT_KEY, EDIT)
    with place.client() as client:
        assert client.get("/v1/models").status_code == 200
        for strange in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            assert client.get("/v1/models", headers=strange).status_code == 403, strange


def test_sizes_are_limited_and_headers_are_safe(locked: TestClient) -> None:
    large = locked.post(CHAT, content=b"x" * 30_000, headers=bearer(READ))
    assert (large.status_code, large.json()["error"]["type"]) == (413, "invalid_request_error")
    lying = locked.post(CHAT, content=(b"x" * 10_000 for _ in range(3)), headers=bearer(READ))
    assert lying.status_code == 413
    for response in (large, locked.get("/"), locked.get("/v1/nothing", headers=bearer(READ))):
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "body",
    [
        b"{%s}" % b",".join(b'"k%d":0' % number for number in range(60_000)),
        b'{"prompt":"a","target":"b","also_asked":[%s1]}' % (b"1," * 60_000),
        b"[" * 60_000,
        b'{"edits":' * 60_000,
    ],
)
def test_bodies_of_very_many_values_are_refused_before_they_are_read(
    client: TestClient, body: bytes
) -> None:
    """Each value costs a thousand times its bytes to be refused."""
    for path in (CHAT, "/v1/edits"):
        with patch.object(Request, "json", side_effect=AssertionError):
            refused = client.post(path, content=body, headers={"content-type": "application/json"})
        assert refused.status_code == 413
        assert "commas and brackets" in refused.json()["error"]["message"]
    assert client.post(CHAT, json=chat_body(", [" * 600)).status_code == 400  # its length
    assert client.post(CHAT, json=chat_body("a, b, c")).status_code == 200


def test_large_bodies_at_one_time_are_bounded_and_small_ones_pass() -> None:
    """Eight of the largest size; each request always has its share of that."""
    recipe = ServeRecipe().with_changes(http=HttpSection(max_body_bytes=1_000, max_connections=10))
    statuses: dict[int, int] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse(len((await receive())["body"]))(scope, receive, send)

    gate = Gate(app, recipe, Keys(), lambda scope, status: None)

    async def ask(number: int, size: int, ends: asyncio.Event) -> None:
        parts = [(size // 2, True), (size - size // 2, True), (0, False)]

        async def receive() -> Message:
            if len(parts) == 1:
                await ends.wait()
            length, has_more = parts.pop(0)
            return {"type": "http.request", "body": b"x" * length, "more_body": has_more}

        async def send(message: Message) -> None:
            statuses[number] = message.get("status", statuses.get(number, 0))

        headers = [(b"host", b"127.0.0.1")]
        scope = {"type": "http", "path": "/", "method": "POST", "headers": headers}
        await gate(scope, receive, send)

    async def all_of_them() -> None:
        held, now = asyncio.Event(), asyncio.Event()
        now.set()
        waiting = [asyncio.create_task(ask(number, 1_000, held)) for number in range(8)]
        await asyncio.sleep(0.05)
        await ask(8, 1_000, now)
        await ask(9, 700, now)
        held.set()
        await asyncio.gather(*waiting)
        await ask(10, 1_000, now)

    asyncio.run(all_of_them())
    assert statuses == {**dict.fromkeys(range(8), 200), 8: 429, 9: 200, 10: 200}


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["model", "messages", "max_tokens", "temperature", "top_p", "n", "stop", "stream", "seed", "x"]
)
BODIES = (
    st.binary(max_size=60)
    | ANYTHING.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(FIELDS, ANYTHING, min_size=1, max_size=3).map(
        lambda changes: json.dumps({**chat_body(max_tokens=1), **changes}).encode()
    )
    | st.just(b'{"messages":' + b"[" * 20_000)
    | st.just(json.dumps(chat_body()).encode()[:-40])
    | st.just(b'{"max_tokens": ' + b"9" * 6_000 + b"}")
)
PATHS = st.sampled_from([CHAT, "/v1/edits", "/v1/edits/search", "/v1/versions/1/promote"])


def test_whatever_is_posted_is_answered_with_a_reason(client: TestClient) -> None:
    @settings(max_examples=250, suppress_health_check=list(HealthCheck))
    @given(PATHS, BODIES, st.sampled_from(["application/json", "text/plain", "", "a/b;\xff"]))
    def check(path: str, body: bytes, kind: str) -> None:
        response = client.post(
            path, content=body, headers={b"Content-Type": kind.encode("latin-1")}
        )
        assert response.status_code < 500, (path, body, response.text)
        if response.status_code != 200:
            assert response.status_code >= 400
            error = response.json()["error"]
            assert error["message"]
            assert error["type"]
            assert "Traceback" not in response.text

    check()


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_no_key_but_the_right_one_opens(key: str) -> None:
    status, reason = Keys(read=READ, edit=EDIT).refusal(key, is_change=False)
    assert (status, bool(reason)) == (401, True)
