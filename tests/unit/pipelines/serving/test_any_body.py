"""Whatever body comes, the server answers it or says what is wrong with it."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.malformed_requests import CHAT, EDITS
from tests.running_server import Place

_KEYS = st.sampled_from(
    [
        *("model", "messages", "role", "content", "type", "text", "image_url", "url", "stop", "n"),
        *("prompt", "target", "image", "also_asked", "edits", "submitter", "liveedit", "seed"),
    ]
)
_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_KEYS | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=12,
)
_CHAT = st.fixed_dictionaries(
    {
        "model": st.just("liveedit") | _JSON,
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.just("user") | _JSON, "content": _JSON}), max_size=3
        ),
        "max_tokens": st.just(2),
    }
)
_EDIT = st.fixed_dictionaries({"prompt": _JSON, "target": _JSON}, optional={"image": _JSON})
_BODIES = st.binary(max_size=60) | (_JSON | _CHAT | _EDIT).map(
    lambda body: json.dumps(body).encode()
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(path=st.sampled_from([CHAT, EDITS, f"{EDITS}/search"]), body=_BODIES)
def test_any_body_is_answered_or_refused(place: Place, path: str, body: bytes) -> None:
    with place.client() as client:
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        content = answer.json()
        reasons = [content["error"]["message"]] if "error" in content else content["data"]
        assert all(reasons)
