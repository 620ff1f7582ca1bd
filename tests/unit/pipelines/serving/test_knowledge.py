"""/v1/edits and /v1/versions: logged before they are answered, applied by the bank's writer."""

import io

import pytest
from PIL import Image
from starlette.testclient import TestClient

from infra.requests.request_log import RequestLog
from liveedit_core.method.generator import LiveEditGenerator
from tests.running_server import Place, data_uri
from tests.tiny_backbone import case, image, plain_convolutions, request
from tests.unit.tiny_operations import SyntheticEvaluation

WHY = {"reason": "wrong catalogue", "author": "anna"}


def edit_body(seed: int = 50, **more: object) -> dict[str, object]:
    edit = request(seed)
    return {
        "image": data_uri(edit.image_bytes or b""),
        "prompt": edit.prompt,
        "target": edit.target,
        "submitter": "anna",
        **more,
    }


def test_an_edit_is_logged_once_however_often_it_is_posted(
    client: TestClient, place: Place
) -> None:
    first, again = (client.post("/v1/edits", json=edit_body()) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    (one,), (two,) = (response.json()["data"] for response in (first, again))
    assert one["id"] == two["id"] == request(50).edit_id
    assert (one["is_new"], two["is_new"]) == (True, False)
    log = RequestLog(place.operations.store)
    assert [header.submitter for header in log.headers(edit_ids=[one["id"]])] == ["anna"]
    shown = client.get(f"/v1/edits/{one['id']}").json()
    assert (shown["state"], shown["prompt"]) == ("pending", request(50).prompt)
    place.operations.commit([case(50)])
    shown = client.get(f"/v1/edits/{one['id']}").json()
    assert shown["state"] in ("held", "superseded")
    assert [event["event"] for event in shown["history"]][:2] == ["submitted", "added"]


def test_good_edits_of_a_request_are_taken_and_bad_ones_named(client: TestClient) -> None:
    bad = edit_body(51, target=" ")
    bomb = edit_body(52, image=data_uri(b"\x89PNG\r\n\x1a\n" + b"\0" * 100))
    response = client.post("/v1/edits", json={"edits": [edit_body(53), bad, bomb]})
    assert response.status_code == 201
    rows = response.json()["data"]
    assert [row["status"] for row in rows] == ["accepted", "refused", "refused"]
    assert "target" in rows[1]["reason"]
    alone = client.post("/v1/edits", json=bad)
    assert alone.status_code == 400
    assert alone.json()["error"]["code"] == "EmptyText"
    for body, place in (
        ({"edits": []}, "edits"),
        ({"edits": [edit_body(53), {"image": "x", "target": "y"}]}, "edits.1.prompt"),
        ({"image": "x", "target": "y"}, "prompt"),
    ):
        wrong = client.post("/v1/edits", json=body)
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, place)
    backbone_says = client.post("/v1/edits", json=edit_body(54, prompt="What is <image> here?"))
    assert backbone_says.status_code == 400
    assert client.post("/v1/edits", json=edit_body(1, note="x")).status_code == 400
    long = client.post("/v1/edits", json=edit_body(54, target="word " * 90))
    assert "tokens" in long.json()["error"]["message"]


@pytest.mark.parametrize("body", [{"image": None}, {}])
def test_an_edit_without_an_image_is_logged_where_prompts_have_keys(
    client: TestClient, place: Place, monkeypatch: pytest.MonkeyPatch, body: dict[str, None]
) -> None:
    fact = {**body, "prompt": "Who founded it?", "target": "Anna"}
    refused = client.post("/v1/edits", json=fact)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "ImageMissing"
    monkeypatch.setattr(LiveEditGenerator, "can_route_texts", True)
    (row,) = client.post("/v1/edits", json=fact).json()["data"]
    (logged,) = RequestLog(place.operations.store).find([row["id"]])
    assert (logged.request.image_bytes, logged.request.target) == (None, "Anna")
    assert client.get(f"/v1/edits/{row['id']}").json()["has_image"] is False
    assert client.get(f"/v1/edits/{request(1).edit_id}").json()["has_image"] is True
    assert client.get(f"/v1/edits/{row['id']}/thumbnail").status_code == 404


def test_edits_are_found_by_text_submitter_state_and_image(client: TestClient) -> None:
    client.post("/v1/edits", json=edit_body(60, target="golden raven"))

    def found(**query: object) -> list[str]:
        response = client.get("/v1/edits", params=query)  # type: ignore[arg-type]
        assert response.status_code == 200, response.text
        return [row["id"] for row in response.json()["data"]]

    assert len(found()) == 6
    assert len(found(submitter="anna")) == 1
    assert len(found(state="pending")) == 1
    assert found(q="GOLDEN", state="pending") == found(submitter="anna")
    assert found(q="no such words") == []
    page = client.get("/v1/edits", params={"limit": 4}).json()
    assert (page["total"], page["has_more"], page["next_offset"]) == (6, True, 4)
    assert len(found(limit=4, offset=4)) == 2
    assert client.get("/v1/edits", params={"limit": 0}).status_code == 400
    assert client.get("/v1/edits", params={"state": "lost"}).status_code == 400
    with plain_convolutions():
        body = {"image": data_uri(image(4)), "limit": 3}
        near = client.post("/v1/edits/search", json=body).json()["data"]
    assert {row["id"] for row in near} <= {request(n).edit_id for n in range(1, 6)}
    assert len(near) == 3
    likeness = [row["image_similarity"] for row in near]
    assert likeness == sorted(likeness, reverse=True)


def test_a_thumbnail_is_drawn_anew(client: TestClient) -> None:
    response = client.get(f"/v1/edits/{request(1).edit_id}/thumbnail")
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).size == (64, 64)
    assert client.get(f"/v1/edits/{'0' * 64}/thumbnail").status_code == 404
    assert client.get("/v1/edits/..%2Fetc/thumbnail").status_code in (400, 404)


def test_a_removal_is_decided_here_and_done_by_the_writer(client: TestClient, place: Place) -> None:
    edit_id, bank = request(1).edit_id, place.operations.bank
    assert client.request("DELETE", f"/v1/edits/{edit_id}", json={}).status_code == 400
    removed = client.request("DELETE", f"/v1/edits/{edit_id}", json=WHY)
    assert removed.json()["state"] == "removed"
    bank.apply_changes(epoch=place.operations.epoch)
    assert edit_id not in bank.edit_ids()
    restored = client.post(f"/v1/edits/{edit_id}/restore", json=WHY)
    assert restored.status_code == 200
    bank.apply_changes(epoch=place.operations.epoch)
    assert edit_id in bank.edit_ids()
    events = client.get(f"/v1/edits/{edit_id}").json()["history"]
    reasons = [event["reason"] for event in events if "decided" in event["event"]]
    assert reasons == ["wrong catalogue"] * 2


@pytest.mark.parametrize("text", ["\0", "a\x1b[2J", "\u202egnp", "\u200b", " "])
@pytest.mark.parametrize("name", ["reason", "author"])
def test_who_and_why_are_texts_that_a_reader_sees(client: TestClient, name: str, text: str) -> None:
    edit = f"/v1/edits/{request(1).edit_id}"
    for method, path in (
        ("DELETE", edit),
        ("POST", f"{edit}/restore"),
        ("POST", "/v1/versions/1/promote"),
        ("POST", "/v1/versions/rollback"),
    ):
        refused = client.request(method, path, json={**WHY, name: text})
        assert refused.status_code == 400
        assert name in refused.json()["error"]["message"]
    assert client.get(edit).json()["state"] != "removed"


def test_the_time_line_says_what_changed(client: TestClient, place: Place) -> None:
    place.operations.bank.versions.tag("blue", 2)
    versions = client.get("/v1/versions").json()["data"]
    assert [item["id"] for item in versions] == ["v3", "v2"]
    assert [item["is_answering"] for item in versions] == [True, False]
    assert (versions[1]["tags"], versions[0]["num_added"]) == (["blue"], 2)
    diff = client.get("/v1/versions/3/diff", params={"base": 2}).json()
    assert {row["id"] for row in diff["added"]} == {request(n).edit_id for n in (4, 5)}
    assert {row["target"] for row in diff["added"]} == {request(n).target for n in (4, 5)}
    for path in ("/v1/versions/77/diff?base=2", "/v1/versions/3/diff?base=77"):
        assert client.get(path).status_code == 404
    assert client.get("/v1/versions/3/evaluation").json()["metrics"] == {}


def test_a_promotion_passes_the_gates_or_says_which_one_failed(place: Place) -> None:
    operations = place.operations
    first = operations.registry.register_bank_version(operations.bank, 2)
    with place.client(f"operations={operations.operations_store.root_uri}") as client:
        refused = client.post("/v1/versions/2/promote", json=WHY)
        assert refused.status_code == 409
        assert any("never evaluated" in text for text in refused.json()["error"]["refusals"])
        assert client.post("/v1/versions/3/promote", json=WHY).status_code == 409
        assert client.post("/v1/versions/rollback", json=WHY).status_code == 409
        assert operations.alias("champion") == 0
        SyntheticEvaluation(operations).record(first)
        found = client.get("/v1/versions/2/evaluation").json()
        assert found["metrics"]["reliability.teacher_forced"] == 1.0
        strict = client.post("/v1/versions/2/promote", json=WHY).json()["error"]
        assert any("min_samples" in text for text in strict["refusals"])
        operations.versions.set_alias("liveedit-bank", "champion", first.version)
        answering = client.get("/v1/versions").json()["data"]
        assert answering[1]["is_champion"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "PATCH"])
def test_no_path_answers_a_method_that_it_has_not(client: TestClient, method: str) -> None:
    response = client.request(method, "/v1/nothing")
    assert response.status_code in (404, 405)
    assert response.json()["error"]["message"]
