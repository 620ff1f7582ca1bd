"""A server over the tiny backbone and a bank on disk: in this thread, or on a port."""

import base64
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from infra.requests.request_log import RequestLog
from liveedit_core.schema import EditRequest
from pipelines.job.recipe_loader import load_recipe
from pipelines.serving.app import create_app
from pipelines.serving.recipe import ServeRecipe
from pipelines.serving.service import Service
from tests.tiny_backbone import case, image
from tests.unit.tiny_operations import Operations, TinyModels

SETTINGS = ("bank.name=main", "versions.poll_s=0.05", "limits.max_prompt_tokens=64")
READ, EDIT = "reading-key", "editing-key"


def data_uri(encoded: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(encoded).decode()}"


def user_turn(text: str, encoded: bytes | None = None) -> dict[str, Any]:
    """A message of a user as OpenAI's clients send it."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if encoded is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": data_uri(encoded)}})
    return {"role": "user", "content": content}


def chat_body(
    text: str = "What is shown here?", seed: int | None = 0, **more: Any
) -> dict[str, Any]:
    encoded = None if seed is None else image(seed)
    return {"model": "liveedit", "messages": [user_turn(text, encoded)], "max_tokens": 6, **more}


@dataclass
class Place:
    """An operations system with a request log, and what its server is made of."""

    operations: Operations

    def recipe(self, *overrides: str) -> ServeRecipe:
        settings = [f"run_root={self.operations.root}", f"store={self.operations.store.root_uri}"]
        return load_recipe(ServeRecipe, None, [*settings, *SETTINGS, *overrides])

    def service(self, *overrides: str) -> Service:
        return Service.started(self.recipe(*overrides), TinyModels(self.operations.folder))

    @contextlib.contextmanager
    def client(self, *overrides: str) -> Iterator[TestClient]:
        """A client of an app in this process."""
        service = self.service(*overrides)
        app = create_app(service)
        try:
            with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as c:
                yield c
        finally:
            service.close()

    def log_and_commit(self, *seeds: int) -> int:
        """Log requests and commit their experts, as the editing loop does."""
        requests: list[EditRequest] = [case(seed).edit for seed in seeds]
        RequestLog(self.operations.store).append(requests)
        return self.operations.commit([case(seed) for seed in seeds])


@contextlib.contextmanager
def listening(app: Any) -> Iterator[str]:
    """The address of an app on a port of loopback."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline_s = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline_s:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
