"""/v1/chat/completions and /v1/models, as OpenAI's clients use them."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from fastapi import Request
from starlette.testclient import TestClient

from liveedit_core.backbones.protocol import BackboneInput
from pipelines.serving import chat
from pipelines.serving.answers import Question, Sampling, Text
from pipelines.serving.chat import Answer
from pipelines.serving.chat_request import ChatRequest
from tests.running_server import Place, chat_body, data_uri, user_turn
from tests.tiny_backbone import image, tiny_backbone

CHAT = "/v1/chat/completions"


def unedited_answer(text: str, seed: int | None, max_tokens: int = 6) -> str:
    item = BackboneInput(prompt=text, image_bytes=None if seed is None else image(seed))
    options = {"max_new_tokens": max_tokens, "do_sample": False}
    return tiny_backbone().continuations([item], None, **options)[0].texts[0]


def chunks(client: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The parsed events of a stream, which must end as OpenAI's do."""
    with client.stream("POST", CHAT, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.mark.parametrize("seed", [None, 900])
def test_an_answer_is_that_of_the_model_and_names_its_version(
    client: TestClient, seed: int | None
) -> None:
    response = client.post(CHAT, json=chat_body(seed=seed, model="liveedit@unedited"))
    assert response.status_code == 200
    content = response.json()
    assert response.headers["x-liveedit-version"] == "unedited"
    assert (content["object"], content["model"]) == ("chat.completion", "liveedit@unedited")
    (choice,) = content["choices"]
    assert choice["message"]["content"] == unedited_answer("What is shown here?", seed)
    usage = content["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert "liveedit" not in content
    assert client.post(CHAT, json=chat_body()).headers["x-liveedit-version"] == "v3"


def test_a_stream_says_the_same_and_explains_before_its_first_word(client: TestClient) -> None:
    body = chat_body(seed=1, liveedit={"explain": True})
    whole = client.post(CHAT, json=body).json()
    found = chunks(client, {**body, "stream_options": {"include_usage": True}})
    texts = [c["choices"][0]["delta"].get("content", "") for c in found[:-1]]
    assert "".join(texts) == whole["choices"][0]["message"]["content"]
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert found[0]["liveedit"] == whole["liveedit"]
    assert found[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert found[-1]["choices"] == []
    assert found[-1]["usage"] == whole["usage"]
    assert len({c["id"] for c in found}) == 1


def test_an_explanation_names_the_edits_and_what_they_taught(place: Place) -> None:
    with place.client() as client:
        asked = [chat_body(seed=seed, liveedit={"explain": True}) for seed in range(1, 6)]
        found = [client.post(CHAT, json=body).json()["liveedit"] for body in asked]
    assert {item["version"] for item in found} == {"v3"}
    edits = [edit for item in found for edit in item["edits"]]
    assert edits, "some random expert must be kept"
    assert all(edit["prompt"] and edit["target"] and 0 <= edit["weight"] <= 1 for edit in edits)
    assert {item["turns_read"] for item in found} == {1}


def test_several_answers_stops_and_seeds(client: TestClient) -> None:
    drawn = {**chat_body(n=3, temperature=1.5), "seed": 7}
    first, second = (client.post(CHAT, json=drawn).json()["choices"] for _ in range(2))
    assert [c["message"]["content"] for c in first] == [c["message"]["content"] for c in second]
    assert [c["index"] for c in first] == [0, 1, 2]
    assert len({c["message"]["content"] for c in first}) > 1
    streamed = chunks(client, drawn)
    assert {c["choices"][0]["index"] for c in streamed} == {0, 1, 2}
    text = unedited_answer("What is shown here?", 900, 12)
    stop = text[3:5]
    stopped = client.post(
        CHAT, json=chat_body(seed=900, model="liveedit@unedited", max_tokens=12, stop=[stop])
    ).json()["choices"][0]
    assert stopped["message"]["content"] == text[: text.index(stop)]
    assert stopped["finish_reason"] == "stop"


def test_the_newest_image_and_the_last_question_count(client: TestClient) -> None:
    """This model has no chat template: what was said before is not read, and it says so."""
    conversation = [
        {"role": "system", "content": "Be brief."},
        user_turn("What is shown here?", image(901)),
        {"role": "assistant", "content": "A boat."},
        user_turn("Who made this?"),
    ]
    body = {**chat_body(model="liveedit@unedited"), "messages": conversation}
    answered = client.post(CHAT, json={**body, "liveedit": {"explain": True}}).json()
    assert answered["choices"][0]["message"]["content"] == unedited_answer("Who made this?", 901)
    assert answered["liveedit"]["turns_read"] == 1


def wrong_bodies() -> Iterator[tuple[dict[str, Any], int, str]]:
    two_images = user_turn("Which?", image(1))
    two_images["content"].insert(0, two_images["content"][0])
    hostile = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
    yield chat_body(model="gpt-4"), 404, "model_not_found"
    yield chat_body(model="liveedit@v99"), 404, "model_not_found"
    yield chat_body(model="liveedit@"), 404, "model_not_found"
    yield chat_body(max_tokens=100_000), 400, "invalid_value"
    yield chat_body(n=1000), 400, "invalid_value"
    yield chat_body(temperature=-1), 400, "invalid_value"
    yield chat_body(temperature="hot"), 400, "invalid_value"
    yield chat_body(tools=[]), 400, "unknown_parameter"
    yield chat_body(messages=[]), 400, "invalid_value"
    yield chat_body(messages=[{"role": "assistant", "content": "Hi"}]), 400, "invalid_value"
    yield chat_body(messages=[two_images]), 400, "too_many_images"
    yield chat_body(" "), 400, "invalid_input"
    yield chat_body("word " * 300), 400, "invalid_input"
    yield chat_body("<image> what?"), 400, "invalid_input"
    yield chat_body(messages=[{"role": "user", "content": [hostile]}]), 400, "invalid_input"
    for url in ("data:image/png;base64,!!!", "data:,x", "http://127.0.0.1/x.png", "http://[", ""):
        part = {"type": "image_url", "image_url": {"url": url}}
        text = {"type": "text", "text": "What?"}
        yield chat_body(messages=[{"role": "user", "content": [part, text]}]), 400, "invalid_input"


@pytest.mark.parametrize(("body", "status", "code"), list(wrong_bodies()))
def test_what_is_wrong_is_refused_in_openais_shape(
    client: TestClient, body: dict[str, Any], status: int, code: str
) -> None:
    response = client.post(CHAT, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], bool(error["message"])) == (code, True)
    assert "Traceback" not in response.text


def test_no_answer_is_lost_for_want_of_room_without_being_told(place: Place) -> None:
    with place.client("batch.max_waiting=1", "batch.max_running=1") as client:
        refused = client.post(CHAT, json=chat_body(n=3))
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_models_are_listed_with_their_lineage(client: TestClient, place: Place) -> None:
    place.operations.bank.versions.tag("blue", 2)
    listed = client.get("/v1/models").json()["data"]
    names = [item["id"] for item in listed]
    assert names[:4] == ["liveedit", "liveedit@unedited", "liveedit@newest", "liveedit@blue"]
    assert names[4:] == ["liveedit@v3", "liveedit@v2"]
    assert listed[0]["liveedit"]["bank_version"] == 3
    assert listed[0]["liveedit"]["num_edits"] == 5
    for name in names:
        shown = client.get(f"/v1/models/{name}").json()
        assert (shown["id"], shown["object"]) == (name, "model")
        answered = client.post(CHAT, json=chat_body(model=name))
        assert answered.status_code == 200
        assert answered.headers["x-liveedit-version"] == shown["liveedit"]["version"]
    assert client.get("/v1/models/nothing").status_code == 404


def test_metrics_tell_what_happened(client: TestClient) -> None:
    client.post(CHAT, json=chat_body())
    client.post(CHAT, json=chat_body(n=0))
    client.get("/no/such/path")
    lines = client.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    counted = {key: value for key, value in values.items() if "liveedit_requests_total" in key}
    assert counted['liveedit_requests_total{path="/v1/chat/completions",status="200"}'] == "1.0"
    assert counted['liveedit_requests_total{path="/v1/chat/completions",status="400"}'] == "1.0"
    assert counted['liveedit_requests_total{path="other",status="404"}'] == "1.0"
    assert values["liveedit_bank_version"] == "3.0"
    assert float(values["liveedit_generated_tokens_total"]) >= 1
    assert values["liveedit_index_questions_total"] == "0.0"  # no large bank
    assert values["liveedit_index_missed_experts_total"] == "0.0"
    assert values["liveedit_time_to_first_token_seconds_count"] == "1.0"


def test_an_image_is_named_by_data_only(client: TestClient) -> None:
    body = chat_body()
    body["messages"][0]["content"][0]["image_url"]["url"] = data_uri(b"GIF89a" + b"\0" * 64)
    response = client.post(CHAT, json=body)
    assert response.status_code == 400
    assert "image" in response.json()["error"]["message"]


def test_an_answer_that_nobody_waits_for_ends_while_its_tokens_come(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone:
        async def is_disconnected(self) -> bool:
            return True

    async def told(answer: Answer) -> None:
        async def go_on() -> None:
            while True:
                answer.events.put_nowait((0, Text("more ")))
                await asyncio.sleep(0.01)

        endless = asyncio.create_task(go_on())
        async with asyncio.timeout(30):
            async for _ in answer.told(cast(Request, Gone())):
                pass
        endless.cancel()

    monkeypatch.setattr(chat, "_LOOK_S", 0.1)
    service = place.service()
    try:
        version = service.versions.named("liveedit@unedited")
        question = Question(
            item=BackboneInput(prompt="?"),
            version=version,
            sampling=Sampling(max_tokens=1),
            on_event=print,
        )
        request = ChatRequest.model_validate(chat_body())
        asyncio.run(
            told(Answer(service=service, request=request, version=version, questions=[question]))
        )
        assert question.is_cancelled
    finally:
        service.close()
