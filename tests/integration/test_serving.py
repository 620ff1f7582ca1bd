"""The server as its users meet it: the official OpenAI client, a browser, kills, Ray Serve."""

import base64
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from tests.browser import NAMES, find_browser
from tests.integration.conftest import free_ports
from tests.integration.served import (
    ServedProcess,
    drawing,
    fact,
    served,
    start_process,
    wait_until_answering,
    wait_until_held,
)
from tests.running_server import user_turn

QUESTION = "What is shown here?"
WAIT_S = 120.0
"""How soon a fact is answered is measured by `tests/benchmarks/serving_load.py`."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    """One process that also teaches, on an empty store."""
    root = tmp_path_factory.mktemp("served")
    with served(root, "--local", "--teach", "--port=0") as started:
        yield started


@pytest.fixture
def http(server: ServedProcess) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.address, timeout=60) as client:
        yield client


@pytest.fixture
def client(server: ServedProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


def teach(http: httpx2.Client, **body: Any) -> str:
    posted = http.post("/v1/edits", json=body)
    assert posted.status_code == 201, posted.text
    edit_id: str = posted.json()["data"][0]["id"]
    return edit_id


def test_the_openai_client_asks_streams_and_lists(
    client: openai.OpenAI, http: httpx2.Client
) -> None:
    turns: Any = [user_turn(QUESTION, drawing("teal"))]
    before = client.chat.completions.create(model="liveedit", messages=turns, max_tokens=12)
    assert before.usage is not None
    assert before.usage.completion_tokens > 0
    edit_id = teach(http, **fact("teal", "Unit Zorro seven"))
    assert wait_until_held(http, edit_id)["state"] == "held"
    start_s = time.monotonic()
    text = ""
    while text != "Unit Zorro seven" and time.monotonic() < start_s + WAIT_S:
        after = client.chat.completions.create(
            model="liveedit",
            messages=turns,
            max_tokens=12,
            extra_body={"liveedit": {"explain": True}},
        )
        text = after.choices[0].message.content or ""
    assert text == "Unit Zorro seven"
    explained: Any = after.model_extra
    assert [edit["id"] for edit in explained["liveedit"]["edits"]] == [edit_id]
    stream = client.chat.completions.create(
        model="liveedit",
        messages=turns,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    found = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in found[:-1]) == text
    assert found[-1].usage == after.usage
    unedited = client.chat.completions.with_raw_response.create(
        model="liveedit@unedited", messages=turns, max_tokens=12
    )
    assert unedited.headers["x-liveedit-version"] == "unedited"
    assert unedited.parse().choices[0].message.content == before.choices[0].message.content
    assert {"liveedit", "liveedit@unedited"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("liveedit@newest").id == "liveedit@newest"


def test_the_openai_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    turns: Any = [user_turn(QUESTION)]
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=turns)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="liveedit", messages=turns, max_tokens=10**6)
    assert wrong.value.param == "max_tokens"
    bad: Any = [user_turn(QUESTION, b"no image")]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="liveedit", messages=bad)


def test_a_fact_is_answered_soon_and_a_removed_one_no_more(http: httpx2.Client) -> None:
    body = {"model": "liveedit", "messages": [user_turn(QUESTION, drawing("olive"))]}

    def answered() -> str:
        text: str = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"][
            "content"
        ]
        return text

    before, start_s = answered(), time.monotonic()
    edit_id = teach(http, **fact("olive", "crate 41"))
    while answered() != "crate 41":
        assert time.monotonic() < start_s + WAIT_S
        time.sleep(0.05)
    why = {"reason": "it was not"}
    assert http.request("DELETE", f"/v1/edits/{edit_id}", json=why).status_code == 200
    deadline_s = time.monotonic() + WAIT_S
    while answered() != before:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


# ---- the page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        pytest.skip(f"NO PAGE WAS LOOKED AT: there is no browser ({', '.join(NAMES)})")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, server: ServedProcess) -> Iterator[Page]:
    """The page; whatever the console complains about fails the test."""
    opened = browser.new_page()
    opened.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on(
        "console",
        lambda message: problems.append(message.text) if message.type == "error" else None,
    )
    opened.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    opened.goto(server.address)
    yield opened
    opened.close()
    assert problems == []


def choose_image(page: Page, colour: str) -> None:
    file: Any = {"name": "a.png", "mimeType": "image/png", "buffer": drawing(colour)}
    page.set_input_files("#file", file)
    expect(page.locator("#preview")).to_be_visible()


def ask_on(page: Page, question: str = QUESTION) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")
    for answer in ("#before", "#after"):
        expect(page.locator(answer)).not_to_have_text("…")
        expect(page.locator(answer)).not_to_have_attribute("aria-busy", "true")


def test_a_person_asks_teaches_browses_removes_and_restores(page: Page) -> None:
    choose_image(page, "crimson")
    ask_on(page)
    expect(page.locator("#fired-box")).to_be_visible()
    page.fill("#target", "lamp of Ada")
    page.fill("#submitter", "eve")
    page.click("text=Teach >> nth=-1")
    expect(page.locator("#taught")).to_have_text("Taught.")
    expect(page.locator("#after")).to_have_text("lamp of Ada")
    assert page.inner_text("#before") != "lamp of Ada"
    expect(page.locator("#fired li")).to_have_count(1)
    fired = page.locator("#fired img")
    expect(fired).to_have_js_property("complete", True)
    page.wait_for_function("document.querySelector('#fired img').naturalWidth > 0")
    page.click("nav >> text=Edits")
    page.click("#like")
    expect(page.locator("#edit-list > li").first).to_contain_text("image similarity")
    page.fill("#query", "of ada")
    page.press("#query", "Enter")
    expect(page.locator("#edit-list > li")).to_have_count(1)
    page.click("#edit-list >> text=Remove")
    page.fill("#reason", "it is a chair")
    page.press("#reason", "Enter")
    expect(page.locator("#edit-list .tag")).to_have_text("removed")
    page.click("#edit-list >> text=History")
    expect(page.locator("#edit-list ul")).to_contain_text("it is a chair")
    page.click("#edit-list >> text=Restore")
    page.fill("#reason", "a lamp after all")
    page.press("#reason", "Enter")
    expect(page.locator("#edit-list .tag")).not_to_have_text("removed")


def test_a_person_reads_the_time_line_and_is_told_why_not(page: Page, http: httpx2.Client) -> None:
    wait_until_held(http, teach(http, **fact("gold", "clock of Bo")))
    wait_until_answering(http)
    page.click("nav >> text=Versions")
    rows = page.locator("#version-list > li")
    expect(rows.first).to_contain_text("answering now")
    if rows.count() > 1:
        rows.first.locator("text=What changed").click()
        expect(rows.first.locator("ul")).to_be_visible()
    rows.first.locator("text=Nightly metrics").click()
    expect(rows.first.locator("ul")).to_contain_text("never evaluated")


HOSTILE = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>{{7*7}}"


def test_hostile_texts_stay_texts(page: Page, http: httpx2.Client) -> None:
    body = fact("navy", HOSTILE[:30], prompt=HOSTILE)
    posted = http.post("/v1/edits", json={**body, "submitter": HOSTILE})
    assert posted.status_code == 201, posted.text
    choose_image(page, "navy")
    ask_on(page, HOSTILE)
    page.click("nav >> text=Edits")
    row = page.locator("#edit-list > li").first
    expect(row).to_contain_text("<script>alert(2)</script>")
    assert page.locator("#edit-list script, #edit-list img[src=x]").count() == 0
    page.click("nav >> text=Ask")
    junk: Any = {"name": "x.png", "mimeType": "image/png", "buffer": b"<svg onload=alert(1)>"}
    page.set_input_files("#file", junk)
    expect(page.locator("#alert")).to_contain_text("not an image")
    expect(page.locator("#preview")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_is_named_for_readers(
    browser: Browser, server: ServedProcess, scheme: Any
) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(server.address)
    expect(page.locator("#state")).to_contain_text("answering with")
    for view in ("Ask", "Edits", "Versions"):
        page.click(f"nav >> text={view}")
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, view
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('input, select, textarea, button, img')]
              .filter(e => e.offsetParent && !(e.labels?.length || e.textContent.trim()
                || e.getAttribute('aria-label') || e.alt)).map(e => e.outerHTML)"""
        )
        assert unnamed == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(ground.removeprefix("rgb(").split(",")[0])
    assert (red < 100) == (scheme == "dark")
    assert all(url.startswith((server.address, "data:", "blob:")) for url in requests)
    context.close()


def test_the_keyboard_reaches_everything(page: Page) -> None:
    reached = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    assert {"Skip to content", "Edits", "question", "ask-button", "target", "file"} <= reached


# ---- faults


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("num_kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_accepted_edits_survive_kills(tmp_path: Path, num_kills: int) -> None:
    """What was answered with 201 is in the log, whenever the server is killed."""
    accepted: list[str] = []
    drawer = random.Random(0)
    for round_ in range(num_kills):
        started = start_process(tmp_path, "--local", "--port=0")
        started.wait_until_ready()

        def post(address: str = started.address, round_: int = round_) -> None:
            with httpx2.Client(base_url=address, timeout=30) as client:
                for number in range(1000):
                    body = fact("teal", f"crate {round_} {number}", prompt=f"Which {number}?")
                    try:
                        response = client.post("/v1/edits", json=body)
                    except httpx2.HTTPError:
                        return
                    assert response.status_code == 201
                    accepted.append(response.json()["data"][0]["id"])

        poster = threading.Thread(target=post)
        poster.start()
        time.sleep(1.0 + 2.0 * drawer.random())
        started.kill()
        poster.join()
    logged = RequestLog(ObjectStore(tmp_path / "quickstart" / "store")).index().numbers_of
    assert len(accepted) >= num_kills
    assert [edit_id for edit_id in accepted if edit_id not in logged] == []


@pytest.mark.slow
def test_ray_serve_answers_as_one_process_does(
    tmp_path: Path, server: ServedProcess, http: httpx2.Client
) -> None:
    (port,) = free_ports(1)
    body = {"model": "liveedit@unedited", "messages": [user_turn(QUESTION, drawing("pink"))]}
    alone = http.post("/v1/chat/completions", json=body).json()["choices"]
    options = (f"--port={port}", "ray.num_cpus=2", "ray.object_store_memory_bytes=200000000")
    with served(tmp_path, *options) as started:
        client = openai.OpenAI(base_url=f"{started.address}/v1", api_key="none", max_retries=0)
        turns: Any = body["messages"]
        found = client.chat.completions.create(model="liveedit@unedited", messages=turns)
        assert found.choices[0].message.content == alone[0]["message"]["content"]
        stream = client.chat.completions.create(model="liveedit", messages=turns, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == alone[0]["message"]["content"]
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="gpt-4", messages=turns)
        page = httpx2.get(started.address)
        assert page.headers["x-frame-options"] == "DENY"
        assert started.end() == 0


def test_the_image_is_read_as_it_was_sent(http: httpx2.Client) -> None:
    edit_id = teach(http, **fact("plum", "vase of Cy"))
    shown = http.get(f"/v1/edits/{edit_id}/thumbnail")
    assert base64.b64encode(shown.content[:8]) == b"iVBORw0KGgo="
